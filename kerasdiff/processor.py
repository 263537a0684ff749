"""What the processor computes with, as far as Linux tells: what is quickest depends on it."""

import os
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple


class Forms(NamedTuple):
    """Forms of products that are faster than the plain ones; see `layers.products`."""

    filtered: bool = False
    paired: bool = False
    widened: bool = False


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


def computes_in_bfloat16():
    """Whether it has instructions for bfloat16."""
    return _has_one_of("avx512_bf16", "amx_bf16")


def computes_by_onednn():
    """Whether TensorFlow takes oneDNN's kernels, by its own rule for Linux on x86.

    Where asked for; else on processors with instructions for networks.
    """
    asked = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").lower()
    if asked in ("0", "1", "false", "true"):
        return asked in ("1", "true")
    return _has_one_of("avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile")


def _has_one_of(*instructions):
    info = Path("/proc/cpuinfo")
    flags = info.read_text().split() if info.exists() else ()
    return any(name in flags for name in instructions)
