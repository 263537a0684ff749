"""A small untrained checkpoint in the diffusers layout: the whole way at work, offline.

    python -m kerasdiff.demo.checkpoint build/demo

Its pictures are patterns, not scenes: nothing has been learnt yet.
"""

import argparse
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

# Freshly drawn networks hardly react to anything; these parts of them are made louder.
LOUDER = {"conv_out.weight": 6.0, ".attn2.": 3.0, "token_embedding": 20.0}


def write_checkpoint(path, image_size=None, seed=0):
    """Writes the checkpoint as a diffusers folder.

    Args:
        path: a folder that does not exist or is empty.
        image_size: (height, width) of its pictures, in pixels.
        seed: of the weights.
    """
    config = CONFIG if image_size is None else replace(CONFIG, image_size=tuple(image_size))
    model = StableDiffusion(checkpoint=config)
    networks = {
        "text_encoder": [model.text_encoder],
        "vae": [model.image_encoder, model.decoder],
        "unet": [model.diffusion_model],
    }
    generator = np.random.default_rng(seed)
    parts = {}
    for part, models in networks.items():
        tensors = {name: array for each in models for name, array in state(each).items()}
        parts[part] = {
            name: _drawn(generator, name, array.shape) for name, array in sorted(tensors.items())
        }
    save_folder(path, config, parts)


def _drawn(generator, name, shape):
    """Weights of variance 1 over the number of inputs; ones and zeros for norms and biases."""
    if len(shape) == 1:
        return np.full(shape, float(name.endswith("weight")), "float32")
    spread = shape[0] ** -0.5 if "embedding" in name else np.prod(shape[1:]) ** -0.5
    spread *= np.prod([factor for part, factor in LOUDER.items() if part in name])
    return generator.normal(0.0, spread, shape).astype("float32")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", type=Path, help="folder to write; left alone if it is there")
    path = parser.parse_args().path
    if not path.exists():
        write_checkpoint(path)


if __name__ == "__main__":
    main()
