"""Inputs and weights of layers, drawn from seeds."""

import numpy as np


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomise(layer):
    """Other values than the first ones, for biases and norms too."""
    for i, variable in enumerate(layer.variables):
        variable.assign(numbers(*variable.shape, seed=i + 1) * 0.5 + 0.1)
    return layer
