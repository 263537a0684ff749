"""Averaged weights (EMA): the optimizer keeps them, pictures and saved models use them."""

from contextlib import contextmanager


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
