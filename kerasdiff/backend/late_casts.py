"""Weights of 8 and 16 bits, cast one by one when they are needed."""

import keras


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
    first = keras.ops.reshape(x, (-1,))[0]
    # TensorFlow lowers `isnan` for XLA in fifty times as long, and there are 282 in SD 1.5.
    return keras.ops.cast(keras.ops.not_equal(first, first), dtype)


def _as_bits(weight, x):
    """A weight of 16 bits plus `_nothing`, which XLA would add in float32, out of the loop."""

    @keras.ops.custom_gradient  # there is none through bits
    def run(weight, x):
        def gradient(*args, upstream=None):
            return args[0] if upstream is None else upstream, keras.ops.zeros_like(x)

        bits = keras.ops.view(weight, "int16") + _nothing("int16", x)
        return keras.ops.view(bits, weight.dtype), gradient

    return run(weight, x)
