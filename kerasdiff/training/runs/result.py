"""What a run leaves behind: a checkpoint of the averaged weights that diffusers opens."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from kerasdiff.checkpoints.files import check_replaceable
from kerasdiff.checkpoints.load import state
from kerasdiff.checkpoints.names import PART_OF, parts_of
from kerasdiff.checkpoints.save import check_suffix, save_autoencoder, save_file, save_folder
from kerasdiff.checkpoints.tensors import Tensors, naming
from kerasdiff.training.autoencoder import to_floats
from kerasdiff.training.averages import averaged
from kerasdiff.training.data.cached import latent_deviation
from kerasdiff.training.runs.networks import fresh_parts

MEASURED = 200  # pictures whose latents tell the scale of a new autoencoder


def check_output(output):
    """Raises ValueError, before anything is done, if there is something or cannot be written."""
    output = Path(output)
    check_suffix(output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"`output`: {output} exists already")
    with naming("`output`"):
        place = check_replaceable(output)
    parent = next(each for each in place.parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"`output`: {parent} cannot be written to")


def save_result(settings, checkpoint, networks, trainer, source):
    """Writes the checkpoint with the trained parts in place of its own.

    Args:
        settings: `output` and `output_dtype` count.
        checkpoint: what the run started from.
        networks: dict of models by names as in `names.PART_OF`.
        trainer: its averages are what is saved.
        source: of pictures, where a new autoencoder must be measured.
    """
    config, parts = checkpoint.config, dict(checkpoint.parts)
    output, dtype = Path(settings.output), settings.output_dtype
    with averaged(trainer):
        if "decoder" in networks and "vae" in fresh_parts(settings, checkpoint):
            config = _measured(config, networks["image_encoder"], source)
        for part in dict.fromkeys(PART_OF[name] for name in networks):
            halves = [state(networks[name]).entries for name in networks if PART_OF[name] == part]
            if part != "vae" or "decoder" in networks:
                parts[part] = Tensors(part, {k: v for half in halves for k, v in half.items()})
        output.parent.mkdir(parents=True, exist_ok=True)
        if not set(parts_of(config)) <= set(parts):
            save_autoencoder(output, config, parts, dtype)
        elif output.suffix == ".safetensors":
            save_file(output, config, parts, dtype)
        else:
            save_folder(output, config, parts, dtype, checkpoint.tokenizer_folders)


def _measured(config, encoder, source):
    """The config with the scale that makes latents spread by 1 (arXiv 2112.10752, appendix G)."""
    count = min(len(source), MEASURED)
    moments = [np.asarray(encoder.moments(to_floats(source[i][0][None]))) for i in range(count)]
    moments = np.concatenate([each.reshape(-1, each.shape[-1]) for each in moments])
    scale = 1.0 / latent_deviation(moments)
    return replace(config, autoencoder=replace(config.autoencoder, scaling_factor=scale))
