"""What the trainers share: a compiled step of static shapes, and what can be trained at all."""

import keras

from kerasdiff.backend import errors_of, of_several_sizes, training_function
from kerasdiff.layers.int8 import KernelLayer
from kerasdiff.training.data.batches import Batches


class Trainer(keras.Model):
    """A Keras model whose `fit` compiles a step for each size of batch.

    Keras' own step on TensorFlow is traced with unknown sizes, where attention must run in a loop
    and XLA compiles twice.

    What is trainable must be float32: networks of `dtype` float32, mixed_bfloat16 or mixed_float16.
    Frozen ones may be of any dtype, and int8.
    """

    def compile(self, optimizer="rmsprop", loss=None, *, auto_scale_loss=True, **options):
        """As Keras' own; the loss is scaled where a network computes in float16.

        Keras itself looks at the trainer's dtype alone, which is float32.
        """
        optimizer, scaling = keras.optimizers.get(optimizer), keras.optimizers.LossScaleOptimizer
        narrow = any(layer.compute_dtype == "float16" for layer in self._flatten_layers())
        if auto_scale_loss and narrow and not isinstance(optimizer, scaling):
            optimizer = scaling(optimizer, name="loss_scale")
        options |= {"optimizer": optimizer, "loss": loss, "auto_scale_loss": auto_scale_loss}
        super().compile(**options)

    def fit(self, x=None, *args, **options):
        """As Keras' own; `Batches` may be of several sizes, and raise their own errors."""
        if not isinstance(x, Batches):
            return super().fit(x, *args, **options)
        with errors_of(x):
            several = len(set(map(tuple, x.source.sizes))) > 1
            return super().fit(of_several_sizes(x) if several else x, *args, **options)

    def make_train_function(self, force=False):
        """What Keras calls before training; sets `train_function`.

        Raises:
            ValueError: `compile` was told to take several steps an execution; nothing is
                trainable, or something that is not float32.
        """
        if self.steps_per_execution != 1:
            raise ValueError(
                f"`steps_per_execution` must be 1 here, not {self.steps_per_execution}: a step is "
                "compiled whole, and states are counted by steps"
            )
        if self.train_function is None or force:
            _check_trained(self)
            self.train_function = training_function(self)
        if self.train_function is None:
            super().make_train_function(force)
        return self.train_function


def _check_trained(trainer):
    """ValueError unless something is trainable, and all of it float32."""
    if not trainer.trainable_variables:
        raise ValueError(
            f"nothing of {trainer.name} is trainable: set `trainable = True` of the network that "
            "is to be trained; a trainer before may have frozen it"
        )
    for layer in trainer._flatten_layers():
        if layer.trainable and isinstance(layer, KernelLayer) and layer.scale is not None:
            raise ValueError(
                f"the layer {layer.path} is int8 and cannot be trained: make its network without "
                "`int8`, or freeze what is not to be trained by `trainable = False`"
            )
    for variable in trainer.trainable_variables:
        if variable.dtype != "float32":
            raise ValueError(
                f"the variable {variable.path} is {variable.dtype}, in which small changes are "
                'rounded away: make its network with `dtype="mixed_bfloat16"` or "float32", or '
                "freeze what is not to be trained by `trainable = False`"
            )
