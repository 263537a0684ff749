"""Guidance around the network: which rows it is given, and what comes of them."""

from dataclasses import replace

import numpy as np
import pytest
from keras import ops
from model_cases import UNETS, error, fill, numbers

from kerasdiff.denoiser import denoise
from kerasdiff.diffusion_model import DiffusionModel

SCALINGS = (0.7, 1.0, -0.5, 500.0)


class Noting:
    """A network that notes how many rows it is given."""

    def __init__(self, model):
        self.model, self.config, self.rows = model, model.config, []

    def __call__(self, inputs, training):
        self.rows.append({name: value.shape[0] for name, value in inputs.items()})
        return self.model(inputs, training=training)


def clean(model, latents, given, mode):
    scalings = [ops.convert_to_tensor(value, "float32") for value in SCALINGS]
    given = {name: ops.convert_to_tensor(value, "float32") for name, value in given.items()}
    return np.asarray(denoise(model, ops.convert_to_tensor(latents), scalings, 3.0, given, mode))


def inputs_of(config, count):
    """Of `count` pictures, whose texts differ, negative ones first."""
    given = {"context": numbers("context", (2 * count, 5, config.context_dim))}
    if config.added_embed_dim:
        given["added_embedding"] = numbers("added", (2 * count, config.added_embed_dim))
    return given | {"guidance_rescale": 0.3}


@pytest.mark.parametrize("count", (1, 2, 3))
@pytest.mark.parametrize("name", ("sd1", "levels", "sdxl"))
def test_one_call_of_both_halves_gives_what_two_calls_give(name, count):
    config = UNETS[name][0]
    model = Noting(fill(DiffusionModel(config)))
    latents, given = numbers("latents", (count, 8, 8, 4)), inputs_of(config, count)
    found, wanted = (clean(model, latents, given, mode) for mode in ("batched", "split"))
    assert error(found, wanted) < 2e-5
    batched, *split = model.rows
    assert batched["latent"] == (2 * count if config.added_embed_dim else count)
    assert batched["context"] == 2 * count and batched["timestep_embedding"] == 1
    assert [rows["latent"] for rows in split] == [count, count]


def test_a_network_that_no_text_enters_gives_both_halves_the_same():
    config = replace(UNETS["sd1"][0], depth=(0, 0), up_depth=(0, 0), mid_depth=None)
    model = fill(DiffusionModel(config))
    latents, given = numbers("latents", (2, 8, 8, 4)), inputs_of(config, 2)
    given["guidance_rescale"] = 0.0
    found, wanted = (clean(model, latents, given, mode) for mode in ("batched", "positive"))
    assert error(found, wanted) < 2e-5
