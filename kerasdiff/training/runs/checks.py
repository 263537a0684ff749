"""What settings need of model and devices, checked before anything is trained or encoded."""

from kerasdiff.noise_scheduler import NoiseScheduler
from kerasdiff.options import options_of
from kerasdiff.samplers import make_table
from kerasdiff.training.devices import shared_devices
from kerasdiff.training.runs.tables import need


def check_batch_size(batch_size):
    """Raises ValueError unless all devices of all processes can take equal parts of a batch."""
    devices = shared_devices()
    need(
        batch_size % devices == 0,
        f"`batch_size` must be a multiple of {devices}, the number of devices that share each "
        f"batch, not {batch_size}: take {-(-batch_size // devices) * devices}, or fewer devices",
    )


def check_loss(loss, schedule):
    """Raises ValueError if a model's timesteps cannot be weighed as the settings say.

    Args:
        loss: a `sections.DiffusionLoss`.
        schedule: the model's `ScheduleConfig`.
    """
    if loss.snr_gamma is not None and schedule.prediction_type == "epsilon":
        need(
            NoiseScheduler.from_config(schedule).alphas_cumprod[-1] > 0,
            "`loss.snr_gamma`: this model predicts noise, and its last timestep is noise alone "
            "(zero terminal SNR), which has no weight: leave `snr_gamma` out",
        )


def check_samples(samples, config, tokenizer):
    """Raises ValueError unless these pictures can be drawn: options, schedule, lengths of prompts.

    Args:
        samples: a `sections.Samples`.
        config: the model's `StableDiffusionConfig`.
        tokenizer: the text encoder's.
    """
    if not samples.prompts:
        return
    try:
        options = options_of(samples.steps, samples.guidance, samples.seed)
        options.seeds(len(samples.prompts))
        make_table(config.schedule, samples.steps)
        for prompt in samples.prompts:
            tokenizer.pack(prompt)
    except ValueError as error:
        raise ValueError(f"`samples`: {error}") from None
