"""Variables, made soon; their memory, taken without filling it and given without a copy; freed
memory, kept or not.

Touching gigabytes of new memory takes seconds; that of a weight which a checkpoint will fill is
touched once, when its tensor is cast into it.
"""

import ctypes
import math
import mmap
import os
import platform
import threading
from contextlib import contextmanager

import keras
import numpy as np

from kerasdiff.backend.devices import device

# Else a process that is forked would share them. Windows has neither.
_PRIVATE = {} if os.name == "nt" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}

SHORTEST_PAUSE, WORTHWHILE = 0.2, 2**24  # seconds; bytes


def empty(shape, dtype):
    """A tensor of any values, to be overwritten; zeros where the backend has no such thing."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.raw_ops.Empty(shape=shape, dtype=dtype, init=False)
    return keras.ops.zeros(shape, dtype)


@contextmanager
def unscoped_names():
    """Within this context TensorFlow's names of variables begin with none of the layers around.

    An operation makes each variable and is prepared anew for each name: that took SD 1.5's UNet
    0.5 s. Keras' paths stay whole; a SavedModel's variables are all called "kernel", "bias",
    "gamma" or "beta".
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    def make_variable(make_next, **settings):
        with tf.name_scope(""):  # the outermost
            return make_next(**settings)

    with tf.variable_creator_scope(make_variable):
        yield


def new_array(shape, dtype):
    """A NumPy array of zeros in memory that `hand_over` need not copy, and nobody touched yet.

    Pages of its own begin where TensorFlow wants an array to begin. NumPy's memory does not, and
    NumPy asks Linux for huge pages, for which it may have to move others: that took twice as long.
    """
    dtype = np.dtype(dtype)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, **_PRIVATE)
    return np.frombuffer(pages, dtype).reshape(shape)


def hand_over(array, variable):
    """Assigns an array that nobody will change any more, or a tensor.

    On TensorFlow the variable lies in the memory of a `new_array` or tensor itself, until its first
    update: what shares memory is copied then.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # `assign` would make a constant of the array first, which is a copy.
        for each in getattr(variable.value, "values", [variable.value]):
            tf.raw_ops.AssignVariableOp(resource=each.handle, value=array)
    else:
        variable.assign(array)


def give_up(variables):
    """Frees the memory of variables until their next values; what reads them before fails."""
    for variable in variables:
        nothing = keras.ops.zeros((0,), variable.dtype)
        if keras.backend.backend() == "tensorflow":
            hand_over(nothing, variable)  # unlike `assign`, it looks at no shape
        else:
            variable._value = nothing


def give_back_freed_memory():
    """Has the C library give the system back what was freed; Linux with glibc only."""
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory():
    """Has the C library keep what a step frees for the next step.

    A step asks for gigabytes in large pieces and frees them. By default each piece comes from the
    system anew, as pages that are cleared and faulted in one by one, which took much of a training
    step. The price: the process stays as large as it once was. Linux with glibc only, for the
    whole process; elsewhere nothing is done.

    Returns:
        Whether it was done.
    """
    if device() != "cpu" or not _has_glibc():
        return False
    set_option = ctypes.CDLL(None).mallopt
    # malloc.h: M_MMAP_MAX: no piece of its own mapping; M_TRIM_THRESHOLD: none given back;
    # M_ARENA_MAX: threads find what others have freed.
    return all([set_option(-4, 0), set_option(-1, 2**31 - 1), set_option(-8, 1)])


@contextmanager
def giving_back_freed_memory():
    """Has the C library give back what is freed within this context, soon after.

    Compilers take and free small pieces. By default the C library holds on to all that lie below
    one still in use, beside what the program then needs.
    Linux with glibc only; elsewhere nothing is done.
    """
    if not _has_glibc():
        yield
        return
    over = threading.Event()

    def watch():
        pause = SHORTEST_PAUSE
        while not over.wait(pause):
            before = _resident()
            # It takes time: once nothing comes of it, a program runs, no compiler.
            give_back_freed_memory()
            pause = SHORTEST_PAUSE if before - _resident() > WORTHWHILE else min(2 * pause, 1.0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _resident():
    """Bytes of the process that lie in memory."""
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * mmap.PAGESIZE


def _has_glibc():
    return platform.libc_ver()[0] == "glibc"
