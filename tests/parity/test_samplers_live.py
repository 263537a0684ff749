"""Samplers' tables against diffusers' own schedulers, step by step, on a nonlinear network."""

import functools

import numpy as np
import pytest
from diffusers_steps import make_scheduler, run_scheduler
from table_run import network, run_table

from kerasdiff.configs import ScheduleConfig
from kerasdiff.noise_scheduler import alphas_cumprod_of
from kerasdiff.samplers import COLUMNS, SAMPLERS, SPACINGS, make_table
from kerasdiff.samplers.spacing import half_log

SHAPE = (1, 4, 4, 6)
RANDOM = np.random.default_rng(7)
CLEAN, NOISE = RANDOM.normal(size=(2, *SHAPE))
MASK = np.broadcast_to(np.arange(6) >= 2, SHAPE).astype("float64")
WHOLE = ("ddim", "ddpm", "plms", "euler_ancestral")  # no Karras in diffusers
NO_SAMPLE = ("plms", "dpm2", "euler_ancestral", "dpmpp_sde")  # no "sample" prediction there


def spaced(name):
    """A spacing as options of diffusers and as fields of ours."""
    if name in ("karras", "exponential"):
        return {f"use_{name}_sigmas": True}, {"sigma_spacing": name}
    return {"timestep_spacing": name}, {"spacing": name}


def difference(sampler, steps, theirs, ours, strength=None, mask=None, eta=None):
    """The largest difference from diffusers, relative to the largest latent."""
    case = {
        "steps": steps, "strength": strength, "clean": CLEAN, "noise": NOISE, "seed": 3,
        "mask": mask,
    }  # fmt: skip
    scheduler, module = make_scheduler(sampler, **theirs)
    if sampler == "tcd" and eta is None:
        eta = 0.3  # the scheduler's own default; pipelines, and we, set 0
    want, draws, _ = run_scheduler(scheduler, module, case, network, eta)
    table = make_table(
        ScheduleConfig(**ours), steps, sampler=sampler, strength=strength or 1.0,
        from_noise=strength is None, eta=eta,
    )  # fmt: skip
    assert table.noise_slots == len(draws)

    def blend(x, signal, noise):
        return (1 - mask) * (signal * CLEAN + noise * NOISE) + mask * x

    x = table.initial_signal * CLEAN + table.initial_noise * NOISE
    got = run_table(table, x, draws, edit=None if mask is None else blend)
    return np.abs(got - want).max() / np.abs(want).max()


@functools.cache
def combinations():
    found = []
    for sampler in SAMPLERS:
        for spacing in SPACINGS:
            if sampler in ("lcm", "tcd") and spacing != "leading":
                continue
            if sampler in WHOLE and spacing in ("karras", "exponential"):
                continue
            for kind in ("epsilon", "v_prediction", "sample"):
                if kind != "sample" or sampler not in NO_SAMPLE:
                    found.append((sampler, spacing, kind))
    return found


@pytest.mark.parametrize("sampler, spacing, kind", combinations())
def test_every_sampler_steps_as_in_diffusers(sampler, spacing, kind):
    theirs, ours = spaced(spacing)
    theirs, ours = theirs | {"prediction_type": kind}, ours | {"prediction_type": kind}
    limit = 1e-5
    for steps in (1, 2, 3, 4, 7, 10, 17):
        assert difference(sampler, steps, theirs, ours) < limit, steps
        assert difference(sampler, steps, theirs, ours, mask=MASK) < limit, steps
        for strength in (0.4, 0.75, 1.0):
            if int(steps * strength) and steps in (3, 4, 10):
                error = difference(sampler, steps, theirs, ours, strength)
                assert error < limit, (steps, strength)
                error = difference(sampler, steps, theirs, ours, strength, MASK)
                assert error < limit, (steps, strength, "edited")


