"""Reading a diffusers folder: one subfolder a part, with a config and a file of weights."""

from kerasdiff.checkpoints.diffusers_configs import autoencoder_config, pipeline_config
from kerasdiff.checkpoints.files import open_tensors, read_json
from kerasdiff.checkpoints.names import from_diffusers, is_matrix, is_skipped, parts_of
from kerasdiff.checkpoints.original import squeezed
from kerasdiff.checkpoints.tensors import CheckpointError, naming

CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "text_encoder_2": "config.json",
    "scheduler": "scheduler_config.json",
}
STEMS = {"unet": ["diffusion_pytorch_model"], "vae": ["diffusion_pytorch_model"]}
TEXT_STEMS = ["model", "pytorch_model"]
TOKENIZERS = ("tokenizer", "tokenizer_2")


def open_folder(path, variant=None):
    """Open a pipeline's folder.

    Args:
        path: the folder that holds `model_index.json`.
        variant: prefer the weight files of this variant, such as "fp16".

    Returns:
        The `StableDiffusionConfig`, a dict of part to `Tensors` under canonical names, a dict of
        tokenizer to folder, and a tuple of the names skipped.

    Raises:
        CheckpointError: if a part or its weights are missing.
    """
    jsons = {"model_index": read_json(path / "model_index.json")}
    for part, name in CONFIGS.items():
        if (path / part).is_dir() or part != "text_encoder_2":
            jsons[part] = read_json(path / part / name)
    tokenizers = {name: path / name for name in TOKENIZERS if (path / name).is_dir()}
    for name, folder in tokenizers.items():
        if (folder / "tokenizer_config.json").is_file():
            jsons[name] = read_json(folder / "tokenizer_config.json")
    with naming(path):
        config = pipeline_config(jsons)
    parts, skipped = {}, []
    for part in parts_of(config):
        parts[part], left = open_part(path / part, part, variant)
        skipped += [f"{part}/{name}" for name in left]
    if variant and not any(f".{variant}." in tensors.source for tensors in parts.values()):
        raise CheckpointError(f"{path}: no part has weights of the variant {variant!r}")
    return config, parts, tokenizers, tuple(skipped)


def open_autoencoder_folder(path, variant=None):
    """The `AutoencoderConfig`, `Tensors` and skipped names of a VAE's folder or a pipeline's."""
    if not (path / "config.json").is_file() and (path / "vae").is_dir():
        path = path / "vae"
    table = read_json(path / "config.json")
    with naming(path / "config.json"):
        config = autoencoder_config(table)
    return config, *open_part(path, "vae", variant)


def open_part(folder, part, variant=None):
    """One part's `Tensors` under canonical names, and a list of the names skipped."""
    return canonical_part(open_tensors(_weights(folder, part, variant)), part)


def canonical_part(tensors, part):
    """Tensors with the diffusers layout's names of any age, and a list of the names skipped."""
    entries, skipped = {}, []
    for name, entry in tensors.entries.items():
        if is_skipped(name):
            skipped.append(name)
            continue
        canonical = from_diffusers(part, name)
        if canonical in entries:
            raise CheckpointError(f"{tensors.source}: {canonical!r} is there under two names")
        entries[canonical] = squeezed(entry) if is_matrix(part, canonical) else entry
    return tensors.with_entries(entries), skipped


def _weights(folder, part, variant):
    """The file of a part's weights: the variant's if there is one, safetensors before pickles."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: the checkpoint has no folder of this part")
    stems = STEMS.get(part, TEXT_STEMS)
    found = [
        path
        for named in ([variant, None] if variant else [None])
        for extension in ("safetensors", "bin")
        for stem in stems
        for path in _candidates(folder, stem, extension, named)
        if path.is_file()
    ]
    if found:
        return found[0]
    there = sorted(path.name for path in folder.iterdir())
    raise CheckpointError(
        f"{folder}: has no {stems[0]}.safetensors nor .bin"
        + (f" of the variant {variant!r}" if variant else "")
        + f"; it holds {', '.join(there) or 'nothing'}"
        + ("" if variant else " (a name like model.fp16.safetensors is the variant 'fp16')")
    )


def _candidates(folder, stem, extension, variant):
    middle = f".{variant}" if variant else ""
    yield folder / f"{stem}{middle}.{extension}"
    yield folder / f"{stem}.{extension}.index{middle}.json"
    yield folder / f"{stem}{middle}.{extension}.index.json"
