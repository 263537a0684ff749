"""Averaged weights (EMA): the optimizer keeps them, pictures and saved models use them."""

from contextlib import contextmanager

from keras import ops


class WarmedUp:
    """Mixed into an optimizer's class; see `warmed_up`."""

    def _update_model_variables_moving_average(self, trainable_variables):
        done = ops.cast(self._iterations, "float32")  # batches; `iterations` are steps
        momentum = ops.minimum((1.0 + done) / (10.0 + done), self.ema_momentum)
        momentum = ops.where(self.iterations > 0, momentum, 0.0)
        averages = self._model_variables_moving_average
        for variable, average in zip(trainable_variables, averages, strict=True):
            if average is not None:
                average.assign(momentum * average + (1.0 - momentum) * variable)


def warmed_up(kind):
    """An optimizer's class whose averages forget the first weights, however long they span.

    With `use_ema` the momentum after n batches is (1 + n) / (10 + n), some tenth of the way so
    far, until that reaches `ema_momentum`: Latent Diffusion's rule (arXiv 2112.10752, its code).
    The average begins as the weights after the first step, as in diffusers and Keras. All follows
    from the optimizer's own count, so that its state is what it is without.

    Args:
        kind: a class of Keras' optimizers.
    """
    return type(kind.__name__, (WarmedUp, kind), {})  # by this name Keras calls its variables


def has_averages(trainer):
    """Whether the optimizer of a compiled trainer keeps averages."""
    return _optimizer(trainer).use_ema


@contextmanager
def averaged(trainer):
    """Within this context, the trained variables hold their averages.

    Callbacks on the JAX backend need `trainer.jax_state_sync()` before.

    Args:
        trainer: compiled with an optimizer that has `use_ema=True`; with another one nothing
            changes.
    """
    if not has_averages(trainer):
        yield
        return
    variables = trainer.trainable_variables
    kept = [variable.value + 0.0 for variable in variables]
    averages = _optimizer(trainer)._model_variables_moving_average
    for variable, average in zip(variables, averages, strict=True):
        variable.assign(average)
    try:
        yield
    finally:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)


def _optimizer(trainer):
    return getattr(trainer.optimizer, "inner_optimizer", trainer.optimizer)  # of loss scaling
