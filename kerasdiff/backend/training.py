"""Training steps, compiled."""

from contextlib import contextmanager

import keras

from kerasdiff.backend.devices import device
from kerasdiff.backend.product_forms import Forms, with_forms
from kerasdiff.backend.shared_traces import sharing_traces


def training_function(trainer):
    """A compiled training step for Keras' `fit`, traced once for each size of batch.

    Args:
        trainer: a compiled `keras.Model`.

    Returns:
        A function of an iterator over batches that takes a step; None where Keras' own will do
        (on JAX, whose steps always know their sizes) or must (on several devices).
    """
    if keras.backend.backend() != "tensorflow":
        return None
    if trainer.run_eagerly or trainer.distribute_strategy.num_replicas_in_sync > 1:
        return None

    from kerasdiff.backend.tensorflow_programs import compile_function

    def prepare():
        _compile_update(trainer.optimizer, trainer.trainable_variables)

    whole = trainer.jit_compile

    def train(batch):
        with training_forms():
            return trainer.train_step(batch)

    step = compile_function(train, whole, None if whole else prepare)
    # Taken from the iterator outside of the graph, a batch knows its size.
    return lambda iterator: step(next(iterator))


@contextmanager
def training_forms():
    """Within this context XLA compiles long attention in a form of its own, on processors.

    With gradients it takes 0.7 of the time that TensorFlow's kernels do in float32, and in
    bfloat16 less than half of what XLA takes in the plain form. By all forms of products, steps of
    the demo model were no faster.
    """
    regional = keras.backend.backend() == "tensorflow" and device() == "cpu"
    with with_forms(Forms(regional=regional)), sharing_traces(of_layers=False):
        yield


def of_several_sizes(batches):
    """What Keras' `fit` takes for batches that differ in height and width.

    On TensorFlow it would expect of all batches the sizes of the first two.

    Args:
        batches: a `keras.utils.PyDataset` of tuples of dicts of arrays, of which those of pictures
            have the shape (B, H, W, C).
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    def any_size(array):
        open_axes = 3 if array.ndim == 4 else 1
        return tf.TensorSpec([None] * open_axes + [*array.shape[open_axes:]], array.dtype)

    adapter = PyDatasetAdapter(batches)
    adapter._output_signature = tf.nest.map_structure(any_size, batches[0])
    return adapter


@contextmanager
def errors_of(batches):
    """Within this context an error of `batches` is raised as it was.

    TensorFlow would raise one of its own, with a traceback for its message.

    Args:
        batches: its `error` is what reading one of them raised, or None.
    """
    batches.error = None
    try:
        yield
    except Exception as error:
        if keras.backend.backend() == "tensorflow" and batches.error is not None:
            import tensorflow as tf

            if isinstance(error, tf.errors.OpError):
                raise batches.error from None
        raise


def loss_of_replica(loss):
    """A trainer's own loss, a mean over its rows, divided by the devices that share the batch.

    TensorFlow's strategies add up the gradients of all devices; Keras divides its own losses alike
    and multiplies what it logs. On JAX the mean is over the whole batch already.
    """
    if keras.backend.backend() != "tensorflow":
        return loss
    import tensorflow as tf

    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return loss / replicas if replicas > 1 else loss


def _compile_update(optimizer, variables):
    """Has XLA join an update's hundreds of small operations: steps of the demo model take 5 % less.

    Where XLA does not compile all of it, see `compiles_training`.
    """
    import tensorflow as tf

    if not optimizer.built:  # one that scales losses would add to its variables once more
        optimizer.build(variables)
    apply = type(optimizer).apply.__get__(optimizer)
    update = tf.function(
        lambda gradients: apply(gradients, variables), jit_compile=True, autograph=False
    )
    optimizer.apply = lambda gradients, trainable_variables=None: update(list(gradients))
