"""Memory of weights: taken without filling it, given without a copy, cast when it is needed.

Touching gigabytes of new memory takes seconds; that of a weight which a checkpoint will fill is
touched once, when its tensor is cast into it.
"""

import math
import mmap
import os

import keras
import numpy as np

# Else a process that is forked would share them. Windows has neither.
_PRIVATE = {} if os.name == "nt" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}


def empty(shape, dtype):
    """A tensor of any values, to be overwritten; zeros where the backend has no such thing."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.raw_ops.Empty(shape=shape, dtype=dtype, init=False)
    return keras.ops.zeros(shape, dtype)


def new_array(shape, dtype):
    """A NumPy array of zeros in memory that `hand_over` need not copy, and nobody touched yet.

    Pages of its own begin where TensorFlow wants an array to begin. NumPy's memory does not, and
    NumPy asks Linux for huge pages, for which it may have to move others: that took twice as long.
    """
    dtype = np.dtype(dtype)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, **_PRIVATE)
    return np.frombuffer(pages, dtype).reshape(shape)


def hand_over(array, variable):
    """Assigns an array that nobody will change any more.

    On TensorFlow the variable lies in the memory of a `new_array` itself, until its first update.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        value = variable.value
        if not isinstance(value, tf.distribute.DistributedValues):
            # `assign` would make a constant of the array first, which is a copy.
            tf.raw_ops.AssignVariableOp(resource=value.handle, value=array)
            return
    variable.assign(array)


def cast_late(weight, x):
    """A weight of 8 or 16 bits in the dtype of `x`, once `x` has been computed.

    Compilers order by who waits for whom. Casts that wait for nothing come first, all of them, out
    of loops too: in XLA's programs SD 1.5's int8 kernels took 3.3 GiB beside themselves. This one
    waits for a number, which is 0 unless the first of `x` is NaN, and with it what comes out.
    """
    if keras.backend.backend() != "openvino":  # which takes weights for constants
        weight = keras.ops.convert_to_tensor(weight)
        is_whole = weight.dtype == "int8"
        weight = weight + _nothing("int8", x) if is_whole else _as_bits(weight, x)
    return keras.ops.cast(weight, x.dtype)


def _nothing(dtype, x):
    return keras.ops.cast(keras.ops.isnan(keras.ops.reshape(x, (-1,))[0]), dtype)


def _as_bits(weight, x):
    """A weight of 16 bits plus `_nothing`, which XLA would add in float32, out of the loop."""

    @keras.ops.custom_gradient  # there is none through bits
    def run(weight, x):
        def gradient(*args, upstream=None):
            return args[0] if upstream is None else upstream, keras.ops.zeros_like(x)

        bits = keras.ops.view(weight, "int16") + _nothing("int16", x)
        return keras.ops.view(bits, weight.dtype), gradient

    return run(weight, x)
