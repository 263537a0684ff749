"""Samplers' tables: diffusers' results, published numbers, orders of convergence, bad input."""

from pathlib import Path

import numpy as np
import pytest
from gaussian import MEAN, SPREAD, flow, log_uniform_table, noise_in
from table_run import AT, network, run_table

from kerasdiff.configs import ScheduleConfig
from kerasdiff.noise import TorchStream
from kerasdiff.samplers import COLUMNS, SAMPLERS, SPACINGS, make_table

GOLDEN = np.load(Path(__file__).parent / "golden" / "samplers.npz")
CASES = [name for name in GOLDEN.files if name.count(" ") == 5]
CONFIG = ScheduleConfig()


@pytest.mark.parametrize("case", CASES)
def test_tables_take_a_network_where_diffusers_takes_it(case):
    sampler, steps, spacing, kind, strength, masked = case.split()
    field = "sigma_spacing" if spacing in ("karras", "exponential") else "spacing"
    config = ScheduleConfig(prediction_type=kind, **{field: spacing})
    table = make_table(
        config, int(steps), sampler=sampler, strength=float(strength),
        from_noise=strength == "1.0", eta=0.3 if sampler == "tcd" else None,  # as its scheduler
    )  # fmt: skip
    assert table.noise_slots == GOLDEN[f"{case} draws"]
    clean, noise, mask = (GOLDEN[name] for name in ("clean", "noise", "mask"))
    stream = TorchStream(5)
    draws = [stream.normal(clean.shape).transpose(0, 3, 1, 2) for _ in range(table.noise_slots)]

    def blend(x, signal, spread):
        return (1 - mask) * (signal * clean + spread * noise) + mask * x

    x = table.initial_signal * clean + table.initial_noise * noise
    got = run_table(table, x, draws, edit=blend if masked == "1" else None)
    assert np.abs(got - GOLDEN[case]).max() < 1e-5 * np.abs(GOLDEN[case]).max()


def column(table, name):
    return table.rows[:, AT[name]]


def test_the_golden_file_covers_every_sampler_and_spacing():
    assert {case.split()[0] for case in CASES} == set(SAMPLERS)
    assert {case.split()[2] for case in CASES} == set(SPACINGS)


def test_timesteps_are_those_of_each_family():
    ddim = column(make_table(CONFIG, 7, sampler="ddim", schedule="leading"), "timestep")
    assert ddim.tolist() == [853, 711, 569, 427, 285, 143, 1]
    dpmpp = column(make_table(CONFIG, 7, sampler="dpmpp_2m", schedule="leading"), "timestep")
    assert dpmpp.tolist() == [876, 751, 626, 501, 376, 251, 126]
    euler = column(make_table(CONFIG, 7, sampler="euler", schedule="linspace"), "timestep")
    assert euler[:2].tolist() == [999, 832.5]
    trailing = column(make_table(CONFIG, 4, sampler="ddim", schedule="trailing"), "timestep")
    assert trailing.tolist() == [999, 749, 499, 249]
    lcm = column(make_table(CONFIG, 4, sampler="lcm"), "timestep")
    assert lcm.tolist() == [999, 759, 499, 259]


def test_karras_levels_span_what_each_family_gives_them():
    leading = ScheduleConfig(spacing="leading")
    euler = make_table(leading, 7, sampler="euler", schedule="karras")
    assert abs(1 / column(euler, "c_in")[0] - np.hypot(6.57, 1.0)) < 0.01
    assert abs(euler.initial_noise - np.hypot(6.57, 1.0)) < 0.01
    dpmpp = make_table(leading, 7, sampler="dpmpp_2m", schedule="karras")
    assert column(dpmpp, "timestep")[0] == 999 and dpmpp.initial_noise == 1.0
    assert np.array_equal(column(dpmpp, "timestep"), column(dpmpp, "timestep").round())


