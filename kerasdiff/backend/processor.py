"""What the processor computes with, as far as Linux tells: what is quickest depends on it."""

import functools
import os
from pathlib import Path


def computes_in_bfloat16():
    """Whether it has instructions for bfloat16 that are faster than float32's.

    Intel's of AVX-512 are slower since Sapphire Rapids, where AMX is meant to be used instead; but
    a virtual machine may hide it. `benchmarks.jit_compile` tells.
    """
    if _has_one_of("amx_bf16"):
        return True
    is_slow = _has_one_of("GenuineIntel") and _has_one_of("avx512_fp16")
    return _has_one_of("avx512_bf16") and not is_slow


def computes_by_wide_vectors():
    """Whether vectors of 512 bits are no slower a piece than those of 256, which XLA prefers.

    They were on the first processors that had them, which took their clock down.
    """
    return _has_one_of("avx512_bf16")


def computes_by_onednn():
    """Whether TensorFlow takes oneDNN's kernels, by its own rule for Linux on x86.

    Where asked for; else on processors with instructions for networks.
    """
    asked = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").lower()
    if asked in ("0", "1", "false", "true"):
        return asked in ("1", "true")
    return _has_one_of("avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile")


def cache_size():
    """Bytes of the last cache before memory, or 0 where Linux does not tell."""
    size = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    try:
        return int(size.read_text().strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 0


def _has_one_of(*instructions):
    return not _flags().isdisjoint(instructions)


@functools.cache
def _flags():
    """Words that Linux describes the processor by, for each of its cores anew."""
    info = Path("/proc/cpuinfo")
    return frozenset(info.read_text().split()) if info.exists() else frozenset()
