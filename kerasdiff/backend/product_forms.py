"""Which forms of products a program may take."""

from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import keras

from kerasdiff.backend.devices import device


class Forms(NamedTuple):
    """Forms of products that are faster than the plain ones, some of small pictures alone where
    memory is short; see `layers.products`.
    """

    filtered: bool = False
    paired: bool = False
    widened: bool = False
    spares: bool = False


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
    """What products are computed of: 16 bits in float32, where XLA would do so by itself."""
    return keras.ops.cast(x, "float32") if _is_widened(x.dtype) else x


def _is_widened(dtype):
    return forms().widened and keras.backend.standardize_dtype(dtype) in HALF


def faster_forms(spares=False):
    """What XLA computes faster on processors; JAX's has another way with matrices.

    Args:
        spares: whether memory counts for more.
    """
    name, on_processor = keras.backend.backend(), device() == "cpu"
    filtered = on_processor and name in ("tensorflow", "jax")
    paired = filtered and name == "tensorflow"
    return Forms(filtered, paired, widened=filtered, spares=spares)