def test_trailing_spacing_never_yields_more_steps_than_asked_for():
    for steps in (61, 103, 998):
        assert len(make_table(CONFIG, steps, sampler="ddim", schedule="trailing").rows) == steps


def test_spacing_defaults_to_the_samplers_own():
    for sampler, spacing in (("ddim", "leading"), ("euler", "linspace"), ("unipc", "linspace")):
        own = make_table(CONFIG, 5, sampler=sampler)
        named = make_table(CONFIG, 5, sampler=sampler, schedule=spacing)
        assert np.array_equal(own.rows, named.rows)


def test_rows_follow_the_steps():
    for sampler in SAMPLERS:
        rows = {"heun": 13, "dpm2": 13, "dpmpp_sde": 13, "plms": 8}.get(sampler, 7)
        table = make_table(CONFIG, 7, sampler=sampler)
        assert table.rows.shape == (rows, len(COLUMNS)) and table.steps == 7
        assert table.rows.dtype == np.float64 and np.isfinite(table.rows).all()


def test_each_row_expects_the_level_that_the_row_before_left():
    for sampler in SAMPLERS:
        table = make_table(CONFIG, 9, sampler=sampler)
        levels = np.hypot(column(table, "signal"), column(table, "noise"))
        assert np.allclose(levels[:-1] * column(table, "c_in")[1:], 1.0)
        assert tuple(table.rows[-1, [AT["signal"], AT["noise"]]]) == (1.0, 0.0)


def test_noise_slots_count_every_draw_in_order():
    for sampler in SAMPLERS:
        table = make_table(CONFIG, 6, sampler=sampler)
        used = column(table, "noise_slot")[column(table, "noise_weight") != 0]
        assert np.all(np.diff(used) > 0) and np.all(used < table.noise_slots)
        assert not column(table, "noise_slot")[column(table, "noise_weight") == 0].any()
    assert make_table(CONFIG, 6, sampler="ddim").noise_slots == 0
    assert make_table(CONFIG, 6, sampler="dpmpp_2m_sde").noise_slots == 6
    assert make_table(CONFIG, 6, sampler="lcm").noise_slots == 5


def test_strength_takes_the_last_steps_from_noised_latents():
    whole = make_table(CONFIG, 10, sampler="ddim")
    part = make_table(CONFIG, 10, sampler="ddim", strength=0.37, from_noise=False)
    assert part.steps == 3 and np.array_equal(part.rows, whole.rows[-3:])
    assert abs(np.hypot(part.initial_signal, part.initial_noise) - 1.0) < 1e-12
    start = make_table(CONFIG, 10, sampler="euler", strength=0.5, from_noise=False)
    assert start.initial_signal == 1.0
    assert abs(start.initial_noise - np.sqrt(1 / column(start, "c_in")[0] ** 2 - 1)) < 1e-9
    full = make_table(CONFIG, 10, sampler="euler", from_noise=False)
    assert full.initial_signal == 1.0 and full.steps == 10


def test_linear_multistep_starts_image_to_image_with_a_step_of_euler():
    lms = make_table(CONFIG, 10, sampler="lms", strength=0.5, from_noise=False)
    euler = make_table(CONFIG, 10, sampler="euler", strength=0.5, from_noise=False)
    assert np.allclose(lms.rows[0], euler.rows[0])


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"lcm", "tcd"}))
def test_zero_terminal_snr_gives_finite_tables_for_every_sampler(sampler):
    config = ScheduleConfig(zero_terminal_snr=True, prediction_type="v_prediction")
    table = make_table(config, 5, sampler=sampler, schedule="trailing")
    assert column(table, "timestep")[0] == 999 and np.isfinite(table.rows).all()


