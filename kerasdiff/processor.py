"""What the processor computes with, as far as Linux tells: what is quickest depends on it."""

import os
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_XLA = ContextVar("xla", default=None)


@contextmanager
def for_xla_of(framework):
    """Within this context `framework`'s XLA, or none, compiles what is traced, for this machine."""
    before = _XLA.set(framework)
    try:
        yield
    finally:
        _XLA.reset(before)


def whose_xla():
    """Which framework's XLA compiles what is traced here for this processor, or None.

    Their versions differ in what is quickest.
    """
    return _XLA.get()


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
