"""Muon for networks of convolutions (Jordan et al. 2024; scaled as in arXiv 2502.16982)."""

import re

import keras
from keras import ops


@keras.saving.register_keras_serializable("kerasdiff")
class Muon(keras.optimizers.Muon):
    """Keras' Muon, with convolutions' kernels taken as matrices.

    A kernel (h, w, I, O) is orthogonalised as (h w I, O); Keras leaves it to Adam. Embeddings,
    vectors, and what `exclude_layers` names are left to Adam, whose rate is
    `adam_lr_ratio * learning_rate`.
    """

    def _should_use_adamw(self, variable):
        excluded = [*self.exclude_layers, *(["embedding"] * self.exclude_embeddings)]
        return len(variable.shape) not in (2, 4) or any(
            re.search(keyword, variable.path) for keyword in excluded
        )

    def _muon_update_step(self, gradient, variable, lr, m):
        self.assign(m, gradient + self.momentum * m)
        step = gradient + self.momentum * m if self.nesterov else m
        matrix = ops.reshape(step, (-1, variable.shape[-1]))  # (h, w, I, O) -> (h w I, O)
        matrix = self.lr_adjust(lr * self.zeropower_via_newtonschulz5(matrix, self.ns_steps))
        self.assign_sub(variable, ops.reshape(matrix, variable.shape))
