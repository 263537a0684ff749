"""TensorFlow's functions: compiled anew where a kept program was cut off, and wholly forgotten."""

import weakref
from contextlib import contextmanager

import tensorflow as tf

from kerasdiff.backend.kept_programs import forget_programs, keep_programs

try:
    from tensorflow.python.framework.ops import gradient_registry, uid
except ImportError:  # they are not part of the interface
    gradient_registry, uid = None, None

ROUND = 1 << 18  # far more numbers than a model takes; counting so far takes 0.05 s


def compile_function(function, jit_compile, prepare=None, in_parts=False):
    """A `tf.function`, compiled by XLA or not.

    Args:
        function: takes and returns nested structures of tensors.
        jit_compile: whether by XLA.
        prepare: called before the function is first traced, and before it is compiled anew; it
            has XLA compile a part of it.
        in_parts: whether XLA compiles parts of it by themselves.
    """

    gradients = set()

    def traced(*inputs):
        if jit_compile or prepare or in_parts:  # XLA keeps what it compiles
            _count_from_a_round_number()
        with _noting_gradients(gradients):
            return function(*inputs)

    def compile_anew():
        if prepare:
            prepare()
        compiled = tf.function(traced, jit_compile=jit_compile, autograph=False)
        # One trace for each size is meant, and no fault that the user could mend.
        compiled._omit_frequent_tracing_warning = True
        return compiled

    def run(*inputs):
        nonlocal compiled
        try:
            return compiled(*inputs)
        except (tf.errors.OutOfRangeError, tf.errors.InvalidArgumentError) as error:
            # A kept program was cut off or, by the second, is empty: a fall of the system, say.
            is_cut = isinstance(error, tf.errors.OutOfRangeError)
            if not is_cut and "Serialized cache key does not match" not in str(error):
                raise
            if not (kept := keep_programs()):
                message = "empty the folder of XLA's programs that TF_XLA_FLAGS names"
                raise RuntimeError(f"a kept program cannot be read: {message}") from error
            forget_programs(kept)
            compiled = compile_anew()
            return compiled(*inputs)

    compiled = compile_anew()
    weakref.finalize(run, _forget_gradients, gradients)
    return run


@contextmanager
def _noting_gradients(names):
    """Adds to a set what this context registers.

    Each use of a gradient of its own, SiLU's say, is registered for good with the trace that it
    stands in, and by it the network's weights: SD 1.5's 3.2 GiB, long after the network was let go.
    """
    before = set(gradient_registry.list()) if gradient_registry else ()
    try:
        yield
    finally:
        names |= set(gradient_registry.list()).difference(before) if gradient_registry else set()


def _forget_gradients(names):
    registered = getattr(gradient_registry, "_registry", {})
    for name in names:
        registered.pop(name, None)


def _count_from_a_round_number():
    """Has what is traced next be named as in other processes.

    Functions' names end in a number, every tensor takes one, and XLA finds a kept program by its
    functions' names: only after just as many tensors would it be found.
    """
    if uid:
        for _ in range(-uid() % ROUND):
            uid()