# Measured on equal steps of log sigma; the multistep warm-up limits lms and dpmpp_3m.
ORDERS = [
    ("ddim", {}, 1), ("euler", {}, 1), ("heun", {}, 2), ("dpm2", {}, 2), ("lms", {}, 2),
    ("plms", {}, 2), ("dpmpp_2m", {}, 2), ("dpmpp_2m", {"solver_type": "heun"}, 2),
    ("dpmpp_3m", {}, 2), ("unipc", {"solver_order": 1}, 2), ("unipc", {}, 3),
    ("unipc", {"solver_type": "bh1"}, 3), ("unipc", {"solver_order": 3}, 4),
]  # fmt: skip


@pytest.mark.parametrize("sampler, options, order", ORDERS)
def test_deterministic_samplers_converge_at_their_order(sampler, options, order):
    x, errors = np.array([-3.0, 1.0, 4.0]), []
    for steps in (80, 160, 320):
        eta = 0.0 if sampler == "ddim" else None
        table, first, last = log_uniform_table(sampler, steps, 5.0, 0.1, eta, **options)
        got = run_table(table, x * first.signal, [], noise_in) / last.signal
        errors.append(np.abs(got - flow(x, 5.0, 0.1)).max())
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(orders > order - 0.15), orders
    if sampler != "lms":  # still above its order: 2.6, 2.2
        assert np.all(orders < order + 0.15), orders


def final_moments(sampler, steps, eta=None):
    """Mean and variance at the end, exactly: x is followed as weights of independent parts."""
    table, first, last = log_uniform_table(sampler, steps, 20.0, 0.01, eta)
    parts = np.eye(table.noise_slots + 2)
    x = first.signal * MEAN * parts[0] + np.hypot(first.signal * SPREAD, first.noise) * parts[1]
    x = run_table(table, x, parts[2:], lambda v, sigma: noise_in(v, sigma, parts[0]))
    x = x / last.signal
    return x[0] - MEAN, (x[1:] ** 2).sum() - (SPREAD**2 + 0.01**2)


# The third-order SDE has diffusers' weight of its third term, which makes it first order.
MOMENTS = [
    ("ddpm", None, 1), ("ddim", 1.0, 1), ("euler_ancestral", None, 1), ("dpmpp_sde", None, 2),
    ("dpmpp_2m_sde", None, 2), ("dpmpp_3m_sde", None, 1),
]  # fmt: skip


@pytest.mark.parametrize("sampler, eta, order", MOMENTS)
def test_stochastic_samplers_reach_the_mean_and_variance_of_the_data(sampler, eta, order):
    errors = []
    for steps in (40, 80, 160):
        mean, variance = final_moments(sampler, steps, eta)
        assert abs(mean) < 1e-9
        errors.append(abs(variance))
    assert np.all(np.log2(np.divide(errors[:-1], errors[1:])) > order - 0.25), errors
    assert errors[-1] < 0.02


def test_lcm_reaches_the_data_at_once_with_a_true_consistency_function():
    for steps in (1, 2, 5):
        table, first, last = log_uniform_table("lcm", steps, 20.0, 0.01, timestep_scaling=1e9)
        parts = np.eye(table.noise_slots + 2)

        def consistent(x, sigma, mean=parts[0]):
            return MEAN * mean + (x - MEAN * mean) * SPREAD / np.hypot(SPREAD, sigma)

        x = first.signal * MEAN * parts[0] + np.hypot(first.signal * SPREAD, first.noise) * parts[1]
        predict = lambda v, sigma: noise_in(v, sigma, denoise=consistent)  # noqa: E731
        x = run_table(table, x, parts[2:], predict)
        assert abs(x[0] - MEAN) < 0.02 and abs((x[1:] ** 2).sum() - SPREAD**2) < 0.02


