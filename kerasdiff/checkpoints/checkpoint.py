"""A checkpoint: its config and the tensors of its parts under canonical names, read when asked for.

`open_checkpoint` takes a single file in the original layout or a diffusers folder, and looks at
headers and configs alone; `find_and_open` takes presets' names too.
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from kerasdiff.checkpoints import prediction
from kerasdiff.checkpoints.detect import detect
from kerasdiff.checkpoints.diffusers_configs import check_parts
from kerasdiff.checkpoints.files import open_tensors, read_json
from kerasdiff.checkpoints.folders import canonical_part, open_autoencoder_folder, open_folder
from kerasdiff.checkpoints.keras_h5 import is_keras_folder, open_keras_folder
from kerasdiff.checkpoints.names import OriginalNames
from kerasdiff.checkpoints.original import is_original_vae, split, take
from kerasdiff.checkpoints.presets import find, presets
from kerasdiff.checkpoints.tensors import CheckpointError, naming
from kerasdiff.configs import PREDICTION_TYPES, StableDiffusionConfig

# An autoencoder is two models; each leaves the other's tensors alone.
HALVES = ({"encoder", "quant_conv"}, {"decoder", "post_quant_conv"})


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint.

    Attributes:
        path: the file or folder, absolute.
        config: its `StableDiffusionConfig`.
        parts: "unet", "vae", "text_encoder" and, for SDXL, "text_encoder_2" to `Tensors` under
            canonical names, in PyTorch's axis order.
        tokenizer_folders: "tokenizer" and "tokenizer_2" to folders, where there are any.
        skipped: names in the file that are no weights of any part.
        prediction_type_source: what decided the prediction type, in words.
        missing: our models to the files that would hold their weights. What needs no such model
            works, and nothing is written anew; see `check_there`.
    """

    path: Path
    config: StableDiffusionConfig
    parts: dict
    tokenizer_folders: dict = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    prediction_type_source: str = ""
    missing: dict = field(default_factory=dict)

    def check_there(self, *models):
        """Raises CheckpointError if the file with the weights of one of these models is missing."""
        for model in models:
            if model in self.missing:
                raise CheckpointError(
                    f"{self.missing[model]}: no such file, and it would hold the {model}: put it "
                    "there, or give another `vae`, an autoencoder"
                )

    def load(self, part, model):
        """Give a model its weights; see `load.load` for what is returned and raised.

        Args:
            part: a key of `parts`. Both the image encoder and the decoder take from "vae".
            model: the Keras model of that part's config.
        """
        from kerasdiff.checkpoints.load import load  # Keras: not before there is a model

        if part not in self.parts:
            raise CheckpointError(f"{self.path}: has no {part}; it has {', '.join(self.parts)}")
        tensors = self.parts[part]
        if part == "vae":
            tensors = _half(tensors, model)
        if not tensors:  # of the half that the model is
            self.check_there(*self.missing)
        return load(model, tensors)


def find_and_open(name_or_path, *, vae=None, prediction_type=None, **options):
    """Open a checkpoint as `open_checkpoint` does; a preset is downloaded if it must be.

    Args:
        name_or_path: a preset's name, or a path as `open_checkpoint` takes it.
        vae: of another autoencoder, the same.
        prediction_type: None takes the preset's own, which spares a look for what its file does
            not show.
        **options: of `open_checkpoint`.

    Returns:
        `Checkpoint`.
    """
    known = presets().get(str(name_or_path))
    if known is not None and known.kind == "vae":
        raise CheckpointError(
            f"{known.name} is an autoencoder alone: give it as `vae`, beside a whole checkpoint"
        )
    path, vae = find(name_or_path), None if vae is None else find(vae)
    if known is None:
        return open_checkpoint(path, vae=vae, prediction_type=prediction_type, **options)
    told = prediction_type or known.prediction_type
    checkpoint = open_checkpoint(path, vae=vae, prediction_type=told, **options)
    if prediction_type is None and told is not None:
        checkpoint = replace(checkpoint, prediction_type_source=f"the preset {known.name}")
    wanted = {"num_steps": known.num_steps, "guidance_scale": known.guidance_scale}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    return replace(checkpoint, config=replace(checkpoint.config, **wanted))


