"""Small checkpoints with drawn weights in the diffusers layout; their pictures are patterns."""

import atexit
import functools
import re
import shutil
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from kerasdiff.checkpoints.load import state
from kerasdiff.checkpoints.save import save_folder
from kerasdiff.configs import SD1, TINY
from kerasdiff.stable_diffusion import StableDiffusion

# The smallest sizes of SD 1.x, with its autoencoder's factor of 8.
CONFIG = replace(
    TINY["sd1"],
    autoencoder=replace(
        SD1.autoencoder, channels=(16, 16, 32, 32), layers_per_block=1, norm_groups=8
    ),
    schedule=replace(SD1.schedule, sampler="ddim"),
    image_size=(256, 256),
)

# Freshly drawn networks hardly react to anything; these weights are made louder.
LOUDER = {
    r"conv_out\.weight": 6.0,
    r"decoder\.conv_out\.weight": 2.0,
    r".*\.attn2\..*\.weight": 3.0,
    r".*token_embedding\.weight": 20.0,
}
EMBEDDING_SPREAD = 0.02


def write_checkpoint(path, config=CONFIG, seed=0):
    """Writes a checkpoint with drawn weights as a diffusers folder.

    Args:
        path: a folder that does not exist or is empty.
        config: a `StableDiffusionConfig`.
        seed: of the weights, which depend on it and on each tensor's name and shape alone.
    """
    shutil.copytree(_drawn_folder(config, seed), path, dirs_exist_ok=True)


@functools.cache
def _drawn_folder(config, seed):
    """The folder itself: many tests open the same one."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    model = StableDiffusion(checkpoint=config)
    parts = {"text_encoder": [model.text_encoder]}
    if len(config.text_encoders) == 2:
        parts["text_encoder_2"] = [model.text_encoder_2]
    parts |= {"vae": [model.image_encoder, model.decoder], "unet": [model.diffusion_model]}
    drawn = {
        part: {
            name: _drawn([seed, zlib.crc32(f"{part}/{name}".encode())], name, shape)
            for network in networks
            for name, shape in state(network).shapes.items()
        }
        for part, networks in parts.items()
    }
    save_folder(folder / "model", config, drawn)
    return folder / "model"


def _drawn(seed, name, shape):
    """Weights spread as PyTorch's defaults are; ones and zeros for norms and biases."""
    if len(shape) == 1:
        return np.full(shape, float(name.endswith("weight")), "float32")
    spread = EMBEDDING_SPREAD if "embedding." in name else (3.0 * np.prod(shape[1:])) ** -0.5
    for pattern, factor in LOUDER.items():
        spread *= factor if re.fullmatch(pattern, name) else 1.0
    return np.random.default_rng(seed).normal(0.0, spread, shape).astype("float32")
