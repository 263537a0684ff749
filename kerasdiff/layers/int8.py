"""Kernels that can be kept as int8, in a quarter of float32's memory."""

import keras
import numpy as np
from keras import ops

from kerasdiff.backend import HALF, cast_late, widen
from kerasdiff.layers.variables import initializer

LARGEST = 127


class KernelLayer(keras.layers.Layer):
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
        values = np.asarray(ops.convert_to_numpy(ops.cast(self.kernel, "float32")))
        scale = np.abs(values).max(axis=tuple(range(values.ndim - 1))) / LARGEST
        scale = np.where(scale == 0, 1, scale).astype("float32")
        values = np.rint(values / scale).astype("int8")
        self._untrack_variable(self.kernel)
        self.kernel = self._constant(values, "kernel")
        self.scale = self._constant(scale, "scale")

    def save_own_variables(self, store):
        if self.scale is not None:
            raise ValueError(f"{self.name} is int8, which is not saved: save, then quantize")
        super().save_own_variables(store)

    def _constant(self, array, name):
        return self.add_weight(
            array.shape, lambda shape, dtype: ops.convert_to_tensor(array, dtype),
            dtype=str(array.dtype), name=name, trainable=False, autocast=False,
        )  # fmt: skip

    def call(self, x):
        wide = widen(x)
        y = self.scaled(self.product(wide, self.kernel_values(wide)), x.dtype)
        return y if self.bias is None else y + self.bias

    def kernel_values(self, x):
        """The kernel in the dtype of `x`, in int8 still without its scale."""
        is_widened = self.kernel.dtype in HALF and x.dtype == "float32"
        is_narrow = self.scale is not None or is_widened
        return cast_late(self.kernel, x) if is_narrow else self.kernel

    def scaled(self, y, dtype):
        """Products with `kernel_values`, (..., channels), with the scale that these lack."""
        return ops.cast(y if self.scale is None else ops.cast(y, "float32") * self.scale, dtype)


def quantize(model, keep=()):
    """Keeps the kernels of a model's matrices and convolutions as int8, in place.

    Args:
        model: a model of this package.
        keep: beginnings of the names of layers that stay as they are.
    """
    model.quantize(
        "int8",
        filters=lambda layer: isinstance(layer, KernelLayer) and not layer.name.startswith(keep),
    )