def open_checkpoint(path, *, variant=None, vae=None, prediction_type=None):
    """Open a checkpoint without reading its weights, as long as it shows its prediction type.

    Of a single file of Stable Diffusion 2 that does not, the UNet is made and asked.

    Args:
        path: a `.safetensors` or `.ckpt` file in the original layout, a diffusers folder, or a
            folder of keras-cv's `.h5` files under their published names.
        variant: of a folder's weight files, such as "fp16".
        vae: a file or folder of another autoencoder to take in place of the checkpoint's own.
        prediction_type: one of `PREDICTION_TYPES`, where the file does not show it.

    Returns:
        `Checkpoint`.

    Raises:
        CheckpointError: if a part is missing, a file is damaged or a tensor is of no part.
        ValueError: if an argument does not fit the checkpoint.
    """
    path = Path(path).absolute()  # its parts are read later, perhaps from another current folder
    if prediction_type not in (None, *PREDICTION_TYPES):
        raise ValueError(
            f"`prediction_type` must be one of {', '.join(PREDICTION_TYPES)}, "
            f"not {prediction_type!r}"
        )
    if path.is_dir():
        if is_keras_folder(path):
            config, parts, missing = open_keras_folder(path)
            source = "the rule for keras-cv's files"
            checkpoint = Checkpoint(path, config, parts, {}, (), source, missing)
        else:
            checkpoint = Checkpoint(path, *open_folder(path, variant), "the scheduler's config")
        if prediction_type is not None:
            checkpoint = _overruled(checkpoint, prediction_type)
    elif variant is not None:
        raise ValueError(f"variant {variant!r} is for folders; {path} is a file")
    else:
        checkpoint = _open_file(path, vae, prediction_type)
    if vae is not None:
        checkpoint = with_vae(checkpoint, Path(vae), variant)
    return checkpoint


def _overruled(checkpoint, kind):
    """A folder's checkpoint with another prediction type than its scheduler's config has."""
    schedule = replace(checkpoint.config.schedule, prediction_type=kind)
    config = replace(checkpoint.config, schedule=schedule)
    return replace(checkpoint, config=config, prediction_type_source="the argument")


def _open_file(path, vae, argument):
    """A single file, whose own autoencoder may be missing if another is given."""
    tensors = open_tensors(path)
    given = () if vae is None else ("vae",)
    with naming(path):
        config = detect(tensors.shapes, tensors.metadata, given)
    parts, skipped = split(tensors, config, given)
    facts = {"sidecar": _sidecar(path), "metadata": tensors.metadata, "keys": tuple(tensors)}
    with naming(path):
        kind, source = prediction.prediction_type(config, argument=argument, **facts)
    if kind is None:  # only now is it worth reading the whole file
        with path.open("rb") as file:
            facts["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        kind, source = prediction.prediction_type(
            config, **facts, probe=lambda: _probe(config.diffusion_model, parts["unet"])
        )
    config = prediction.with_prediction_type(config, kind, tuple(tensors))
    return Checkpoint(path, config, parts, {}, skipped, source)


def _probe(config, tensors):
    from kerasdiff.checkpoints.probe import probe

    return probe(config, tensors)


def _sidecar(path):
    """What a config of the same name beside the file says: a table, a YAML text, or None."""
    if path.with_suffix(".json").is_file():
        return read_json(path.with_suffix(".json"))
    for suffix in (".yaml", ".yml"):
        if path.with_suffix(suffix).is_file():
            return path.with_suffix(suffix).read_text("utf-8", errors="replace")
    return None


def with_vae(checkpoint, path, variant=None):
    """The checkpoint with the autoencoder of another file or folder, a path."""
    config = checkpoint.config
    if path.is_dir():
        autoencoder, tensors, _ = open_autoencoder_folder(path, variant)
        config = replace(config, autoencoder=autoencoder)
    else:
        tensors, _ = _open_autoencoder_file(path, config)
    with naming(path):
        check_parts(config)
    return replace(checkpoint, config=config, parts=checkpoint.parts | {"vae": tensors}, missing={})


def _open_autoencoder_file(path, config):
    """`Tensors` of a file in either layout that holds an autoencoder, alone or with the rest."""
    tensors = open_tensors(path)
    if not is_original_vae(tensors):
        return canonical_part(tensors, "vae")
    names = OriginalNames("vae", config)
    whole = {name: entry for name, entry in tensors.entries.items() if name.startswith(names.root)}
    tensors, left = take(tensors.with_entries(whole or tensors.entries), names)
    unexpected = [name for name in left if not names.is_unused(name)]
    if unexpected:
        raise CheckpointError(f"{path}: not an autoencoder alone: {', '.join(unexpected[:5])}")
    return tensors, left


def _half(tensors, model):
    """The tensors of an autoencoder but for the half that another model has."""
    from kerasdiff.checkpoints.load import state

    heads = {name.split(".")[0] for name in state(model)}
    other = next(half for half in HALVES if not half & heads)
    return tensors.with_entries(
        {n: entry for n, entry in tensors.entries.items() if n.split(".")[0] not in other}
    )
