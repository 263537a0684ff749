"""Every table of a sampler, for any number of steps and each start, small enough to ship.

A run that starts late takes the last rows of the whole table, but for its first few rows, in which
multistep samplers warm up. So the whole tables are kept, one for each number of steps, and of each
start the rows that are its own.
"""

from typing import NamedTuple

import numpy as np

from kerasdiff.samplers import COLUMNS, make_table

_SLOT, _WEIGHT = COLUMNS.index("noise_slot"), COLUMNS.index("noise_weight")


class Tables(NamedTuple):
    """Tables of one sampler, by start: `place(n, k)` takes the last k of n steps.

    Attributes:
        wholes: the tables of all n, one after the other, (all rows, columns) float32.
        heads: the first rows, (starts, W, columns) float32.
        tails: where in `wholes` row 0 would lie, were it there, (starts,) int32.
        counts: how many rows there are, (starts,) int32; 0 where the sampler has no such table.
        shifts: how much lower slots of noise are than in `wholes`, (starts,) int32.
        scales: initial signal, initial noise and final scale, (starts, 3) float32.
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


def place(steps, taken):
    """Where the start lies that takes the last `taken` of `steps` steps."""
    return steps * (steps - 1) // 2 + taken - 1


def make_tables(config, sampler=None, schedule=None, eta=None, max_steps=100):
    """All tables of a sampler.

    Args:
        config: a `ScheduleConfig`.
        sampler, schedule, eta: as for `samplers.make_table`.
        max_steps: the most steps.

    Raises:
        ValueError: if the sampler has no table for any number of steps.
    """
    options = {"sampler": sampler, "schedule": schedule, "eta": eta}
    pure_noise, found = np.zeros(max_steps + 1, "float32"), {}
    for steps, whole in from_noise(config, max_steps, **options).items():
        pure_noise[steps] = whole.initial_noise
        for taken in range(1, steps + 1):
            # between two strengths at which the number of steps changes
            strength = min((taken + 0.5) / steps, 1.0)
            found[steps, taken] = make_table(
                config, steps, strength=strength, from_noise=False, **options
            )
    return _pack(found, pure_noise)


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


def _pack(found, pure_noise):
    """`Tables` of those that were found, by (steps, taken)."""
    count = place(len(pure_noise) - 1, len(pure_noise) - 1) + 1
    own = max(_own_rows(table, found[steps, steps]) for (steps, _), table in found.items())
    heads = np.zeros((count, own, len(COLUMNS)), "float32")
    tails, counts, shifts = np.zeros((3, count), "int32")
    scales, wholes, end = np.zeros((count, 3), "float32"), [], 0
    for (steps, taken), table in found.items():
        whole, at = found[steps, steps], place(steps, taken)
        if taken == 1:
            wholes.append(np.float32(whole.rows))
            end += len(whole.rows)
        heads[at, : len(table.rows)] = table.rows[:own]
        tails[at], counts[at] = end - len(table.rows), len(table.rows)
        shifts[at] = whole.noise_slots - table.noise_slots
        scales[at] = table.initial_signal, table.initial_noise, table.final_scale
    slots = max(table.noise_slots for table in found.values())
    return Tables(np.concatenate(wholes), heads, tails, counts, shifts, scales, pure_noise, slots)


def _own_rows(table, whole):
    """How many of a late start's first rows differ from the whole table's last ones."""
    ours, theirs = np.float32(table.rows), np.float32(whole.rows[-len(table.rows) :])
    theirs[:, _SLOT] -= (theirs[:, _WEIGHT] != 0.0) * (whole.noise_slots - table.noise_slots)
    differ = np.nonzero((ours != theirs).any(axis=1))[0]
    return int(differ[-1]) + 1 if len(differ) else 1
