"""Training on several devices and several machines: every device takes its rows of each batch.

Through Keras' own data parallelism on JAX. (On TensorFlow, `fit` works under `MirroredStrategy` on
one machine and fails under `MultiWorkerMirroredStrategy`: Keras 3.15, TensorFlow 2.21.)
"""

import keras

from kerasdiff.backend import join_processes


def distribute(coordinator=None, processes=1, index=0):
    """Makes `fit` use every device of every process; call it before any model is made.

    Each process runs the same program; `Batches(part=(index, processes))` gives it its rows. Losses
    and weights are those of one process with the whole batch, up to the order of sums.

    Args:
        coordinator: "host:port" of process 0, reachable from all; None for a single process.
        processes: how many there are.
        index: which one this is, from 0.

    Returns:
        The number of devices of all processes.

    Raises:
        ValueError: if the backend is not JAX, or arguments do not fit one another.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            "several devices or machines need the JAX backend: set the environment variable "
            "KERAS_BACKEND=jax"
        )
    if not 0 <= index < processes:
        raise ValueError(f"`index` must be from 0 to {processes - 1}, not {index}")
    if (coordinator is None) != (processes == 1):
        raise ValueError("`coordinator` is needed by several processes, and by them alone")
    if coordinator is not None:
        join_processes(coordinator, processes, index)
    # Batches are parts already; Keras would want to cut them itself.
    parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
    keras.distribution.set_distribution(parallel)
    return shared_devices()


def shared_devices():
    """How many devices share each batch: all of all processes after `distribute`, 1 without."""
    parallel = keras.distribution.distribution()
    return 1 if parallel is None else parallel.device_mesh.devices.size
