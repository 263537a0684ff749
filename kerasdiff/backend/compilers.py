"""Which compiler takes what, and how it is set up."""

import os

import keras

from kerasdiff.backend.devices import device
from kerasdiff.backend.kept_programs import keep_programs
from kerasdiff.backend.processor import (
    computes_by_onednn,
    computes_by_wide_vectors,
    computes_in_bfloat16,
)


def prepare_compiler():
    """Has XLA use the processor's widest vectors and keep its programs, for the whole process.

    It must come before the first tensor or question about devices: options are read then. What the
    environment says already stays. A step of SD 1.5's size took 0.95 of the time by vectors of 512
    bits, attention 0.92.

    Returns:
        The folder of programs, or None; see `keep_programs`.
    """
    option, flags = "--xla_cpu_prefer_vector_width", os.environ.get("XLA_FLAGS", "")
    is_tensorflow = keras.backend.backend() == "tensorflow"
    if is_tensorflow and option not in flags and computes_by_wide_vectors():
        os.environ["XLA_FLAGS"] = f"{flags} {option}=512".strip()
    return keep_programs()


def resolve_jit_compile(jit_compile, dtype):
    """`True`, `False`, or for `"auto"` what was measured for this device and dtype.

    XLA wins but for one case, bfloat16 on processors with instructions for it: TensorFlow's own
    kernels (oneDNN) use them and XLA's do not. `benchmarks.jit_compile` measures both.

    Raises:
        ValueError: if `jit_compile` is none of the three.
    """
    if jit_compile == "auto":
        return not (dtype == "bfloat16" and device() == "cpu" and computes_in_bfloat16())
    if jit_compile not in (True, False):
        raise ValueError(f'`jit_compile` must be True, False or "auto", not {jit_compile!r}')
    return bool(jit_compile)


def for_few_calls(jit_compile):
    """What to compile with where a program runs once a picture: what is ready soonest.

    On TensorFlow a graph. JAX without XLA goes operation by operation: CLIP's text encoder took
    1.5 times as long even at its first call.
    """
    return jit_compile if keras.backend.backend() == "jax" else False


def compiles_training():
    """Whether XLA compiles training steps, where nobody says.

    Not TensorFlow's on processors where it computes by oneDNN: a step is about as fast then, and
    ready sooner. Without oneDNN the demo model's takes 1.8 times as long as by XLA
    (`benchmarks.training`).
    """
    on_processor = keras.backend.backend() == "tensorflow" and device() == "cpu"
    return not (on_processor and computes_by_onednn())
