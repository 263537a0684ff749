"""Exact attention in bounded memory, as a pure function and as a Keras layer."""

from kerasdiff.attention.function import attention, without_loops
from kerasdiff.attention.layer import MemoryEfficientAttention

__all__ = ["MemoryEfficientAttention", "attention", "without_loops"]
