"""Which timesteps and noise levels a sampler visits.

The lists differ by family, and pictures depend on them: see `discrete`, `successive`, `distilled`,
`continuous` and `half_log`. Each takes (config, num_steps, eta) and returns a plan's legs.
"""

from dataclasses import replace

import numpy as np

from kerasdiff.configs import SIGMA_SPACINGS
from kerasdiff.noise_scheduler import alphas_cumprod_of, sigma_to_timestep, to_sigmas
from kerasdiff.samplers.table import Leg, Level

_RHO = 7.0
"""The exponent of Karras' levels (arXiv 2206.00364, equation 5)."""


def timesteps(config, count, spacing, steps=None):
    """Falling timesteps as arXiv 2305.08891, table 2, has them, (count,) float64.

    Args:
        steps: of how many the timesteps are part, more than `count` where the last are dropped.
    """
    total, steps = config.num_train_timesteps, steps or count
    if spacing == "linspace":
        found = np.linspace(0, total - 1, steps)[::-1]
    elif spacing == "leading":
        found = np.arange(steps)[::-1] * (total // steps) + config.steps_offset
    else:
        found = np.arange(total, 0, -total / count).round() - 1
    return found[:count].astype("float64")


def schedule_sigmas(config):
    """sigma of each training timestep, rising, (num_train_timesteps,) float32.

    At zero terminal SNR the last one would be infinite: 4096 stands for it.
    """
    alphas_cumprod = alphas_cumprod_of(config)
    if config.zero_terminal_snr:
        alphas_cumprod[-1] = 2.0**-24
    return to_sigmas(alphas_cumprod)


def _respaced(config, sigmas, count):
    """Noise levels between two ends, evenly in sigma^(1/7) or in log sigma."""
    high = sigmas[0] if config.sigma_max is None else config.sigma_max
    low = sigmas[-1] if config.sigma_min is None else config.sigma_min
    if config.sigma_spacing == "karras":
        ramp = np.linspace(0, 1, count)
        high, low = float(high) ** (1 / _RHO), float(low) ** (1 / _RHO)
        return (high + ramp * (low - high)) ** _RHO
    return np.exp(np.linspace(np.log(float(high)), np.log(float(low)), count))


def _with_final(config, sigmas, schedule):
    return np.append(sigmas, 0.0 if config.final_sigma == "zero" else schedule[0])


def _legs(times, levels):
    return tuple(map(Leg, times, levels[:-1], levels[1:]))


def continuous(config, count, eta, whole_karras=False, own_ends=False):
    """Samplers in sigma: fractional timesteps; Karras' levels lie between those of the spacing.

    Args:
        whole_karras: whether their timesteps are rounded (dpm2).
        own_ends: whether their ends are always those of the spacing (lms, dpmpp_sde).
    """
    if own_ends and config.sigma_spacing == "karras":
        config = replace(config, sigma_min=None, sigma_max=None)
    schedule = schedule_sigmas(config)
    times = timesteps(config, count, config.spacing or "linspace")
    sigmas = np.interp(times, np.arange(len(schedule)), schedule)
    if config.sigma_spacing:
        sigmas = _respaced(config, sigmas, count)
        times = sigma_to_timestep(sigmas, schedule)
        if whole_karras and config.sigma_spacing == "karras":
            times = times.round()
    sigmas = _with_final(config, sigmas, schedule)
    return _legs(times, [Level(np.float64(1.0), sigma) for sigma in sigmas])


def half_log(config, count, eta, whole=False):
    """DPM-Solver's family: whole timesteps, the first of one more than asked for; x at variance
    one; Karras' levels span the whole schedule.

    Args:
        whole: whether respaced levels are unipc's: Karras' timesteps are rounded whatever the
            betas, and the last level is the last one respaced, not the schedule's.
    """
    schedule = schedule_sigmas(config)
    times = timesteps(config, count, config.spacing or "linspace", count + 1).round()
    sigmas = np.interp(times, np.arange(len(schedule)), schedule)
    if config.sigma_spacing:
        sigmas = _respaced(config, schedule[::-1], count)
        times = sigma_to_timestep(sigmas, schedule)
        rounds = whole or config.beta_schedule != "squaredcos_cap_v2"
        if config.sigma_spacing == "karras" and rounds:
            times = times.round()
        times = np.floor(times)
    is_last = whole and config.sigma_spacing is not None
    sigmas = _with_final(config, sigmas, sigmas[-1:] if is_last else schedule)
    signals = 1 / np.sqrt(sigmas**2 + 1)
    return _legs(times, list(map(Level, signals, sigmas * signals)))


def discrete(config, count, eta):
    """DDIM and PLMS: whole timesteps, each step 1/count of the schedule long, wherever it starts.

    The last one ends at a clean picture, or at the schedule's first level.
    """
    level_of = _training_levels(config)
    last = Level(np.float64(1.0), np.float64(0.0)) if config.set_alpha_to_one else level_of(0)
    length = config.num_train_timesteps // count

    def leg(time):
        target = level_of(time - length) if time >= length else last
        source = level_of(min(time + length, config.num_train_timesteps - 1))
        return Leg(float(time), level_of(time), target, source)

    return tuple(map(leg, _whole_timesteps(config, count)))


def successive(config, count, eta):
    """DDPM: whole timesteps, each step to the next one and the last to a clean picture."""
    level_of = _training_levels(config)
    times = _whole_timesteps(config, count)
    return _legs(map(float, times), [*map(level_of, times), Level(np.float64(1), np.float64(0))])


def distilled(config, count, eta):
    """LCM and TCD: timesteps spread over the grid of distillation.

    With `eta`, a step's target lies that far beyond the next timestep.
    """
    grid = config.original_inference_steps
    if not count <= grid <= config.num_train_timesteps:
        raise ValueError(
            f"`num_steps` must be at most original_inference_steps = {grid} for this sampler, "
            f"not {count}"
        )
    level_of = _training_levels(config)
    stride = config.num_train_timesteps // grid
    chosen = np.floor(np.linspace(0, grid, count, endpoint=False)).astype(int)
    times = (grid - chosen) * stride - 1
    # In float32, as where the checkpoints' samplers round it.
    beyond = np.floor(np.float32(1.0 - (eta or 0.0)) * np.append(times[1:], 0).astype("float32"))
    return tuple(
        Leg(float(time), level_of(time), level_of(int(target)))
        for time, target in zip(times, beyond, strict=True)
    )


def _whole_timesteps(config, count):
    """Rounded timesteps of a spacing, (count,) int64, all inside the schedule."""
    spacing = config.spacing or "leading"
    times = timesteps(config, count, spacing).round().astype("int64")
    if times[0] >= config.num_train_timesteps:
        raise ValueError(
            f"`num_steps` = {count} with {spacing!r} spacing and steps_offset = "
            f"{config.steps_offset} asks for timestep {times[0]}, beyond the "
            f"{config.num_train_timesteps} of the schedule"
        )
    return times


def _training_levels(config):
    """timestep -> level at variance one."""
    alphas_cumprod = alphas_cumprod_of(config).astype("float64")

    def level_of(time):
        return Level(np.sqrt(alphas_cumprod[time]), np.sqrt(1 - alphas_cumprod[time]))

    return level_of


def with_spacing(config, spacing):
    """A config whose timesteps or noise levels are spaced as named; None leaves it."""
    if spacing is None:
        return config
    if spacing in SIGMA_SPACINGS:
        return replace(config, sigma_spacing=spacing)
    return replace(config, spacing=spacing, sigma_spacing=None)
