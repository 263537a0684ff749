"""Weights of 8 and 16 bits, cast one by one when they are needed."""

import keras

from kerasdiff.backend.loops import zero_after


def cast_late(weight, dtype, after):
    """A weight of 8 or 16 bits in another dtype, once `after` has been computed.

    Compilers order by who waits for whom. Casts that wait for nothing come first, all of them, out
    of loops too: in XLA's programs SD 1.5's int8 kernels took 3.3 GiB beside themselves. This one
    waits for a number, which is always 0.
    """
    if keras.backend.backend() != "openvino":  # which takes weights for constants
        weight = keras.ops.convert_to_tensor(weight)
        is_whole = weight.dtype == "int8"
        weight = weight + _nothing("int8", after) if is_whole else _as_bits(weight, after)
    return keras.ops.cast(weight, dtype)


def _nothing(dtype, after):
    return zero_after(keras.ops.reshape(after, (-1,))[0], dtype)


def _as_bits(weight, after):
    """A weight of 16 bits plus `_nothing`, which XLA would add in float32, out of the loop."""

    @keras.ops.custom_gradient  # there is none through bits
    def run(weight, after):
        def gradient(*args, upstream=None):
            return args[0] if upstream is None else upstream, keras.ops.zeros_like(after)

        bits = keras.ops.view(weight, "int16") + _nothing("int16", after)
        return keras.ops.view(bits, weight.dtype), gradient

    return run(weight, after)
