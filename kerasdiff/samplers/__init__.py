"""Samplers: from a noise schedule and a number of steps to a table of weights.

`make_table` is all that the rest needs; `table.py` says what a table is, `spacing.py` which noise
levels are visited, `one_step.py` and `multistep.py` hold the methods.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np

from kerasdiff.configs import (
    FINAL_SIGMAS,
    FIXED_VARIANCES,
    PREDICTION_TYPES,
    SIGMA_SPACINGS,
    SOLVER_TYPES,
    TIMESTEP_SPACINGS,
    ScheduleConfig,
)
from kerasdiff.noise_scheduler import sigma_to_timestep
from kerasdiff.samplers import multistep, one_step
from kerasdiff.samplers import spacing as _spacing
from kerasdiff.samplers.table import COLUMNS, Plan, Table, tabulate

__all__ = ["COLUMNS", "SAMPLERS", "SPACINGS", "Table", "as_read", "make_table"]


class _Sampler(NamedTuple):
    """Which rows, over which legs, the default of `eta` where there is one, and what is not read.

    A config may hold fields of other samplers, for when it is changed; each of diffusers' classes
    reads its own alone.
    """

    rows: Callable
    legs: Callable
    eta: float | None = None
    unread: tuple[str, ...] = ()


_PLAIN = ("zero_terminal_snr", "final_sigma")
_IN_SIGMA, _HALF_LOG = _spacing.continuous, _spacing.half_log
SAMPLERS = {
    "ddim": _Sampler(one_step.ddim, _spacing.discrete, eta=0.0),
    "ddpm": _Sampler(one_step.ddpm, _spacing.successive),
    "euler": _Sampler(one_step.euler, _IN_SIGMA),
    "euler_ancestral": _Sampler(
        one_step.euler_ancestral, _IN_SIGMA, unread=("sigma_spacing", "final_sigma")
    ),
    "heun": _Sampler(one_step.heun, _IN_SIGMA, unread=_PLAIN),
    "dpm2": _Sampler(one_step.dpm2, partial(_IN_SIGMA, whole_karras=True), unread=_PLAIN),
    "lms": _Sampler(multistep.lms, partial(_IN_SIGMA, own_ends=True), unread=_PLAIN),
    "plms": _Sampler(multistep.plms, _spacing.discrete, unread=("zero_terminal_snr",)),
    "dpmpp_2m": _Sampler(partial(multistep.dpmpp, order=2), _HALF_LOG),
    "dpmpp_3m": _Sampler(partial(multistep.dpmpp, order=3), _HALF_LOG),
    "dpmpp_2m_sde": _Sampler(partial(multistep.dpmpp, order=2, sde=True), _HALF_LOG),
    "dpmpp_3m_sde": _Sampler(partial(multistep.dpmpp, order=3, sde=True), _HALF_LOG),
    "dpmpp_sde": _Sampler(one_step.dpmpp_sde, partial(_IN_SIGMA, own_ends=True), unread=_PLAIN),
    "unipc": _Sampler(multistep.unipc, partial(_HALF_LOG, whole=True)),
    "lcm": _Sampler(one_step.lcm, _spacing.distilled),
    "tcd": _Sampler(one_step.tcd, _spacing.distilled, eta=0.0),
}
SPACINGS = (*TIMESTEP_SPACINGS, *SIGMA_SPACINGS)

_CHOICES = {
    "prediction_type": PREDICTION_TYPES,
    "spacing": (None, *TIMESTEP_SPACINGS),
    "sigma_spacing": (None, *SIGMA_SPACINGS),
    "final_sigma": FINAL_SIGMAS,
    "solver_order": (1, 2, 3),
    "solver_type": SOLVER_TYPES,
    "variance_type": FIXED_VARIANCES,
}


def make_table(
    config, num_steps, *, sampler=None, schedule=None, strength=1.0, from_noise=True, eta=None
):
    """A sampler over a noise schedule as a table of weights.

    Args:
        config: a `ScheduleConfig`.
        num_steps: steps over the whole schedule, 1 to `config.num_train_timesteps`.
        sampler: one of `SAMPLERS`; None takes the checkpoint's own.
        schedule: one of `SPACINGS`; None takes the checkpoint's own. `"karras"` and
            `"exponential"` respace the levels found by the checkpoint's spacing of timesteps, and
            are for samplers that step between noise levels.
        strength: the share of the steps that is taken, from the end, in (0, 1].
        from_noise: whether x starts as pure noise (at strength 1), or else as latents with noise.
        eta: ddim's fresh noise, or tcd's gamma, in [0, 1]; None is 0, as in diffusers' pipelines.

    Returns:
        A `Table`.

    Raises:
        ValueError: on unknown names, numbers out of range, a strength that leaves no step, and
            combinations that have no meaning; each named.
    """
    name = config.sampler if sampler is None else sampler
    _check_choices(config, name, schedule)
    _check_numbers(config, num_steps, strength, from_noise)
    chosen = SAMPLERS[name]
    eta = _check_eta(name, chosen.eta, eta)
    _check_schedule(name, chosen.legs, schedule)

    config = as_read(config, name, schedule)
    legs, sigmas = _legs_and_sigmas(chosen.legs, config, num_steps, eta)
    steps = int(num_steps * strength)
    plan = Plan(legs, num_steps - steps, config, eta, partial(sigma_to_timestep, sigmas=sigmas))
    # Weights that come out infinite are refused below, all in one place.
    with np.errstate(all="ignore"):
        rows = list(chosen.rows(plan))
        initial = (0.0, _pure_noise(config, legs)) if from_noise else rows[0].level
        return tabulate(rows, config.prediction_type, initial, steps)


def as_read(config, sampler, schedule=None):
    """A `ScheduleConfig` as a sampler reads it: without what is for others, spaced as named."""
    unread = SAMPLERS[sampler].unread
    config = replace(config, **{field: getattr(ScheduleConfig, field) for field in unread})
    return _spacing.with_spacing(config, schedule)


@lru_cache(maxsize=4)  # a plan's slow half, the same for every strength
def _legs_and_sigmas(legs, config, num_steps, eta):
    return legs(config, num_steps, eta), _spacing.schedule_sigmas(config)


def _pure_noise(config, legs):
    """The deviation of starting noise: 1, or in sigma coordinates about the highest sigma.

    With leading spacing, that does not reach the noisiest level, the deviation of a noisy picture.
    """
    if legs[0].level.signal < 1.0:
        return 1.0
    highest = max(leg.level.noise for leg in legs)
    return np.hypot(highest, 1.0) if config.spacing == "leading" else highest


def _check_choices(config, sampler, schedule):
    if sampler not in SAMPLERS:
        raise ValueError(f"`sampler` must be one of {', '.join(SAMPLERS)}, not {sampler!r}")
    if schedule is not None and schedule not in SPACINGS:
        raise ValueError(f"`schedule` must be one of {', '.join(SPACINGS)}, not {schedule!r}")
    for field, known in _CHOICES.items():
        if getattr(config, field) not in known:
            raise ValueError(f"`{field}` must be one of {known}, not {getattr(config, field)!r}")


def _check_numbers(config, num_steps, strength, from_noise):
    total = config.num_train_timesteps
    whole = isinstance(num_steps, Integral) and not isinstance(num_steps, bool)
    if not whole or not 1 <= num_steps <= total:
        raise ValueError(f"`num_steps` must be an integer from 1 to {total}, not {num_steps!r}")
    if not _is_number(strength) or not 0.0 < strength <= 1.0:
        raise ValueError(f"`strength` must be a number above 0 and up to 1, not {strength!r}")
    if int(num_steps * strength) < 1:
        raise ValueError(f"`strength` {strength} of {num_steps} steps leaves no step")
    if from_noise and strength < 1.0:
        raise ValueError(f"starting from pure noise needs `strength` 1, not {strength}")


def _check_eta(sampler, default, eta):
    if eta is None:
        return default
    if default is None:
        raise ValueError(f"`eta` is for ddim and tcd, not for {sampler}")
    if not _is_number(eta) or not 0.0 <= eta <= 1.0:
        raise ValueError(f"`eta` must be a number from 0 to 1, not {eta!r}")
    return float(eta)


def _check_schedule(sampler, legs, schedule):
    if legs is _spacing.distilled and schedule is not None:
        raise ValueError(
            f"`schedule` {schedule!r} is not for {sampler}, which has timesteps of its own"
        )
    if legs in (_spacing.discrete, _spacing.successive) and schedule in SIGMA_SPACINGS:
        raise ValueError(
            f"`schedule` {schedule!r} is for samplers between noise levels; {sampler} takes one of "
            f"{', '.join(TIMESTEP_SPACINGS)}"
        )


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool)
