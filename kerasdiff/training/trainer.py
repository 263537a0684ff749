"""What the trainers share: a compiled step of static shapes."""

import keras

from kerasdiff.backend import of_several_sizes, training_function
from kerasdiff.training.data.batches import Batches


class Trainer(keras.Model):
    """A Keras model whose `fit` compiles a step for each size of batch.

    Keras' own step on TensorFlow is traced with unknown sizes, where attention must run in a loop
    and XLA compiles twice.
    """

    def fit(self, x=None, *args, **options):
        """As Keras' own; `Batches` may be of several sizes."""
        if isinstance(x, Batches) and len(set(map(tuple, x.source.sizes))) > 1:
            x = of_several_sizes(x)
        return super().fit(x, *args, **options)

    def make_train_function(self, force=False):
        """What Keras calls before training; sets `train_function`.

        Raises:
            ValueError: `compile` was told to take several steps an execution.
        """
        if self.steps_per_execution != 1:
            raise ValueError(
                f"`steps_per_execution` must be 1 here, not {self.steps_per_execution}: a step is "
                "compiled whole, and states are counted by steps"
            )
        if self.train_function is None or force:
            self.train_function = training_function(self)
        if self.train_function is None:
            super().make_train_function(force)
        return self.train_function
