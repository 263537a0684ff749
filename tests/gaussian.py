"""Samplers on data that are one normal distribution, where everything is known in closed form."""

import numpy as np

from kerasdiff.configs import ScheduleConfig
from kerasdiff.samplers import SAMPLERS
from kerasdiff.samplers.table import Leg, Level, Plan, tabulate

MEAN, SPREAD = 0.7, 0.5
VARIANCE_ONE = ("ddim", "ddpm", "plms", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "dpmpp_3m_sde",
                "unipc", "lcm")  # fmt: skip


def log_uniform_table(sampler, steps, first, last, eta=None, **options):
    """A sampler from sigma `first` to `last` in equal steps of log sigma; timesteps are sigmas."""
    config = ScheduleConfig(lower_order_final=False, **options)
    sigmas = np.geomspace(first, last, steps + 1)
    signals = 1 / np.sqrt(1 + sigmas**2) if sampler in VARIANCE_ONE else np.ones(steps + 1)
    levels = list(map(Level, signals, signals * sigmas))
    sources = levels[:1] + levels[:-2]
    legs = tuple(map(Leg, sigmas[:-1], levels[:-1], levels[1:], sources))
    rows = list(SAMPLERS[sampler].rows(Plan(legs, 0, config, eta, lambda sigma: sigma)))
    table = tabulate(rows, "epsilon", levels[0], steps)
    return table, levels[0], levels[-1]


def noise_in(scaled, sigma, constant=1.0, denoise=None):
    """The noise that the best denoiser, or another one, finds in x at variance one."""
    x = scaled * np.sqrt(1 + sigma**2)
    if denoise is None:
        clean = (SPREAD**2 * x + sigma**2 * MEAN * constant) / (SPREAD**2 + sigma**2)
    else:
        clean = denoise(x, sigma)
    return (x - clean) / sigma


def flow(x, first, last):
    """Where the probability flow carries x, in sigma coordinates."""
    return MEAN + (x - MEAN) * np.sqrt((SPREAD**2 + last**2) / (SPREAD**2 + first**2))
