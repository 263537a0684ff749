"""Kernels that can be kept as int8, in a quarter of float32's memory."""

import math

import keras
import numpy as np
from keras import ops

from kerasdiff.backend import HALF, Described, cast_late, empty, forms, widen_factor
from kerasdiff.layers.variables import initializer, is_initialized

LARGEST = 127
FEWEST_CHANNELS = 128  # of a large kernel that are cast at once
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ROWS = 1024  # that are rounded at once


class KernelLayer(Described, keras.layers.Layer):
    """A layer whose `kernel` has the output's channels as its last axis, in float or int8.

    It calls `product(x, kernel)`, its own, and adds the bias if it has one.

    Attributes:
        scale: None, or, in int8, float32 (channels,): what a step of each channel's kernel is.
    """

    scale = bias = None

    def add_kernel(self, shape):
        """Makes the kernel, in the layer's dtype."""
        self.kernel = self.add_weight(shape, initializer("glorot_uniform"), name="kernel")

    def quantize(self, mode="int8", type_check=True, config=None):
        """Rounds the kernel to int8, each output channel in steps of its own; for inference.

        Activations stay as they are, unlike those of Keras' own Dense: products are computed in
        the layer's dtype, so that only the rounding of weights is lost.

        Args:
            mode: "int8".
            type_check, config: of Keras' interface; not used.

        Raises:
            ValueError: on another mode.
        """
        if mode != "int8":
            raise ValueError(f'`mode` must be "int8", not {mode!r}')
        if self.scale is not None:
            return
        exact = self.kernel
        self._untrack_variable(exact)
        self.kernel = self._constant(exact.shape, "int8", "kernel")
        self.scale = self._constant(exact.shape[-1:], "float32", "scale")
        if is_initialized():
            kernel = np.empty(exact.shape, "int8")
            self.scale.assign(rounded(ops.convert_to_numpy(ops.cast(exact, "float32")), kernel))
            self.kernel.assign(kernel)

    def save_own_variables(self, store):
        if self.scale is not None:
            raise ValueError(f"{self.name} is int8, which is not saved: save, then quantize")
        super().save_own_variables(store)

    def _constant(self, shape, dtype, name):
        return self.add_weight(
            shape, empty, dtype=dtype, name=name, trainable=False, autocast=False
        )

    def call(self, x):
        y = self.scaled(self._products(self.factor(x)), x.dtype)
        return y if self.bias is None else y + self.bias

    def _products(self, x):
        """The product; of a large kernel in int8, by a part of the channels after another.

        What a part is cast to is used while it lies in the processor's cache.
        """
        parts = self._parts(x)
        if parts == 1:
            return self.product(x, self.kernel_values(x))
        products, before = [], x
        for kernel in ops.split(self.kernel, parts, -1):
            before = self.product(x, cast_late(kernel, x.dtype, before))
            products.append(before)
        return ops.concatenate(products, -1)

    def _parts(self, x):
        if self.scale is None or forms().kernel_bytes is None:
            return 1
        *_, channels = shape = self.kernel.shape
        size, parts = math.prod(shape) * BYTES[keras.backend.standardize_dtype(x.dtype)], 1
        while size > parts * forms().kernel_bytes:
            if channels % (2 * parts) or channels < 2 * parts * FEWEST_CHANNELS:
                break
            parts *= 2
        return parts

    def factor(self, x):
        """The input in the dtype in which `product` takes it."""
        return widen_factor(x)

    def kernel_values(self, x):
        """The kernel in the dtype of `x`, in int8 still without its scale."""
        is_widened = self.kernel.dtype in HALF and x.dtype == "float32"
        is_narrow = self.scale is not None or is_widened
        return cast_late(self.kernel, x.dtype, x) if is_narrow else self.kernel

    def scaled(self, y, dtype):
        """Products with `kernel_values`, (..., channels), with the scale that these lack."""
        return ops.cast(y if self.scale is None else ops.cast(y, "float32") * self.scale, dtype)


def rounded(kernel, out):
    """Rounds a kernel (..., channels) into `out`, int8; gives each channel's step, (channels,)."""
    rows, into = (array.reshape(-1, array.shape[-1]) for array in (kernel, out))
    scale = np.maximum(rows.max(axis=0), -rows.min(axis=0)) / LARGEST
    scale = np.where(scale == 0, 1, scale).astype("float32")
    for start in range(0, len(rows), ROWS):
        steps = rows[start : start + ROWS] / scale
        np.copyto(into[start : start + ROWS], np.rint(steps, out=steps), casting="unsafe")
    return scale


def quantize(model, keep=()):
    """Keeps the kernels of a model's matrices and convolutions as int8, in place.

    Within `uninitialized()` their values are still to come.

    Args:
        model: a model of this package.
        keep: beginnings of the names of layers that stay as they are.
    """
    model.quantize(
        "int8",
        filters=lambda layer: isinstance(layer, KernelLayer) and not layer.name.startswith(keep),
    )
