"""Matrices, convolutions and the exact GELU."""

import keras
from keras import ops

from kerasdiff.backend import widen
from kerasdiff.layers.int8 import KernelLayer
from kerasdiff.layers.products import convolve, is_product, matmul


@keras.saving.register_keras_serializable("kerasdiff")
class Dense(KernelLayer):
    """A matrix on the last axis: (..., I) to (..., units).

    Args:
        units: width of the output.
        use_bias: whether a bias is added.
    """

    FIELDS = ("units", "use_bias")

    def __init__(self, units, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.units, self.use_bias = units, use_bias

    def build(self, x_shape):
        self.add_kernel((x_shape[-1], self.units))
        if self.use_bias:
            self.bias = self.add_weight((self.units,), "zeros", name="bias")

    def product(self, x, kernel):
        return matmul(x, kernel)

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], self.units)


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

    FIELDS = ("filters", "kernel_size", "padding", "strides")

    def __init__(self, filters, kernel_size, padding=0, strides=1, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.strides = filters, kernel_size, strides
        self.padding = (padding, padding) if isinstance(padding, int) else tuple(padding)

    def build(self, x_shape):
        self.add_kernel((self.kernel_size, self.kernel_size, x_shape[-1], self.filters))
        self.bias = self.add_weight((self.filters,), "zeros", name="bias")

    def factor(self, x):
        is_matrix = self._keeps_size and is_product(x, self.kernel)
        return super().factor(x) if is_matrix else widen(x)

    def product(self, x, kernel):
        if self._keeps_size:
            return convolve(x, kernel)
        if any(self.padding):
            x = ops.pad(x, ((0, 0), self.padding, self.padding, (0, 0)))
        return ops.conv(x, kernel, self.strides, "valid", data_format="channels_last")

    def compute_output_shape(self, x_shape):
        padded = sum(self.padding) - self._reach
        height, width = (
            None if size is None else (size + padded - 1) // self.strides + 1
            for size in x_shape[1:3]
        )
        return (x_shape[0], height, width, self.filters)

    @property
    def _keeps_size(self):
        """With strides of 1, "same" is the padding by half a kernel, without a copy."""
        return self.strides == 1 and sum(self.padding) == 2 * self.padding[0] == self._reach

    @property
    def _reach(self):
        return self.kernel_size - 1


def gelu(x):
    """The exact GELU (arXiv 1606.08415), in float32 inside.

    JAX's own takes erfc, twice as much work for a GPU, and TensorFlow's rounds in between.
    """
    wide = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    return ops.cast(0.5 * wide * (1.0 + ops.erf(wide * 0.5**0.5)), x.dtype)
