"""Which forms of products a program may take."""

from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import keras

from kerasdiff.backend.devices import device
from kerasdiff.backend.processor import cache_size, computes_in_bfloat16

QUERIES = 2048
"""Of attention at once: with 4096 keys their scores take 32 MiB."""


class Forms(NamedTuple):
    """How what is traced may be computed, where that is faster than plainly.

    Attributes:
        filtered, paired: forms of float32's products, see `layers.products`.
        widened: 16 bits are computed in float32.
        native: but for bfloat16's matrix products, which the processor takes and adds up in
            float32.
        regional: XLA compiles by themselves long attention (`call_part`) and, where traces are
            shared, layers that it computes no slower than TensorFlow's kernels (`call_shared`).
        spares: memory counts for more than time, and only small pictures take other forms.
        queries: how many of attention meet keys at once.
        kernel_bytes: what at most an int8 kernel is cast to at once, or None; see `layers.int8`.
    """

    filtered: bool = False
    paired: bool = False
    widened: bool = False
    native: bool = False
    regional: bool = False
    spares: bool = False
    queries: int = QUERIES
    kernel_bytes: int | None = None


HALF = ("bfloat16", "float16")

_PLAIN = Forms()
_FORMS = ContextVar("forms", default=_PLAIN)


@contextmanager
def with_forms(allowed):
    """What is traced within this context may take these `Forms`."""
    before = _FORMS.set(allowed)
    try:
        yield
    finally:
        _FORMS.reset(before)


def forms():
    """The `Forms` that what is traced here may take."""
    return _FORMS.get()


def widen(x):
    """What is convolved: 16 bits in float32, where XLA would do so by itself."""
    is_half = keras.backend.standardize_dtype(x.dtype) in HALF
    return keras.ops.cast(x, "float32") if is_half and forms().widened else x


def widen_factor(x):
    """What `matmul` takes, and `widen` unless the processor computes in the dtype of `x`."""
    return x if is_native(x) else widen(x)


def is_native(x):
    """Whether `matmul` gives products of `x` in float32, which they are added up in."""
    return forms().native and keras.backend.standardize_dtype(x.dtype) == "bfloat16"


def matmul(left, right):
    """`ops.matmul`, but for native products, which are in float32."""
    if not (is_native(left) and is_native(right)):
        return keras.ops.matmul(left, right)
    left, right = (keras.ops.convert_to_tensor(factor) for factor in (left, right))
    if keras.backend.backend() == "tensorflow":
        return _native_by_tensorflow(left, right)
    import jax

    return jax.numpy.matmul(left, right, preferred_element_type="float32")


def _native_by_tensorflow(left, right):
    import tensorflow as tf

    def gradient(upstream):  # TensorFlow's own fails where dtypes differ
        with tf.GradientTape() as tape:
            tape.watch((left, right))
            wide = tf.matmul(tf.cast(left, "float32"), tf.cast(right, "float32"))
        return tape.gradient(wide, (left, right), upstream)

    run = tf.custom_gradient(
        lambda *factors: (tf.matmul(*factors, output_type="float32"), gradient)
    )
    return run(left, right)


def faster_forms(spares=False):
    """What XLA computes faster on processors; JAX's has another way with float32's matrices.

    Args:
        spares: whether memory counts for more.
    """
    name = keras.backend.backend()
    if device() != "cpu" or name not in ("tensorflow", "jax"):
        return Forms(spares=spares)
    native, paired = computes_in_bfloat16(), name == "tensorflow"
    return Forms(
        True, paired, widened=True, native=native, spares=spares, queries=_queries(),
        kernel_bytes=cache_size() // 4 or None,
    )  # fmt: skip


def _queries():
    """As many as let scores with 4096 keys, and what is made of them, stay in the last cache.

    With 32 MiB of it a step of SD 1.5's size took 0.94 to 0.97 of the time by 512 at once, with
    260 MiB attention 0.9 by 2048.
    """
    fit = cache_size() // 4 // (4 * 4096)
    return min(QUERIES, max(fit, QUERIES // 8)) if fit else QUERIES


def in_bfloat16(x):
    """Float32 from 0 up in bfloat16, halves rounded up.

    XLA's own conversion, in the loop over exponentials, takes three times as long as they do.
    """
    bits = keras.ops.view(x, "int32") + (1 << 15)
    return keras.ops.view(keras.ops.cast(keras.ops.right_shift(bits, 16), "int16"), "bfloat16")
