"""The training noise schedule: how much signal is left after t steps of noise.

A noisy picture is sqrt(abar_t) x + sqrt(1 - abar_t) noise, with abar_t the running product of
1 - beta_t (arXiv 2006.11239, equation 4). The functions give the schedule as NumPy arrays, for
the samplers; `NoiseScheduler`, with keras-cv's name and arguments, adds noise and makes targets
for training. Betas are rounded to float32 as in the implementations that trained the published
checkpoints, so that noise levels and the timesteps rounded from them agree.
"""

import math

import keras
import numpy as np
from keras import ops

from kerasdiff.configs import BETA_SCHEDULES, FIXED_VARIANCES

VARIANCE_TYPES = (*FIXED_VARIANCES, "fixed_large_log", "learned", "learned_range")


def make_betas(schedule, beta_start, beta_end, count):
    """The variance of the noise that each step adds.

    Args:
        schedule: `"scaled_linear"` (linear in the square root; Stable Diffusion), `"linear"`
            (DDPM) or `"squaredcos_cap_v2"` (arXiv 2102.09672, section 3.2; needs no ends).
        beta_start, beta_end: the first and the last, in (0, 1).
        count: number of steps.

    Returns:
        (count,) float32.

    Raises:
        ValueError: on an unknown schedule, ends out of range or a count below 1.
    """
    if schedule not in BETA_SCHEDULES:
        raise ValueError(f"`beta_schedule` must be one of {BETA_SCHEDULES}, not {schedule!r}")
    if not 0.0 < beta_start <= beta_end < 1.0:
        raise ValueError(
            "`beta_start` and `beta_end` must satisfy 0 < beta_start <= beta_end < 1, "
            f"not {beta_start} and {beta_end}"
        )
    if count < 1:
        raise ValueError(f"the number of training timesteps must be at least 1, not {count}")
    if schedule == "linear":
        return _linspace(beta_start, beta_end, count)
    if schedule == "scaled_linear":
        return _linspace(beta_start**0.5, beta_end**0.5, count) ** 2
    time = np.arange(count + 1) / count
    alphas_cumprod = np.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = 1.0 - alphas_cumprod[1:] / alphas_cumprod[:-1]
    return np.minimum(betas, 0.999).astype("float32")


def rescale_zero_terminal_snr(betas):
    """Shifts and scales sqrt(abar) so that nothing is left of the picture after the last step.

    From arXiv 2305.08891, algorithm 1. Takes and returns (count,) float32.
    """
    signal = np.sqrt(cumulate(betas))
    first, last = signal[0], signal[-1]
    signal = (signal - last) * (first / (first - last))
    alphas_cumprod = signal**2
    alphas = np.append(alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1])
    return np.float32(1.0) - alphas


def cumulate(betas):
    """Betas, (count,) float32, to abar: the running product of 1 - beta, (count,) float32."""
    alphas = np.float32(1.0) - np.asarray(betas, "float32")
    return np.cumprod(alphas, dtype="float64").astype("float32")


def betas_of(config):
    """The betas, (num_train_timesteps,) float32, of a `ScheduleConfig`."""
    count = config.num_train_timesteps
    if config.trained_betas is None:
        betas = make_betas(config.beta_schedule, config.beta_start, config.beta_end, count)
    else:
        betas = np.asarray(config.trained_betas, "float32")
        if betas.shape != (count,) or not np.all((betas > 0.0) & (betas < 1.0)):
            raise ValueError(
                f"`trained_betas` must be num_train_timesteps = {count} numbers between 0 and 1, "
                f"not shape {betas.shape} with {betas.min()} to {betas.max()}"
            )
    return rescale_zero_terminal_snr(betas) if config.zero_terminal_snr else betas


def alphas_cumprod_of(config):
    """abar, (num_train_timesteps,) float32, of a `ScheduleConfig`; 0 last at zero terminal SNR."""
    return cumulate(betas_of(config))


def to_sigmas(alphas_cumprod):
    """abar to noise over signal, sigma = sqrt((1 - abar) / abar), of the same shape."""
    return np.sqrt((1 - alphas_cumprod) / alphas_cumprod)