def test_an_edit_between_rows_changes_what_follows():
    for sampler in ("unipc", "plms", "heun", "lms"):
        table = make_table(CONFIG, 6, sampler=sampler)
        x = table.initial_noise * np.linspace(-1, 1, 8)
        plain = run_table(table, x, [])
        edited = run_table(table, x, [], edit=lambda x, signal, noise: x + 0.1 * noise)
        assert np.abs(plain - edited).max() > 1e-3
        assert np.abs(run_table(table, x, [], edit=lambda x, *_: x) - plain).max() == 0.0


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.0, "5", True, None])
def test_absurd_step_counts_are_refused(steps):
    with pytest.raises(ValueError, match="`num_steps`"):
        make_table(CONFIG, steps)


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, float("nan"), "1", None, True])
def test_absurd_strengths_are_refused(strength):
    with pytest.raises(ValueError, match="`strength`"):
        make_table(CONFIG, 10, strength=strength, from_noise=False)


def test_a_strength_that_leaves_no_step_is_refused():
    with pytest.raises(ValueError, match="`strength` 0.09 of 10 steps leaves no step"):
        make_table(CONFIG, 10, strength=0.09, from_noise=False)


def test_pure_noise_needs_the_whole_schedule():
    with pytest.raises(ValueError, match="`strength` 1, not 0.5"):
        make_table(CONFIG, 10, strength=0.5)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="`sampler`.*ddim.*unipc.*'dpm'"):
        make_table(CONFIG, 10, sampler="dpm")
    with pytest.raises(ValueError, match="`schedule`.*leading.*karras, exponential, not 'cosine'"):
        make_table(CONFIG, 10, schedule="cosine")


@pytest.mark.parametrize(
    "field, value",
    [
        ("prediction_type", "noise"), ("spacing", "karras"), ("sigma_spacing", "beta"),
        ("final_sigma", "one"), ("solver_order", 4), ("solver_type", "logrho"),
        ("variance_type", "learned"), ("sampler", "magic"), ("beta_schedule", "sigmoid"),
    ],
)  # fmt: skip
def test_unknown_options_of_a_config_are_refused(field, value):
    with pytest.raises(ValueError, match=f"`{field}`.*{value}"):
        make_table(ScheduleConfig(**{field: value}), 10)


@pytest.mark.parametrize("eta", [-0.1, 1.1, "1", True, float("nan")])
def test_absurd_etas_are_refused(eta):
    with pytest.raises(ValueError, match="`eta`"):
        make_table(CONFIG, 10, sampler="ddim", eta=eta)


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"ddim", "tcd"}))
def test_eta_is_refused_where_it_means_nothing(sampler):
    with pytest.raises(ValueError, match=f"`eta` is for ddim and tcd, not for {sampler}"):
        make_table(CONFIG, 10, sampler=sampler, eta=0.5)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "plms", "lcm", "tcd"])
@pytest.mark.parametrize("spacing", ["karras", "exponential"])
def test_samplers_on_whole_timesteps_refuse_levels_between_them(sampler, spacing):
    with pytest.raises(ValueError, match=f"`schedule` '{spacing}'.*{sampler}"):
        make_table(CONFIG, 10, sampler=sampler, schedule=spacing)


def test_timesteps_beyond_the_schedule_are_refused():
    with pytest.raises(ValueError, match="steps_offset = 1 asks for timestep 1000"):
        make_table(CONFIG, 1000, sampler="ddim", schedule="leading")


def test_more_steps_than_were_distilled_are_refused():
    with pytest.raises(ValueError, match="original_inference_steps = 50"):
        make_table(CONFIG, 51, sampler="lcm")


def test_noise_levels_that_coincide_are_refused():
    with pytest.raises(ValueError, match="row 1.*coincide"):
        make_table(CONFIG, 1000, sampler="dpmpp_2m", schedule="leading")


def test_predicting_noise_where_nothing_else_is_left_is_refused():
    with pytest.raises(ValueError, match="'epsilon'.*no signal"):
        make_table(ScheduleConfig(zero_terminal_snr=True), 5, sampler="ddim", schedule="trailing")


def test_the_made_up_network_feels_time():
    x = np.linspace(-1, 1, 5)
    assert np.abs(network(x, 10.0) - network(x, 500.0)).max() > 0.1
