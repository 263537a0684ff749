"""The training schedule and the forward process."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasdiff.configs import ScheduleConfig
from kerasdiff.noise_scheduler import (
    NoiseScheduler,
    alphas_cumprod_of,
    betas_of,
    make_betas,
    rescale_zero_terminal_snr,
    sigma_to_timestep,
    to_sigmas,
)

RANDOM = np.random.default_rng(0)
CLEAN, NOISE = RANDOM.normal(size=(2, 3, 4, 4, 2)).astype("float32")


def test_the_default_betas_are_stable_diffusions():
    betas = NoiseScheduler().betas
    want = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    assert betas.dtype == np.float32 and np.allclose(betas, want, rtol=1e-6)
    # Published with the checkpoints: sqrt of the first and the last abar.
    signal = np.sqrt(NoiseScheduler().alphas_cumprod[[0, -1]])
    assert np.allclose(signal, [0.99957, 0.06826], atol=1e-5)


def test_the_noisiest_sigma_is_the_well_known_one():
    sigmas = to_sigmas(alphas_cumprod_of(ScheduleConfig()))
    assert abs(sigmas[-1] - 14.6146) < 1e-4 and abs(sigmas[0] - 0.0292) < 1e-4


def test_linear_and_cosine_betas_follow_their_papers():
    assert np.allclose(make_betas("linear", 1e-4, 0.02, 5), np.linspace(1e-4, 0.02, 5))
    abar = np.cumprod(1 - make_betas("squaredcos_cap_v2", 0.1, 0.2, 1000).astype("float64"))
    time = (np.arange(1, 1000) / 1000 + 0.008) / 1.008
    want = np.cos(time * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    assert np.allclose(abar[:-1], want, atol=1e-6)


def test_zero_terminal_snr_leaves_the_first_level_and_no_signal_at_the_last():
    before = np.sqrt(alphas_cumprod_of(ScheduleConfig()))
    after = np.sqrt(alphas_cumprod_of(ScheduleConfig(zero_terminal_snr=True)))
    assert after[-1] == 0.0 and abs(after[0] - before[0]) < 1e-6
    # Between them sqrt(abar) is shifted and scaled, which keeps ratios of differences.
    ratio = (before[300] - before[600]) / (before[0] - before[-1])
    assert abs((after[300] - after[600]) / after[0] - ratio) < 1e-5


def test_trained_betas_replace_the_rule():
    betas = (0.1, 0.2, 0.3)
    config = ScheduleConfig(num_train_timesteps=3, trained_betas=betas)
    assert np.allclose(betas_of(config), betas)
    assert np.allclose(alphas_cumprod_of(config), [0.9, 0.72, 0.504])


def test_a_schedule_of_one_step_works():
    assert np.allclose(make_betas("scaled_linear", 0.1, 0.2, 1), [0.1])


def test_sigmas_map_to_fractional_timesteps_and_back():
    sigmas = to_sigmas(alphas_cumprod_of(ScheduleConfig()))
    assert np.allclose(sigma_to_timestep(sigmas, sigmas), np.arange(1000), atol=1e-6)
    halfway = np.sqrt(sigmas[10] * sigmas[11])
    assert abs(sigma_to_timestep(halfway, sigmas) - 10.5) < 1e-3
    assert sigma_to_timestep(0.0, sigmas) == 0.0 and sigma_to_timestep(99.0, sigmas) == 999.0


def test_add_noise_mixes_by_the_level_of_each_sample():
    scheduler, times = NoiseScheduler(), np.array([0, 500, 999])
    abar = scheduler.alphas_cumprod[times][:, None, None, None].astype("float64")
    want = np.sqrt(abar) * CLEAN + np.sqrt(1 - abar) * NOISE
    got = scheduler.add_noise(CLEAN, NOISE, times)
    assert isinstance(got, np.ndarray) and got.dtype == np.float32
    assert np.allclose(got, want, atol=1e-6)
    assert np.allclose(scheduler.add_noise(CLEAN, NOISE, 500)[1], want[1], atol=1e-6)


def test_tensors_give_tensors_of_their_dtype():
    scheduler, times = NoiseScheduler(), np.array([3, 400, 999])
    want = scheduler.add_noise(CLEAN, NOISE, times)
    for dtype, tolerance in (("float32", 1e-6), ("float16", 4e-3)):
        clean, noise = ops.cast(CLEAN, dtype), ops.cast(NOISE, dtype)
        for given in (times, ops.convert_to_tensor(times)):
            got = scheduler.add_noise(clean, noise, given)
            assert ops.is_tensor(got) and keras.backend.standardize_dtype(got.dtype) == dtype
            assert np.allclose(ops.convert_to_numpy(got), want, atol=tolerance)


def test_velocity_is_the_derivative_along_the_angle():
    scheduler, times = NoiseScheduler(), np.array([10, 500, 900])
    noisy = scheduler.add_noise(CLEAN, NOISE, times)
    velocity = scheduler.velocity(CLEAN, NOISE, times)
    abar = scheduler.alphas_cumprod[times][:, None, None, None]
    # arXiv 2202.00512, appendix D: both are found again from x and v.
    assert np.allclose(np.sqrt(abar) * noisy - np.sqrt(1 - abar) * velocity, CLEAN, atol=1e-5)
    assert np.allclose(np.sqrt(1 - abar) * noisy + np.sqrt(abar) * velocity, NOISE, atol=1e-5)


def test_targets_follow_the_prediction_type():
    scheduler = NoiseScheduler()
    assert scheduler.target(CLEAN, NOISE, 5) is NOISE
    assert scheduler.target(CLEAN, NOISE, 5, "sample") is CLEAN
    velocity = scheduler.target(CLEAN, NOISE, 5, "v_prediction")
    assert np.array_equal(velocity, scheduler.velocity(CLEAN, NOISE, 5))
    with pytest.raises(ValueError, match="`prediction_type`.*'noise'"):
        scheduler.target(CLEAN, NOISE, 5, "noise")


def test_a_step_with_the_true_noise_lands_on_the_posterior_mean():
    scheduler, t = NoiseScheduler(), 600
    noisy = scheduler.add_noise(CLEAN, NOISE, t)
    alpha, beta = float(scheduler.alphas[t]), float(scheduler.betas[t])
    abar, before = (float(scheduler.alphas_cumprod[i]) for i in (t, t - 1))
    want = (before**0.5 * beta * CLEAN + alpha**0.5 * (1 - before) * noisy) / (1 - abar)
    zero = np.zeros_like(CLEAN)
    assert np.allclose(scheduler.step(NOISE, t, noisy, noise=zero), want, atol=1e-5)
    clean = scheduler.step(CLEAN, t, noisy, predict_epsilon=False, noise=zero)
    assert np.allclose(clean, want, atol=1e-5)


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_small_log", "fixed_large", "learned_range"])
def test_the_step_noise_has_the_variance_asked_for(kind):
    scheduler, t = NoiseScheduler(variance_type=kind), 600
    output = NOISE
    if kind == "learned_range":  # -1 is the smaller end, +1 the larger
        output = np.concatenate([NOISE, np.ones_like(NOISE)], axis=-1)
    one, none = np.ones_like(CLEAN), np.zeros_like(CLEAN)
    spread = scheduler.step(output, t, CLEAN, noise=one) - scheduler.step(
        output, t, CLEAN, noise=none
    )
    abar, before = (float(scheduler.alphas_cumprod[i]) for i in (t, t - 1))
    variance = float(scheduler.betas[t])
    if "small" in kind:
        variance *= (1 - before) / (1 - abar)
    assert np.allclose(spread, variance**0.5, rtol=1e-4)


def test_the_last_step_adds_no_noise_and_clipping_keeps_to_the_unit_range():
    scheduler = NoiseScheduler(clip_sample=True)
    big = np.full_like(CLEAN, 5.0)
    last = scheduler.step(big, 0, big, predict_epsilon=False, noise=big)
    assert np.allclose(last, 1.0, atol=1e-5)


def test_noise_is_drawn_anew_where_none_is_given():
    scheduler = NoiseScheduler()
    first, second = (scheduler.step(NOISE, 500, CLEAN) for _ in range(2))
    assert isinstance(first, np.ndarray) and not np.array_equal(first, second)
    assert np.array_equal(first, NoiseScheduler().step(NOISE, 500, CLEAN))


def test_length_and_config_agree():
    assert len(NoiseScheduler(train_timesteps=37)) == 37
    config = ScheduleConfig(zero_terminal_snr=True)
    scheduler = NoiseScheduler.from_config(config)
    assert np.array_equal(scheduler.alphas_cumprod, alphas_cumprod_of(config))
    with pytest.raises(ValueError, match="999"):
        scheduler.step(NOISE, 999, CLEAN)


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"beta_schedule": "quadratic"}, "`beta_schedule`"),
        ({"variance_type": "small"}, "`variance_type`"),
        ({"beta_start": 0.0}, "`beta_start`"),
        ({"beta_end": 1.0}, "`beta_end`"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "`beta_start`"),
        ({"train_timesteps": 0}, "timesteps"),
    ],
)
def test_schedules_without_meaning_are_refused(arguments, name):
    with pytest.raises(ValueError, match=name):
        NoiseScheduler(**arguments)


@pytest.mark.parametrize("times", [-1, 1000, 0.5, [1, 1000], [[1, 2]], np.array([1.0, 2.0])])
def test_timesteps_outside_the_schedule_are_refused(times):
    with pytest.raises(ValueError, match="`timesteps`"):
        NoiseScheduler().add_noise(CLEAN, NOISE, times)


@pytest.mark.parametrize("betas", [(0.1, 0.2), (0.1, 0.2, 1.0), (0.1, 0.0, 0.2)])
def test_trained_betas_of_wrong_number_or_range_are_refused(betas):
    with pytest.raises(ValueError, match="`trained_betas`"):
        betas_of(ScheduleConfig(num_train_timesteps=3, trained_betas=betas))


def test_learned_variances_need_twice_the_channels():
    with pytest.raises(ValueError, match="4 channels, not 2"):
        NoiseScheduler(variance_type="learned").step(NOISE, 5, CLEAN)


def test_rescaling_is_done_once_and_for_all():
    betas = rescale_zero_terminal_snr(betas_of(ScheduleConfig()))
    assert betas.dtype == np.float32 and betas[-1] == 1.0
    assert np.allclose(rescale_zero_terminal_snr(betas), betas, atol=1e-5)
