"""Matrices, convolutions and normalisation."""

import keras
import numpy as np
from keras import ops

from kerasdiff.layers.int8 import KernelLayer
from kerasdiff.layers.products import convolve, matmul

LAYER_NORM_EPSILON = 1e-5
"""Of every LayerNorm of the UNet's transformers: PyTorch's default, in no checkpoint's config."""


@keras.saving.register_keras_serializable("kerasdiff")
class Dense(KernelLayer):
    """A matrix on the last axis: (..., I) to (..., units).

    Args:
        units: width of the output.
        use_bias: whether a bias is added.
    """

    def __init__(self, units, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.units, self.use_bias = units, use_bias

    def build(self, x_shape):
        self.add_kernel((x_shape[-1], self.units))
        if self.use_bias:
            self.bias = self.add_weight((self.units,), "zeros", name="bias")

    def call(self, x):
        x = self.scaled(matmul(x, self.kernel_values(x)))
        return x + self.bias if self.use_bias else x

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "use_bias": self.use_bias}


@keras.saving.register_keras_serializable("kerasdiff")
class PaddedConv2D(KernelLayer):
    """A convolution with explicit zero padding: (B, H, W, I) to (B, H', W', filters).

    H' is (H + before + after - kernel_size) // strides + 1, as in PyTorch. Keras' "same" padding
    puts it elsewhere where strides are not 1.

    Args:
        filters: channels of the output.
        kernel_size: height and width of the kernel.
        padding: rows and columns of zeros on each side, or (before, after).
        strides: in both directions.
    """

    def __init__(self, filters, kernel_size, padding=0, strides=1, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.strides = filters, kernel_size, strides
        self.padding = (padding, padding) if isinstance(padding, int) else tuple(padding)

    def build(self, x_shape):
        self.add_kernel((self.kernel_size, self.kernel_size, x_shape[-1], self.filters))
        self.bias = self.add_weight((self.filters,), "zeros", name="bias")

    def call(self, x):
        # With strides of 1, "same" is the padding by half a kernel, without a copy.
        same = self.strides == 1 and sum(self.padding) == 2 * self.padding[0] == self._reach
        kernel = self.kernel_values(x)
        if same:
            return self.scaled(convolve(x, kernel)) + self.bias
        if any(self.padding):
            x = ops.pad(x, ((0, 0), self.padding, self.padding, (0, 0)))
        x = ops.conv(x, kernel, self.strides, "valid", data_format="channels_last")
        return self.scaled(x) + self.bias

    def compute_output_shape(self, x_shape):
        padded = sum(self.padding) - self._reach
        height, width = (
            None if size is None else (size + padded - 1) // self.strides + 1
            for size in x_shape[1:3]
        )
        return (x_shape[0], height, width, self.filters)

    def get_config(self):
        own = ("filters", "kernel_size", "padding", "strides")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}

    @property
    def _reach(self):
        return self.kernel_size - 1


@keras.saving.register_keras_serializable("kerasdiff")
class GroupNorm(keras.layers.Layer):
    """Group normalisation (arXiv 1803.08494) of (B, H, W, C), with float32 statistics.

    Args:
        groups: into which the channels are divided.
        epsilon: added to the variance.
    """

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
        # Sums run over pixels first: on TensorFlow's CPU kernels a joint sum over pixels and a
        # group's channels is slower and, over a large picture, wrong by 1e-3.
        rows = rows - self._average(rows)
        deviation = ops.rsqrt(self._average(ops.square(rows)) + self.epsilon)
        rows = rows * (deviation * ops.cast(self.gamma, "float32"))
        return ops.cast(ops.reshape(rows + ops.cast(self.beta, "float32"), shape), x.dtype)

    def _average(self, rows):
        """Each group's mean in the place of each of its channels: (B, HW, C) to (B, 1, C)."""
        channels, size = rows.shape[-1], rows.shape[-1] // self.groups
        means = ops.reshape(ops.mean(rows, axis=1), (-1, self.groups, size))  # (B, G, C / G)
        # Times ones is `repeat` by one operation, not a dozen: there are 61 norms in SD 1.5.
        means = ops.mean(means, axis=-1, keepdims=True) * np.ones(size, "float32")
        return ops.reshape(means, (-1, 1, channels))

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return {**super().get_config(), "groups": self.groups, "epsilon": self.epsilon}


def layer_norm(name, dtype, epsilon=LAYER_NORM_EPSILON):
    """Keras' LayerNormalization on the last axis, whose statistics are float32."""
    return keras.layers.LayerNormalization(epsilon=epsilon, name=name, dtype=dtype)