def sigma_to_timestep(sigma, sigmas):
    """The fractional timestep of a noise level: log sigma interpolated, clipped to the schedule.

    Args:
        sigma: a number or an array.
        sigmas: (num_train_timesteps,), rising.
    """
    return np.interp(np.log(np.maximum(sigma, 1e-10)), np.log(sigmas), np.arange(len(sigmas)))


def _linspace(start, end, count):
    """Evenly spaced float32 numbers, each half counted from its own end, as PyTorch does."""
    start, end, index = np.float32(start), np.float32(end), np.arange(count)
    step = np.float64((end - start) / np.float32(max(count - 1, 1)))
    halves = index < max(count // 2, 1)
    return np.where(halves, start + step * index, end - step * (count - 1 - index)).astype(
        "float32"
    )


class NoiseScheduler:
    """The forward process and one step of its reversal (DDPM, arXiv 2006.11239), for training.

    keras-cv's class and arguments, with Stable Diffusion's own betas as defaults. Methods take
    arrays of NumPy (and return such) or tensors of any Keras backend. Arrays are
    (B, ..., channels); timesteps are one integer or (B,) integers.

    Args:
        train_timesteps: number of steps of noise used in training.
        beta_start, beta_end: the first and the last beta.
        beta_schedule: see `make_betas`.
        variance_type: of the noise that `step` adds: `"fixed_small"` (the posterior's),
            `"fixed_large"` (beta), the same two with `"_log"` (which changes nothing here), or
            `"learned"` and `"learned_range"` (arXiv 2102.09672), where the network's output has
            twice the channels and the second half tells the variance.
        clip_sample: clip the predicted clean sample to [-1, 1]: for pixels, not for latents.
        seed: of the noise that `step` draws where it is given none.

    Raises:
        ValueError: on an unknown `beta_schedule` or `variance_type`.
    """

    def __init__(
        self,
        train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        variance_type="fixed_small",
        clip_sample=False,
        seed=42,
    ):
        if variance_type not in VARIANCE_TYPES:
            raise ValueError(
                f"`variance_type` must be one of {VARIANCE_TYPES}, not {variance_type!r}"
            )
        self.train_timesteps = train_timesteps
        self.betas = make_betas(beta_schedule, beta_start, beta_end, train_timesteps)
        self.alphas = np.float32(1.0) - self.betas
        self.alphas_cumprod = cumulate(self.betas)
        self.variance_type = variance_type
        self.clip_sample = clip_sample
        self.seed_generator = keras.random.SeedGenerator(seed)

    @classmethod
    def from_config(cls, config):
        """The scheduler of a checkpoint's `ScheduleConfig`, zero terminal SNR included."""
        betas = betas_of(config)
        scheduler = cls(len(betas), variance_type=config.variance_type)
        scheduler.betas, scheduler.alphas = betas, np.float32(1.0) - betas
        scheduler.alphas_cumprod = cumulate(betas)
        return scheduler

    def __len__(self):
        return self.train_timesteps

    def add_noise(self, original_samples, noise, timesteps):
        """Clean samples and standard normal noise to samples as noisy as at `timesteps`."""
        signal, spread = self._scales(timesteps, original_samples)
        return signal * original_samples + spread * noise

    def velocity(self, original_samples, noise, timesteps):
        """v = signal * noise - spread * samples (arXiv 2202.00512, appendix D)."""
        signal, spread = self._scales(timesteps, original_samples)
        return signal * noise - spread * original_samples

    def target(self, original_samples, noise, timesteps, prediction_type="epsilon"):
        """What the network is trained to give back.

        Args:
            prediction_type: `"epsilon"`, `"v_prediction"` or `"sample"`.

        Raises:
            ValueError: on another `prediction_type`.
        """
        if prediction_type == "epsilon":
            return noise
        if prediction_type == "v_prediction":
            return self.velocity(original_samples, noise, timesteps)
        if prediction_type == "sample":
            return original_samples
        raise ValueError(
            "`prediction_type` must be 'epsilon', 'v_prediction' or 'sample', "
            f"not {prediction_type!r}"
        )

    def step(self, model_output, timestep, sample, predict_epsilon=True, noise=None):
        """One step of the reverse process, from `timestep` to the one before.

        Args:
            model_output: the network's output; twice the channels for learned variances.
            timestep: an integer, 0 to `train_timesteps` - 1.
            sample: the noisy sample.
            predict_epsilon: whether the output is the noise, or else the clean sample.
            noise: standard normal, like `sample`; drawn if None.

        Returns:
            The sample before, without fresh noise at timestep 0.
        """
        timestep = self._check(timestep)
        learned = None
        if self.variance_type.startswith("learned"):
            model_output, learned = self._halves(model_output, sample)
        abar = float(self.alphas_cumprod[timestep])
        before = float(self.alphas_cumprod[timestep - 1]) if timestep > 0 else 1.0
        alpha = float(self.alphas[timestep])
        beta = 1.0 - alpha

        clean = model_output
        if predict_epsilon:
            if abar == 0.0:
                raise ValueError(f"at `timestep` {timestep} noise tells nothing of the sample")
            clean = (sample - (1.0 - abar) ** 0.5 * model_output) / abar**0.5
        if self.clip_sample:
            clean = clean.clip(-1, 1) if isinstance(clean, np.ndarray) else ops.clip(clean, -1, 1)
        # Equation 7: the mean of the posterior.
        clean_weight = before**0.5 * beta / (1.0 - abar)
        sample_weight = alpha**0.5 * (1.0 - before) / (1.0 - abar)
        mean = clean_weight * clean + sample_weight * sample
        if timestep == 0:
            return mean
        if noise is None:
            noise = keras.random.normal(sample.shape, seed=self.seed_generator)
            noise = self._like(noise, sample)
        return mean + self._deviation(beta * (1.0 - before) / (1.0 - abar), beta, learned) * noise

    def _deviation(self, small, large, learned):
        """The standard deviation of a step from its least and largest variance."""
        small = max(small, 1e-20)
        if self.variance_type == "learned":
            return learned**0.5
        if self.variance_type == "learned_range":
            fraction = (learned + 1.0) / 2.0
            log_variance = fraction * math.log(large) + (1.0 - fraction) * math.log(small)
            return math.e ** (0.5 * log_variance)
        return (large if "large" in self.variance_type else small) ** 0.5

    def _halves(self, model_output, sample):
        channels = sample.shape[-1]
        if model_output.shape[-1] != 2 * channels:
            raise ValueError(
                f"with learned variances `model_output` must have {2 * channels} channels, "
                f"not {model_output.shape[-1]}"
            )
        return model_output[..., :channels], model_output[..., channels:]

    def _scales(self, timesteps, samples):
        """sqrt(abar) and sqrt(1 - abar) at `timesteps`, shaped to multiply `samples`."""
        if ops.is_tensor(timesteps):
            abar = ops.take(self.alphas_cumprod, timesteps, axis=0)
        else:
            abar = self.alphas_cumprod[self._check(timesteps)]
        # () or (B,) -> (1 or B, 1, ..., 1)
        abar = ops.reshape(abar, (-1,) + (1,) * (len(samples.shape) - 1))
        return self._like(ops.sqrt(abar), samples), self._like(ops.sqrt(1.0 - abar), samples)

    def _check(self, timesteps):
        timesteps = np.asarray(timesteps)
        good = timesteps.dtype.kind in "iu" and timesteps.ndim <= 1
        if not good or np.any((timesteps < 0) | (timesteps >= self.train_timesteps)):
            raise ValueError(
                f"`timesteps` must be integers from 0 to {self.train_timesteps - 1}, "
                f"not {timesteps}"
            )
        return timesteps

    def _like(self, values, samples):
        """`values` as what `samples` is: a NumPy array or a tensor, in its dtype."""
        if isinstance(samples, np.ndarray):
            return ops.convert_to_numpy(values).astype(samples.dtype)
        return ops.cast(values, samples.dtype)
