"""Shipped tables are those that `make_table` gives, for every number of steps and each start."""

import weakref

import numpy as np
import pytest

from kerasdiff.configs import SD1, SD2
from kerasdiff.export.tables import from_noise, make_tables
from kerasdiff.samplers import COLUMNS, SAMPLERS, make_table

SLOT, WEIGHT = COLUMNS.index("noise_slot"), COLUMNS.index("noise_weight")


def assembled(tables, at):
    """The rows of a start, as an exported graph puts them together."""
    own, count = tables.heads.shape[1], tables.counts[at]
    rows = tables.wholes[tables.tails[at] :][:count].copy()
    rows[:, SLOT] -= (rows[:, WEIGHT] != 0.0) * tables.shifts[at]
    rows[:own] = tables.heads[at, :count]
    return rows


@pytest.mark.parametrize("schedule", (SD1.schedule, SD2.schedule), ids=("epsilon", "v"))
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_start_is_its_table(sampler, schedule):
    tables = make_tables(schedule, sampler, max_steps=18)
    for steps in range(1, 19):
        pure = make_table(schedule, steps, sampler=sampler)
        assert tables.pure_noise[steps] == np.float32(pure.initial_noise)
        for taken in range(1, steps + 1):
            strength, at = min((taken + 0.5) / steps, 1.0), tables.place(steps, taken)
            table = make_table(
                schedule, steps, sampler=sampler, strength=strength, from_noise=False
            )
            np.testing.assert_array_equal(assembled(tables, at), np.float32(table.rows))
            assert tables.noise_slots >= table.noise_slots
            scales = table.initial_signal, table.initial_noise
            np.testing.assert_array_equal(tables.scales[at], np.float32(scales))


def test_what_a_sampler_cannot_do_has_no_rows():
    tables = make_tables(SD1.schedule, "lcm", max_steps=52)  # distilled to 50 steps
    assert tables.counts[tables.place(50, 50)] == 50 and tables.counts[tables.place(51, 51)] == 0
    assert tables.pure_noise[51] == 0.0


def test_hundred_steps_are_small():
    tables = make_tables(SD1.schedule, "euler_ancestral")
    assert sum(array.nbytes for array in tables[:-1]) < 1e6 and tables.noise_slots == 100
    rows = assembled(tables, tables.place(100, 37))
    table = make_table(
        SD1.schedule, 100, sampler="euler_ancestral", strength=0.37, from_noise=False
    )
    np.testing.assert_array_equal(rows, np.float32(table.rows))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_where_no_run_starts_late_each_number_of_steps_has_its_table(sampler):
    tables = make_tables(SD1.schedule, sampler, max_steps=18, late=False)
    assert len(tables.counts) == 18
    for steps in range(1, 19):
        table, at = make_table(SD1.schedule, steps, sampler=sampler), tables.place(steps, steps)
        np.testing.assert_array_equal(assembled(tables, at), np.float32(table.rows))
        assert tables.noise_slots >= table.noise_slots
        scales = table.initial_signal, table.initial_noise
        np.testing.assert_array_equal(tables.scales[at], np.float32(scales))
        assert tables.pure_noise[steps] == np.float32(table.initial_noise)


def test_tables_of_late_starts_are_not_held_while_others_are_made(monkeypatch):
    made = []

    def noting(*args, **options):
        table = make_table(*args, **options)
        if not options.get("from_noise", True):
            made.append(weakref.ref(table.rows))
            assert sum(rows() is not None for rows in made) <= 2
        return table

    monkeypatch.setattr("kerasdiff.export.tables.make_table", noting)
    make_tables(SD1.schedule, "dpmpp_3m", max_steps=8)
    assert len(made) == 36


def test_a_sampler_without_any_table_says_why():
    with pytest.raises(ValueError, match="magic"):
        make_tables(SD1.schedule, "magic")


def test_steps_that_a_sampler_cannot_take_have_no_table():
    assert [*from_noise(SD1.schedule, 52, sampler="lcm")] == [*range(1, 51)]
    with pytest.raises(ValueError, match="`sampler` must be one of"):
        from_noise(SD1.schedule, 2, sampler="magic")
