"""Every table of a sampler, for any number of steps and each start, small enough to ship.

A run that starts late takes the last rows of the whole table, but for its first few rows, in which
multistep samplers warm up. So the whole tables are kept, one for each number of steps, and of each
start the rows that are its own. Late starts take a time that grows as the cube of the steps: where
no run starts late, there are none.
"""

from typing import NamedTuple

import numpy as np

from kerasdiff.samplers import COLUMNS, make_table

_SLOT, _WEIGHT = COLUMNS.index("noise_slot"), COLUMNS.index("noise_weight")


class Tables(NamedTuple):
    """Tables of one sampler, by start.

    Attributes:
        wholes: the tables of all n, one after the other, (all rows, columns) float32.
        heads: the first rows, (starts, W, columns) float32.
        tails: where in `wholes` row 0 would lie, were it there, (starts,) int32.
        counts: how many rows there are, (starts,) int32; 0 where the sampler has no such table.
        shifts: how much lower slots of noise are than in `wholes`, (starts,) int32.
        scales: initial signal and initial noise, (starts, 2) float32.
        pure_noise: initial noise where all of n steps start from noise, (max_steps + 1,) float32.
        noise_slots: the most of any start.
    """

    wholes: np.ndarray
    heads: np.ndarray
    tails: np.ndarray
    counts: np.ndarray
    shifts: np.ndarray
    scales: np.ndarray
    pure_noise: np.ndarray
    noise_slots: int

    def place(self, steps, taken):
        """Where the start lies that takes the last `taken` of `steps` steps."""
        late = len(self.counts) >= len(self.pure_noise)  # more starts than numbers of steps
        return steps * (steps - 1) // 2 + taken - 1 if late else steps - 1


class _Start(NamedTuple):
    """What is kept of the table of a start: its `own` first rows, float32, and numbers."""

    own: np.ndarray
    count: int
    noise_slots: int
    scales: tuple


def make_tables(config, sampler=None, schedule=None, eta=None, max_steps=100, late=True):
    """All tables of a sampler.

    Args:
        config: a `ScheduleConfig`.
        sampler, schedule, eta: as for `samplers.make_table`.
        max_steps: the most steps.
        late: whether runs may start late, from a picture; else all start from noise.

    Raises:
        ValueError: if the sampler has no table for any number of steps.
    """
    options = {"sampler": sampler, "schedule": schedule, "eta": eta}
    wholes, starts = from_noise(config, max_steps, **options), {}
    for steps, whole in wholes.items():
        for taken in range(1, steps + 1) if late else ():
            # between two strengths at which the number of steps changes
            strength = min((taken + 0.5) / steps, 1.0)
            table = make_table(config, steps, strength=strength, from_noise=False, **options)
            starts[steps, taken] = _start(table, whole)
        if not late:
            starts[steps, steps] = _start(whole, whole)
    return _pack(wholes, starts, max_steps, late)


def from_noise(config, max_steps, **options):
    """The table from noise of every number of steps that a sampler can take, by that number.

    Args:
        config, max_steps, **options: as for `make_tables`.

    Raises:
        ValueError: if there is none.
    """
    tables, faults = {}, []
    for steps in range(1, max_steps + 1):
        try:
            tables[steps] = make_table(config, steps, **options)
        except ValueError as fault:
            faults.append(fault)
    if not tables:
        raise faults[-1]
    return tables


def _start(table, whole):
    """The `_Start` of a table: its rows up to the last that differs from the whole table's."""
    ours, scales = np.float32(table.rows), (table.initial_signal, table.initial_noise)
    differ = np.nonzero((ours != _last(whole, len(ours), table.noise_slots)).any(axis=1))[0]
    own = ours[: differ[-1] + 1] if len(differ) else ours[:1]
    return _Start(own.copy(), len(ours), table.noise_slots, scales)  # the rest is let go


def _last(whole, count, noise_slots, most=None):
    """Of the last `count` rows of a whole table the first ones, for a start with such slots."""
    rows = np.float32(whole.rows[-count:][:most])
    rows[:, _SLOT] -= (rows[:, _WEIGHT] != 0.0) * (whole.noise_slots - noise_slots)
    return rows


def _pack(wholes, starts, max_steps, late):
    """`Tables` of the whole tables by number of steps and the starts by (steps, taken)."""
    count = max_steps * (max_steps + 1) // 2 if late else max_steps
    own = max(len(start.own) for start in starts.values())
    tables = Tables(
        np.concatenate([np.float32(whole.rows) for whole in wholes.values()]),
        np.zeros((count, own, len(COLUMNS)), "float32"),
        *np.zeros((3, count), "int32"),
        np.zeros((count, 2), "float32"),
        np.zeros(max_steps + 1, "float32"),
        max(start.noise_slots for start in starts.values()),
    )
    ends = np.cumsum([len(whole.rows) for whole in wholes.values()])
    ends = dict(zip(wholes, ends, strict=True))
    for (steps, taken), start in starts.items():
        whole, at = wholes[steps], tables.place(steps, taken)
        later = _last(whole, start.count, start.noise_slots, own)
        tables.heads[at, : len(later)] = later
        tables.heads[at, : len(start.own)] = start.own
        tables.tails[at], tables.counts[at] = ends[steps] - start.count, start.count
        tables.shifts[at] = whole.noise_slots - start.noise_slots
        tables.scales[at], tables.pure_noise[steps] = start.scales, whole.initial_noise
    return tables
