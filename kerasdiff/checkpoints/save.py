"""Writing checkpoints: a diffusers folder or a single file, whole or not at all.

Tensors pass through one at a time, so that a conversion needs the memory of the largest tensor.
"""

import json
import re
from pathlib import Path

import numpy as np

from kerasdiff.checkpoints.checkpoint import find_and_open
from kerasdiff.checkpoints.detect import metadata_for
from kerasdiff.checkpoints.diffusers_configs import to_json
from kerasdiff.checkpoints.files import whole_folder
from kerasdiff.checkpoints.folders import CONFIGS, TOKENIZERS
from kerasdiff.checkpoints.models import check_whole
from kerasdiff.checkpoints.names import OriginalNames, parts_of
from kerasdiff.checkpoints.original import put
from kerasdiff.checkpoints.prediction import markers_of
from kerasdiff.checkpoints.safetensor_files import write_safetensors
from kerasdiff.checkpoints.tensors import CheckpointError, LazyTensor, Tensors
from kerasdiff.checkpoints.tokenizers import check_is_clips, read_tokenizers

# diffusers will not open an inpainting folder that does not say whose layout it has
LAYOUT = {"_diffusers_version": "0.42.1"}
# Metadata that another prediction type, dtype or set of names would make untrue.
STALE = re.compile(r"(modelspec\.)?predict|parameterization$|modelspec\.hash_|sshs_")


def convert(source, target, dtype=None, **options):
    """Write a checkpoint anew: a single file if `target` ends in `.safetensors`, else a folder.

    Args:
        source: what `find_and_open` takes.
        target: the file, which may exist, or the folder, which may exist if it is empty.
        dtype: "float32", "float16" or "bfloat16"; None keeps each tensor's own.
        **options: of `find_and_open`.

    Raises:
        CheckpointError: if the source is damaged, lacks tensors or holds NaN or infinity, or the
            target cannot be written; the target is then as it was.
    """
    target = Path(target)
    check_suffix(target)
    checkpoint = find_and_open(source, **options)
    check_whole(checkpoint)
    save = save_file if target.suffix == ".safetensors" else save_folder
    save(target, checkpoint.config, checkpoint.parts, dtype, checkpoint.tokenizer_folders)


def check_suffix(target):
    """Refuses a path that is named like a file of another kind than `.safetensors`, or mistaken."""
    if target.suffix == ".safetensors" and target.is_dir():
        raise CheckpointError(f"{target}: is a folder, which a file cannot replace")
    # a folder's name may end in a version, such as model-1.5-fp16
    if target.suffix != ".safetensors" and target.suffix[1:2].isalpha() and not target.is_dir():
        raise CheckpointError(
            f"{target}: {target.suffix} files are not written: name a .safetensors file or a folder"
        )


def check_vocabularies(path, config, folders=None):
    """Refuses a single file where a text encoder needs a tokenizer of its own.

    Args:
        path: the file, for errors.
        config: the `StableDiffusionConfig`.
        folders: as `save_folder`'s `tokenizer_folders`.
    """
    for name, encoder in zip(TOKENIZERS, config.text_encoders, strict=False):
        check_is_clips(path, name, encoder, folders or {})


def save_file(path, config, parts, dtype=None, tokenizer_folders=None):
    """Write a single safetensors file in the original layout.

    Args:
        path: the file.
        config: the `StableDiffusionConfig`.
        parts: dict of part to mapping of canonical names to arrays in PyTorch's axis order, as
            `Checkpoint.parts` or, of models, `load.state`.
        dtype: "float32", "float16" or "bfloat16"; None keeps each tensor's own.
        tokenizer_folders: as for `save_folder`, to be refused if they are not CLIP's own.

    The metadata of the UNet's file is carried over, but for hashes of tensors and what it predicts.
    That is said where other programs look for it: in the metadata and, for SDXL, by markers.

    Raises:
        CheckpointError: if a text encoder is not for CLIP's own vocabulary.
    """
    check_vocabularies(path, config, tokenizer_folders)
    entries = {}
    for part in parts_of(config):
        tensors = _part(parts, part, dtype)
        entries |= put(tensors, OriginalNames(part, config))
    entries |= {name: LazyTensor.of(np.empty(0, "float32")) for name in markers_of(config)}
    source = Tensors.of(parts["unet"]).metadata
    metadata = {name: text for name, text in source.items() if not STALE.match(name)}
    write_safetensors(
        path, Tensors(path, entries), metadata | {"format": "pt"} | metadata_for(config)
    )


def save_folder(path, config, parts, dtype=None, tokenizer_folders=None):
    """Write a diffusers folder.

    Args:
        path: the folder; made, or filled if it exists and is empty.
        config, parts, dtype: as for `save_file`.
        tokenizer_folders: dict of "tokenizer" and "tokenizer_2" to folders of tokenizers, which
            are read and written anew; where one is not given, CLIP's own vocabulary is written, if
            it is the text encoder's.

    Raises:
        CheckpointError: before anything is written, if a tokenizer cannot be read or is missing.
    """
    # No copies: a stranger's folder may be a link to any other.
    tokenizers = read_tokenizers(path, config, tokenizer_folders or {})
    with whole_folder(path) as beside:
        _fill(beside, config, parts, dtype, tokenizers)


def save_autoencoder(path, config, parts, dtype=None):
    """Write a folder of an autoencoder alone, as diffusers' `AutoencoderKL` has it.

    Args:
        path: the folder; made, or filled if it exists and is empty.
        config, parts, dtype: as for `save_file`; only "vae" is needed of the parts.
    """
    with whole_folder(path) as beside:
        _write_json(beside / CONFIGS["vae"], to_json(config)["vae"])
        tensors = _part(parts, "vae", dtype)
        write_safetensors(beside / "diffusion_pytorch_model.safetensors", tensors, {"format": "pt"})


def _fill(folder, config, parts, dtype, tokenizers):
    jsons = to_json(config)
    _write_json(folder / "model_index.json", jsons["model_index"] | LAYOUT)
    for part, name in CONFIGS.items():
        if part in jsons:
            (folder / part).mkdir()
            _write_json(folder / part / name, jsons[part])
    for name, tokenizer in tokenizers.items():
        tokenizer.save(folder / name)
    for part in parts_of(config):
        text = part.startswith("text")
        name = "model" if text else "diffusion_pytorch_model"
        tensors = _part(parts, part, dtype)
        if text:  # the names of transformers 4, which every version reads
            entries = {
                name if name == "text_projection.weight" else f"text_model.{name}": entry
                for name, entry in tensors.entries.items()
            }
            tensors = tensors.with_entries(entries)
        write_safetensors(folder / part / f"{name}.safetensors", tensors, {"format": "pt"})


def _part(parts, part, dtype):
    if part not in parts:
        raise CheckpointError(f"the {part} to save is missing; given: {', '.join(parts)}")
    tensors = Tensors.of(parts[part], source=part)
    return tensors.cast(dtype)


def _write_json(path, table):
    path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", "utf-8")
