"""The table that a sampler is: rows of weights, and the plan that it is made from.

Every fixed-step sampler is linear: the next x is a weighted sum of the last few x, of the last few
denoised D and of fresh noise. A sampler is therefore written as its textbook formula over the
basis vectors X, D, NOISE and so on below; the vector that comes out holds the weights of a row.
"""

from collections.abc import Callable
from math import hypot
from typing import NamedTuple

import numpy as np

from kerasdiff.configs import ScheduleConfig

COLUMNS = (
    "c_in", "c_skip", "c_out", "timestep", "signal", "noise",
    "x0", "x1", "x2", "x3", "raw", "d0", "d1", "d2", "d3", "noise_weight",
    "noise_slot", "guidance",
)  # fmt: skip
"""One row is: F = network(c_in x, timestep), D = c_skip x + c_out F, and then

    next x = x0 x + x1 (x one row ago) + ... + raw (x before an edit)
           + d0 D + d1 (D one row ago) + ... + noise_weight noise[noise_slot].

Where x is edited between rows, as inpainting does, `raw` is the current x as the last row left it,
and x0 to x3 hold what became of it. After a row x is about `signal` clean + `noise` standard
normal, which the next row expects; (1, 0) after the last. `guidance` is 1, for the caller to fill.
"""

_BASIS = np.eye(10)
PAST_X = _BASIS[:4]
RAW = _BASIS[4]
PAST_D = _BASIS[5:9]
NOISE = _BASIS[9]
X, D = PAST_X[0], PAST_D[0]


class Level(NamedTuple):
    """How noisy x is, in the sampler's own coordinates: x = signal clean + noise normal."""

    signal: float
    noise: float

    @property
    def alpha(self):
        """The share of the signal once x is scaled to variance one."""
        return self.signal / hypot(*self)

    @property
    def sigma(self):
        """Noise over signal."""
        return self.noise / self.signal

    def scalings(self, prediction_type):
        """(c_in, c_skip, c_out): the network sees x at variance one, and D = c_skip x + c_out F."""
        c_in = 1.0 / hypot(*self)
        alpha, spread = self.signal * c_in, self.noise * c_in
        if prediction_type == "epsilon":
            return c_in, c_in / alpha, -spread / alpha
        if prediction_type == "v_prediction":
            return c_in, c_in * alpha, -spread
        return c_in, 0.0, 1.0


class Leg(NamedTuple):
    """One step of a plan.

    Attributes:
        timestep: what the network is told, as a rule at the start of the step.
        level: of x at the start of the step.
        target: of x at its end; not always the next leg's level, where timesteps are rounded.
        source: from where a step of the usual length lands on `level`; for plms alone.
    """

    timestep: float
    level: Level
    target: Level
    source: Level | None = None


class Plan(NamedTuple):
    """What a sampler turns into rows.

    Attributes:
        legs: all steps of the schedule.
        start: the first one taken, later than 0 for image to image.
        config: the options of the samplers.
        eta: the amount of fresh noise, for the samplers that have a choice.
        timestep_of: sigma -> timestep, for the samplers that look between two legs.
    """

    legs: tuple[Leg, ...]
    start: int
    config: ScheduleConfig
    eta: float | None
    timestep_of: Callable[[float], float]


class Row(NamedTuple):
    """One evaluation of the network and the weighted sum after it.

    Attributes:
        timestep, level: what the network is told, and how noisy x is there.
        weights: of `PAST_X`, `RAW`, `PAST_D` and `NOISE`, (10,).
        draws: whether noise is drawn, though its weight may be 0.
    """

    timestep: float
    level: Level
    weights: np.ndarray
    draws: bool = False


class Table(NamedTuple):
    """A sampler.

    Attributes:
        rows: (n, len(COLUMNS)) float64.
        initial_signal, initial_noise: x before the first row is initial_signal * latents +
            initial_noise * standard normal noise; x after the last row is the latents.
        noise_slots: how many arrays of noise are drawn, in the order of their slots.
        steps: what a user counts; there may be more rows.
        sigmas: (n,) noise over signal before each row, infinite where no signal is left.
    """

    rows: np.ndarray
    initial_signal: float
    initial_noise: float
    noise_slots: int
    steps: int
    sigmas: np.ndarray


def tabulate(rows, prediction_type, initial, steps):
    """A sampler's `Row`s, from `initial` (a pair of weights) on, as a `Table`.

    Raises:
        ValueError: if weights are not finite, as where two noise levels of a plan are equal.
    """
    after = [row.level for row in rows[1:]] + [Level(1.0, 0.0)]
    slots, lines = 0, []
    for row, level in zip(rows, after, strict=True):
        slot = slots if row.draws and row.weights[-1] else 0
        slots += row.draws
        scalings = row.level.scalings(prediction_type)
        lines.append([*scalings, row.timestep, *level, *row.weights, slot, 1.0])
    levels = np.array([row.level for row in rows], "float64")  # (n, 2)
    with np.errstate(divide="ignore"):
        sigmas = levels[:, 1] / levels[:, 0]
    table = Table(np.array(lines, "float64"), *map(float, initial), slots, steps, sigmas)
    if not np.isfinite(table.rows).all():
        row = int(np.argmin(np.isfinite(table.rows).all(axis=1)))
        raise ValueError(
            f"row {row} of the sampler is not finite: its noise levels coincide, or its prediction "
            f"type {prediction_type!r} tells nothing where no signal is left; take fewer steps or "
            "another schedule"
        )
    return table