FOREIGN = {
    "karras": ({"use_karras_sigmas": True}, {"sigma_spacing": "karras"}),
    "exponential": ({"use_exponential_sigmas": True}, {"sigma_spacing": "exponential"}),
    "ends": (
        {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 9.0},
        {"sigma_spacing": "karras", "sigma_min": 0.1, "sigma_max": 9.0},
    ),
    "exponential ends": (
        {"use_exponential_sigmas": True, "sigma_min": 0.1, "sigma_max": 9.0},
        {"sigma_spacing": "exponential", "sigma_min": 0.1, "sigma_max": 9.0},
    ),
    "final sigma": ({"final_sigmas_type": "sigma_min"}, {"final_sigma": "sigma_min"}),
    "zero SNR": ({"rescale_betas_zero_snr": True}, {"zero_terminal_snr": True}),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("theirs, ours", FOREIGN.values(), ids=FOREIGN)
def test_fields_of_another_class_mean_what_they_do_in_diffusers(sampler, theirs, ours):
    kind = {"prediction_type": "v_prediction"}
    assert difference(sampler, 7, kind | {"foreign": theirs}, kind | ours) < 1e-5


OPTIONS = {
    "set_alpha_to_one": (
        ("ddim", "plms"), {"set_alpha_to_one": True}, {"set_alpha_to_one": True}),
    "steps_offset": (
        ("ddim", "plms", "euler", "dpmpp_2m", "heun"),
        {"steps_offset": 0, "timestep_spacing": "leading"},
        {"steps_offset": 0, "spacing": "leading"},
    ),
    "fixed_large": (
        ("ddpm",), {"variance_type": "fixed_large"}, {"variance_type": "fixed_large"}),
    "fixed_small_log": (
        ("ddpm",), {"variance_type": "fixed_small_log"}, {"variance_type": "fixed_small_log"}),
    "solver heun": (
        ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "dpmpp_3m_sde"),
        {"solver_type": "heun"}, {"solver_type": "heun"}),
    "lower_order_final": (
        ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "dpmpp_3m_sde"),
        {"lower_order_final": False}, {"lower_order_final": False}),
    "euler_at_final": (
        ("dpmpp_2m", "dpmpp_3m_sde"),
        {"euler_at_final": True, "final_sigmas_type": "sigma_min"},
        {"euler_at_final": True, "final_sigma": "sigma_min"}),
    "final_sigma": (
        ("euler", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "unipc"),
        {"final_sigmas_type": "sigma_min"}, {"final_sigma": "sigma_min"}),
    "free ends": (
        ("dpmpp_2m", "dpmpp_3m", "unipc"),
        {"final_sigmas_type": "sigma_min", "lower_order_final": False},
        {"final_sigma": "sigma_min", "lower_order_final": False}),
    # With "bh1" diffusers reaches sigma 0 as infinity times nothing.
    "bh1": (
        ("unipc",), {"solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        {"solver_type": "bh1", "final_sigma": "sigma_min"}),
    "order 1": (("unipc",), {"solver_order": 1}, {"solver_order": 1}),
    "order 3": (("unipc",), {"solver_order": 3}, {"solver_order": 3}),
    "order 3 bh1": (
        ("unipc",),
        {"solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        {"solver_order": 3, "solver_type": "bh1", "final_sigma": "sigma_min"}),
    "corrector": (("unipc",), {"disable_corrector": [0, 2]}, {"disable_corrector": (0, 2)}),
    "sigma range": (
        ("euler", "unipc"),
        {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 9.0},
        {"sigma_spacing": "karras", "sigma_min": 0.1, "sigma_max": 9.0}),
    "sigma range to its end": (
        ("euler", "unipc"),
        {"use_karras_sigmas": True, "sigma_min": 0.1, "final_sigmas_type": "sigma_min"},
        {"sigma_spacing": "karras", "sigma_min": 0.1, "final_sigma": "sigma_min"}),
    "sigma range exponential": (
        ("euler", "unipc"),
        {"use_exponential_sigmas": True, "sigma_min": 0.1, "sigma_max": 9.0},
        {"sigma_spacing": "exponential", "sigma_min": 0.1, "sigma_max": 9.0}),
    "karras on leading": (
        ("euler", "heun", "lms", "dpmpp_2m"),
        {"use_karras_sigmas": True, "timestep_spacing": "leading"},
        {"sigma_spacing": "karras", "spacing": "leading"}),
    "grid": (
        ("lcm", "tcd"), {"original_inference_steps": 36}, {"original_inference_steps": 36}),
    "timestep_scaling": (("lcm",), {"timestep_scaling": 0.01}, {"timestep_scaling": 0.01}),
    "linear": (
        ("ddim", "euler", "dpmpp_2m", "unipc"),
        {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
        {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
    "cosine": (
        ("ddim", "dpmpp_2m"),
        {"beta_schedule": "squaredcos_cap_v2"}, {"beta_schedule": "squaredcos_cap_v2"}),
    "trained": (
        ("ddim", "euler", "unipc"),
        {"trained_betas": np.linspace(1e-3, 0.03, 400).tolist(), "num_train_timesteps": 400},
        {"trained_betas": tuple(np.linspace(1e-3, 0.03, 400)), "num_train_timesteps": 400}),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_acts_as_in_diffusers(name):
    samplers, theirs, ours = OPTIONS[name]
    for sampler in samplers:
        for steps in (5, 12, 20):
            for mask in (None, MASK):
                for strength in (None, 0.75):
                    error = difference(sampler, steps, theirs, ours, strength, mask)
                    assert error < 2e-5, (sampler, steps, strength)


@pytest.mark.parametrize("sampler", ["ddim", "tcd"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.55, 1.0])
def test_eta_adds_noise_as_in_diffusers(sampler, eta):
    for steps in (1, 2, 7, 10, 31):
        assert difference(sampler, steps, {}, {}, eta=eta) < 1e-5, steps


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_zero_terminal_snr_steps_as_in_diffusers(kind, spacing):
    samplers = (
        "ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde",
        "unipc", "lcm", "tcd",
    )  # fmt: skip
    theirs = {"rescale_betas_zero_snr": True, "prediction_type": kind}
    ours = {"zero_terminal_snr": True, "prediction_type": kind}
    for sampler in samplers:
        own_times = sampler in ("lcm", "tcd")
        if (own_times and spacing != "leading") or (kind == "sample" and sampler in NO_SAMPLE):
            continue
        for steps in (1, 2, 7, 10):
            error = difference(
                sampler, steps, theirs | {"timestep_spacing": spacing}, ours | {"spacing": spacing}
            )
            # Sigma is 4096 at the start, and euler keeps x in float32.
            assert error < (5e-3 if sampler == "euler" else 1e-5), (sampler, steps)


def test_timesteps_equal_those_of_diffusers_for_every_count():
    config = ScheduleConfig()
    for spacing in SPACINGS:
        theirs, ours = spaced(spacing)
        multistep, _ = make_scheduler("dpmpp_2m", **theirs)
        ddim, _ = make_scheduler("ddim", timestep_spacing=theirs.get("timestep_spacing", "leading"))
        for steps in (*range(1, 60), 75, 99, 100, 123, 200, 250, 333, 500):
            legs = half_log(ScheduleConfig(**ours), steps, None)
            multistep.set_timesteps(steps)
            want = multistep.timesteps.numpy()[:steps]
            assert np.array_equal([leg.timestep for leg in legs], want), (spacing, steps)
            if "spacing" in ours:
                ddim.set_timesteps(steps)
                rows = make_table(config, steps, sampler="ddim", schedule=spacing).rows
                assert np.array_equal(rows[:, 3], ddim.timesteps.numpy()[:steps]), spacing


@pytest.mark.parametrize("zero", [False, True])
def test_the_schedule_equals_that_of_diffusers_to_a_float32_digit(zero):
    # Rescaling to zero SNR rounds five times more (a root, two differences, a product, a square),
    # and PyTorch's vector code rounds otherwise on some processors: 3 units of 2**-23 were seen.
    limit = 4 * 2.0**-23 if zero else 2e-7
    for rule in ("scaled_linear", "linear", "squaredcos_cap_v2"):
        scheduler, _ = make_scheduler("ddim", beta_schedule=rule, rescale_betas_zero_snr=zero)
        ours = alphas_cumprod_of(ScheduleConfig(beta_schedule=rule, zero_terminal_snr=zero))
        assert np.abs(ours - scheduler.alphas_cumprod.numpy()).max() < limit


def test_unipc_rounds_karras_timesteps_whatever_the_betas():
    """Two of them are one, at which diffusers' step fails: they alone are compared."""
    scheduler, _ = make_scheduler(
        "unipc", beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True
    )
    scheduler.set_timesteps(10)
    config = ScheduleConfig(beta_schedule="squaredcos_cap_v2", sigma_spacing="karras")
    table = make_table(config, 10, sampler="unipc")
    times = table.rows[:, COLUMNS.index("timestep")]
    np.testing.assert_array_equal(times, scheduler.timesteps.numpy())
