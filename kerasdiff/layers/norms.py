"""Group and layer normalisation."""

from functools import partial

import keras
import numpy as np
from keras import ops

from kerasdiff.backend import HALF, Described

PARTS = 16
"""Of a picture's pixels, whose sums a GroupNorm takes one by one."""

LAYER_NORM_EPSILON = 1e-5
"""Of every LayerNorm of the UNet's transformers: PyTorch's default, in no checkpoint's config."""


@keras.saving.register_keras_serializable("kerasdiff")
class GroupNorm(Described, keras.layers.Layer):
    """Group normalisation (arXiv 1803.08494) of (B, H, W, C), with float32 statistics.

    Args:
        groups: into which the channels are divided.
        epsilon: added to the variance.
    """

    FIELDS = ("groups", "epsilon")

    def __init__(self, groups, epsilon, **kwargs):
        super().__init__(**kwargs)
        self.groups, self.epsilon = groups, epsilon

    def build(self, x_shape):
        channels = x_shape[-1]
        if self.groups < 1 or channels % self.groups:
            raise ValueError(
                f"{self.name}: `groups` must divide the {channels} channels, not be {self.groups}"
            )
        self.gamma = self.add_weight((channels,), "ones", name="gamma")
        self.beta = self.add_weight((channels,), "zeros", name="beta")

    def call(self, x):
        shape, channels = ops.shape(x), x.shape[-1]
        # (B, H, W, C) -> (B, HW, C)
        rows = ops.reshape(ops.cast(x, "float32"), (shape[0], shape[1] * shape[2], channels))
        rows = _normalise(rows, self._average, self)
        return ops.cast(ops.reshape(rows, shape), x.dtype)

    def _average(self, rows):
        """Each group's mean in the place of each of its channels: (B, HW, C) to (B, 1, C)."""
        pixels, channels, size = ops.shape(rows)[1], rows.shape[-1], rows.shape[-1] // self.groups
        # Sums run over pixels first: on TensorFlow's CPU kernels a joint sum over pixels and a
        # group's channels is slower and, over a large picture, wrong by 1e-3. They run over a part
        # of the pixels each: GPUs had one row of channels for all their cores to work at.
        parts = PARTS if isinstance(pixels, int) and pixels % PARTS == 0 else 1
        rows = ops.reshape(rows, (-1, parts, pixels // parts, channels))
        means = ops.reshape(ops.mean(rows, axis=2), (-1, parts, self.groups, size))
        means = ops.mean(means, axis=(1, 3), keepdims=True)  # (B, 1, G, 1)
        # Times ones is `repeat` by one operation, not a dozen: there are 61 norms in SD 1.5.
        return ops.reshape(means * np.ones(size, "float32"), (-1, 1, channels))

    def compute_output_shape(self, x_shape):
        return x_shape


@keras.saving.register_keras_serializable("kerasdiff")
class LayerNorm(Described, keras.layers.LayerNormalization):
    """Layer normalisation (arXiv 1607.06450) on the last axis, with float32 statistics."""

    FIELDS = ("epsilon",)

    def call(self, x):
        rows = _normalise(ops.cast(x, "float32"), partial(ops.mean, axis=-1, keepdims=True), self)
        return ops.cast(rows, x.dtype)


def layer_norm(name, dtype, epsilon=LAYER_NORM_EPSILON):
    """A `LayerNorm` as the parts of a `Composite` are made."""
    return LayerNorm(epsilon=epsilon, name=name, dtype=dtype)


def _normalise(rows, average, layer):
    """Float32 rows less their mean, over their deviation, with the layer's gamma and beta.

    Both sums of 16-bit numbers go over them once. The mean's square, which the variance is then
    the difference to, costs float32's last bits; what 16 bits had lost by rounding is far more.
    """
    mean = average(rows)
    if layer.compute_dtype in HALF:
        variance = ops.maximum(average(ops.square(rows)) - ops.square(mean), 0.0)
    else:
        variance = average(ops.square(rows - mean))
    gamma, beta = (ops.cast(values, "float32") for values in (layer.gamma, layer.beta))
    # A power: TensorFlow lowers `rsqrt` for XLA in thirty times as long, 0.5 s for SD 1.5's norms.
    return (rows - mean) * ((variance + layer.epsilon) ** -0.5 * gamma) + beta
