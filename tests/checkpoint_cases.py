"""Tiny checkpoints of each family, with random tensors, and how they are compared."""

from dataclasses import replace

import numpy as np

from kerasdiff.checkpoints.load import state
from kerasdiff.configs import TINY as SMALLEST
from kerasdiff.decoder import Decoder
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.image_encoder import ImageEncoder
from kerasdiff.text_encoder import TextEncoder

# Files without our metadata say nothing of groups: they have the published 32.
TINY = {
    family: replace(
        config,
        autoencoder=replace(config.autoencoder, channels=(32, 64), norm_groups=32),
        diffusion_model=replace(config.diffusion_model, norm_groups=32),
    )
    for family, config in SMALLEST.items()
}


def models(config):
    """Each part's models, untrained."""
    found = {"unet": [DiffusionModel(config.diffusion_model)]}
    found["vae"] = [kind(config.autoencoder) for kind in (ImageEncoder, Decoder)]
    for name, text in zip(("text_encoder", "text_encoder_2"), config.text_encoders, strict=False):
        found[name] = [TextEncoder(text)]
    return found


_PARTS = {}


def parts_of(family):
    """Random tensors of each part of a tiny checkpoint, small enough for float16."""
    if family not in _PARTS:
        numbers = np.random.default_rng(0)
        _PARTS[family] = {
            part: {
                name: numbers.normal(size=shape).astype(np.float32)
                for model in found
                for name, shape in state(model).shapes.items()
            }
            for part, found in models(TINY[family]).items()
        }
    return _PARTS[family]


def assert_parts(checkpoint, parts, dtype=np.float32):
    assert set(checkpoint.parts) == set(parts)
    for part, arrays in parts.items():
        assert set(checkpoint.parts[part]) == set(arrays)
        for name, array in checkpoint.parts[part].items():
            assert array.dtype == dtype
            np.testing.assert_array_equal(array, arrays[name].astype(dtype))
