"""Which compiler takes what, and how it is set up."""

import functools
import os

import keras

from kerasdiff.backend.devices import device
from kerasdiff.backend.kept_programs import add_options, keep_programs
from kerasdiff.backend.processor import (
    computes_by_onednn,
    computes_by_wide_vectors,
    computes_in_bfloat16,
)


def prepare_compiler(memory="high", dtype=None, jit_compile="auto"):
    """Sets TensorFlow and XLA up for the whole process, and has XLA keep its programs.

    It must come before the first tensor or question about devices: options are read then. They are
    set in the environment, which child processes inherit; what it says already stays.

    Args:
        memory, dtype, jit_compile: of the `StableDiffusion` to come; see `_has_pool`.

    Returns:
        The folder of programs, or None; see `keep_programs`.
    """
    if keras.backend.backend() == "tensorflow":
        add_options("XLA_FLAGS", _options())
        # XLA folds constants itself. Before it, that took more than a second of SD 1.5's first
        # step: most are loops' first values, millions of zeros, copied and looked at.
        add_options("TF_XLA_FLAGS", {"--tf_xla_disable_constant_folding": "true"})
        if not _has_pool(memory, dtype, jit_compile):
            os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
    return keep_programs()


def _has_pool(memory, dtype, jit_compile):
    """Whether TensorFlow keeps the memory of its own kernels (oneDNN's) in a pool.

    XLA's programs ask for memory once a picture, each for one large piece, and the pool keeps
    pieces that fit no later one: a second picture of 1024x1024 with "medium" took 9.8 GiB, without
    it 6.6. Graphs ask for every operation's, and take 1.2 times as long without it (SD 1.5's image
    encoder) or more. It is the whole process' pool: with "high" it stays, for what else computes
    there.
    """
    by_xla = not _is_faster_by_graphs(dtype) if jit_compile == "auto" else jit_compile
    return memory == "high" or (memory == "medium" and not by_xla)


def _options():
    """XLA's options, by name.

    What is the same for all steps of a loop is not computed ahead, which is little but for the bits
    of bfloat16's weights, copied beside them: a step of SD 1.5's size peaked at 5.1 GiB and took
    7.1 s, without 3.6 and 6.8. Vectors of 512 bits took 0.95 of the time on a Xeon, and attention
    0.92.
    """
    options = {"--xla_disable_hlo_passes": "while-loop-invariant-code-motion"}
    if computes_by_wide_vectors():
        options["--xla_cpu_prefer_vector_width"] = "512"
    return options


@functools.cache
def compute_float32_in_full():
    """Has accelerators take products of float32 in float32, for the whole process.

    By default NVIDIA's GPUs keep 10 bits of each factor (TF32), TPUs on JAX 7. What somebody told
    JAX before stays; TensorFlow does not tell whether anybody did, and can be told again after.
    """
    if device() == "cpu":
        return
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    elif keras.backend.backend() == "jax":
        import jax

        if jax.config.jax_default_matmul_precision is None:
            jax.config.update("jax_default_matmul_precision", "highest")


def resolve_jit_compile(jit_compile, dtype):
    """`True`, `False`, or for `"auto"` what is faster on this device and in this dtype.

    XLA wins but for one case: TensorFlow in bfloat16 on processors whose instructions for it are
    faster than float32's. Its own kernels (oneDNN's) convolve by them and XLA's do not; the rest
    XLA computes sooner there too, see `Program`. `benchmarks.jit_compile` measures them.

    Raises:
        ValueError: if `jit_compile` is none of the three.
    """
    if jit_compile == "auto":
        by_onednn = keras.backend.backend() == "tensorflow" and device() == "cpu"
        return not (by_onednn and _is_faster_by_graphs(dtype))
    if jit_compile not in (True, False):
        raise ValueError(f'`jit_compile` must be True, False or "auto", not {jit_compile!r}')
    return bool(jit_compile)


def _is_faster_by_graphs(dtype):
    """Whether TensorFlow's own kernels make a processor faster than XLA does."""
    return dtype == "bfloat16" and computes_in_bfloat16()


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
