"""Which device programs run on, and what a backend can do there."""

import functools

import keras
import numpy as np


def device():
    """Kind of the device that programs run on: `"cpu"`, `"gpu"` or `"tpu"`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return next(
            (kind.lower() for kind in ("TPU", "GPU") if tf.config.list_physical_devices(kind)),
            "cpu",
        )
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend()
    return "cpu"


@functools.cache
def fused_attention_dtypes():
    """In which dtypes Keras hands attention to a kernel that needs no scores in memory.

    cuDNN's on JAX with NVIDIA's GPUs from Ampere on, and OpenVINO's.
    """
    if keras.backend.backend() == "openvino":
        return ("float32", "bfloat16")
    if keras.backend.backend() != "jax" or device() != "gpu":
        return ()
    import jax

    gpu = jax.devices()[0]
    fits = "cuda" in gpu.client.platform_version and float(gpu.compute_capability) >= 8.0
    return ("float16", "bfloat16") if fits else ()


def loops_in_python():
    """Whether a loop would go through Python here: TensorFlow's, outside of any program."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.executing_eagerly()


def runs_one_by_one():
    """Whether layers run well without a program: OpenVINO's gave another picture, in minutes."""
    return keras.backend.backend() != "openvino"


def check_trains():
    """ValueError on a backend that makes pictures only."""
    if keras.backend.backend() == "openvino":
        raise ValueError("OpenVINO does not train: set KERAS_BACKEND to tensorflow or jax")


def join_processes(coordinator, processes, index):
    """Lets JAX see the devices of all processes; see `training.devices`."""
    import jax

    # Between processors the collectives are Gloo's; accelerators bring their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize(coordinator, processes, index)


def process_count():
    """How many processes were joined: 1 but after `join_processes`.

    Where there are several, each assignment is one that all take part in, in the same order.
    """
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return jax.process_count()


def of_all_processes(number):
    """Whole numbers of all processes that were joined, in their order; every process must ask.

    Args:
        number: this process' own, below 2**31.
    """
    if process_count() == 1:
        return [number]
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(np.int32(number)).tolist()
