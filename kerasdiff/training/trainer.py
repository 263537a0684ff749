"""What the trainers share: a compiled step of static shapes."""

import keras

from kerasdiff.backend import training_function


class Trainer(keras.Model):
    """A Keras model whose `fit` compiles a step for each size of batch.

    Keras' own step on TensorFlow is traced with unknown sizes, where attention must run in a loop
    and XLA compiles twice.
    """

    def make_train_function(self, force=False):
        """What Keras calls before training; sets `train_function`."""
        if self.train_function is None or force:
            self.train_function = training_function(self)
        if self.train_function is None:
            super().make_train_function(force)
        return self.train_function
