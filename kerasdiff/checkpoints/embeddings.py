"""Learnt tokens in files: the forms in which textual inversions (arXiv 2208.01618) are shared.

diffusers writes `{token: vectors}`, web UIs `{"emb_params": vectors}` with the file's name as the
token, or, in `.pt` files as the original implementation's, a table with a name; for SDXL it is
`{"clip_l": ..., "clip_g": ...}`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerasdiff.checkpoints.files import open_tensors
from kerasdiff.checkpoints.safetensor_files import write_safetensors
from kerasdiff.checkpoints.tensors import CheckpointError, Tensors, require_finite

WEB_UI = "emb_params"
ENCODERS = ("clip_l", "clip_g")
MAX_ROWS = 75  # more than a prompt holds cannot be used
FORMS = ("diffusers", "web-ui")


@dataclass(frozen=True)
class Embedding:
    """A learnt token.

    Attributes:
        token: what it is called in prompts.
        vectors: for each text encoder (n, width) float32, n alike.
    """

    token: str
    vectors: tuple


def read_embedding(path, token=None):
    """The `Embedding` in a file of any of the forms, `.safetensors`, `.pt` or `.bin`.

    Args:
        path: of the file.
        token: what to call it; None takes the name in the file, or else the file's name.

    Raises:
        CheckpointError: if the file is damaged or holds something else.
    """
    path = Path(path)
    with open_tensors(path) as tensors:
        names = list(tensors)
        if set(names) == set(ENCODERS):
            names = list(ENCODERS)
        elif len(names) != 1:
            raise CheckpointError(
                f"{path}: holds {len(names)} tensors; a textual inversion is one, or {ENCODERS}"
            )
        vectors = tuple(_rows(path, name, tensors) for name in names)
    if len({len(rows) for rows in vectors}) > 1:
        raise CheckpointError(f"{path}: has different numbers of vectors for two text encoders")
    nameless = names[0] in (WEB_UI, "*", *ENCODERS)
    return Embedding(token or (path.stem if nameless else names[0]), vectors)


def write_embedding(path, token, vectors, form="diffusers"):
    """Writes a learnt token, whole or not at all.

    Args:
        path: a `.safetensors` file.
        token: what it is called; web UIs go by the file's name, which must then be the token's.
        vectors: (n, width).
        form: "diffusers" or "web-ui".

    Raises:
        ValueError: if an argument does not fit.
        CheckpointError: if the file cannot be written.
    """
    path, vectors = Path(path), np.asarray(vectors, "float32")
    if form not in FORMS:
        raise ValueError(f"`form` must be one of {', '.join(FORMS)}, not {form!r}")
    if vectors.ndim != 2 or not 1 <= len(vectors) <= MAX_ROWS:
        raise ValueError(f"`vectors` must be (1 to {MAX_ROWS}, width), not {vectors.shape}")
    if path.suffix != ".safetensors":
        raise ValueError(f"`path` must end in .safetensors, not {path.name!r}")
    if form == "web-ui" and path.stem != token:
        raise ValueError(f"web UIs call it as its file: {token}.safetensors, not {path.name}")
    name = WEB_UI if form == "web-ui" else token
    write_safetensors(path, Tensors.of({name: vectors}, source=token), {"format": "pt"})


def _rows(path, name, tensors):
    shape = tensors.shape(name)
    if len(shape) not in (1, 2) or 0 in shape or (len(shape) == 2 and shape[0] > MAX_ROWS):
        raise CheckpointError(
            f"{path}: {name!r} has shape {tuple(shape)}; expected (width,), or up to {MAX_ROWS} "
            "rows of it"
        )
    rows = np.array(tensors.cast("float32")[name], ndmin=2)
    require_finite(rows, name, path)
    return rows
