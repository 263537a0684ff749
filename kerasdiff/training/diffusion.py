"""Training the UNet, alone or with its text encoder (arXiv 2112.10752, section 3.2).

As `autoencoder`: a Keras model of one input, a batch, that holds all random numbers; calling it
gives the losses.
"""

import numpy as np
from keras import ops

from kerasdiff.backend import loss_of_replica
from kerasdiff.diffusion_model import timestep_embedding
from kerasdiff.image_encoder import sample_moments
from kerasdiff.noise_scheduler import NoiseScheduler
from kerasdiff.training.autoencoder import to_floats
from kerasdiff.training.trainer import Trainer


class DiffusionTrainer(Trainer):
    """Trains F to predict noise or velocity, with `compile` and `fit`.

    A batch, such as `DiffusionDraw` makes, is a dict: `pictures` (B, H, W, 3), or instead
    `moments` (B, h, w, 2 C) or `latents` (B, h, w, C); `posterior_noise` (B, h, w, C) unless it
    has latents; `tokens` (B, T), or instead `context` (B, T, D); `noise` (B, h, w, C); `timesteps`
    (B,) integers.

    Args:
        config: the `StableDiffusionConfig`: its schedule and prediction type.
        diffusion_model: the `DiffusionModel`.
        text_encoder: the `TextEncoder`; None where batches hold `context`. Frozen or trained as
            its `trainable` says.
        image_encoder: the `ImageEncoder`; None where batches hold no pictures. It is frozen and
            stays so: set its `trainable` before it is trained elsewhere.
        snr_gamma: min-SNR weighting (arXiv 2303.09556, section 3.4; 5 there); None weighs all
            timesteps alike. At zero terminal SNR it gives the last timestep the weight 0, so that
            the rows of `DiffusionDraw(pure_noise=...)` would train nothing.

    Raises:
        ValueError: if the network has inputs that this trainer does not make (SDXL's sizes,
            ControlNet's residuals, an inpainting network's mask).
    """

    def __init__(
        self, config, diffusion_model, text_encoder=None, image_encoder=None, snr_gamma=None,
        name="diffusion_trainer",
    ):  # fmt: skip
        super().__init__(name=name)
        known = {"latent", "timestep_embedding", "context"}
        unknown = [each.name for each in diffusion_model.inputs if each.name not in known]
        if unknown:
            raise ValueError(f"a network with the inputs {', '.join(unknown)} cannot be trained")
        channels, latent = diffusion_model.config.in_channels, config.autoencoder.latent_channels
        if channels != latent:
            raise ValueError(
                f"a network of {channels} channels, for inpainting, cannot be trained: batches "
                f"hold no masks and make {latent}"
            )
        self.config = config
        self.diffusion_model, self.text_encoder = diffusion_model, text_encoder
        self.image_encoder = image_encoder
        if image_encoder is not None:
            image_encoder.trainable = False
            self.moments = image_encoder.moments
        self.scheduler = NoiseScheduler.from_config(config.schedule)
        self.weights_of_timesteps = _snr_weights(config.schedule, self.scheduler, snr_gamma)
        self.built = True

    def fit(self, x=None, *args, **options):
        """As `Trainer.fit`.

        Raises:
            ValueError: rows begin in pure noise, to which `snr_gamma` gives no weight.
        """
        if getattr(getattr(x, "draw", None), "pure_noise", 0) and not self.weights_of_timesteps[-1]:
            raise ValueError(
                "`snr_gamma` gives the weight 0 to the last timestep, which `pure_noise` asks for: "
                "take one of them without the other"
            )
        return super().fit(x, *args, **options)

    def call(self, batch, training=None):
        """The weighted squared error of each row, (B,) float32."""
        latents, timesteps = self._latents(batch), batch["timesteps"]
        network = self.diffusion_model.config
        noisy = self.scheduler.add_noise(latents, batch["noise"], timesteps)
        predicted = self.diffusion_model(
            {
                "latent": noisy,
                "timestep_embedding": timestep_embedding(
                    timesteps, network.channels[0], network.flip_sin_to_cos, network.freq_shift
                ),
                "context": self._context(batch),
            },
            training=training,
        )
        kind = self.config.schedule.prediction_type
        target = self.scheduler.target(latents, batch["noise"], timesteps, kind)
        errors = ops.mean(ops.square(ops.cast(predicted, "float32") - target), axis=(1, 2, 3))
        return errors * ops.take(self.weights_of_timesteps, timesteps, axis=0)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """`fit` minimises the mean of what `call` returns."""
        return loss_of_replica(ops.mean(y_pred))

    def _latents(self, batch):
        if "latents" in batch:
            return batch["latents"]
        if "moments" in batch:
            moments = batch["moments"]
        else:
            moments = ops.stop_gradient(self.moments(to_floats(batch["pictures"])))
        return sample_moments(moments, batch["posterior_noise"], self.config.autoencoder)

    def _context(self, batch):
        if "context" in batch:
            return batch["context"]
        tokens = batch["tokens"]
        positions = np.arange(tokens.shape[1], dtype="int32")[None]
        encoded = self.text_encoder({"tokens": tokens, "positions": positions})
        return encoded["context"] if isinstance(encoded, dict) else encoded


def _snr_weights(schedule, scheduler, gamma):
    """The weight of each timestep, (num_train_timesteps,) float32.

    min(SNR, gamma) / SNR for noise, / (SNR + 1) for velocity: section 3.4 in terms of the clean
    picture's error, whose ratio to noise's is SNR and to velocity's SNR + 1.
    """
    abar = scheduler.alphas_cumprod.astype("float64")
    if gamma is None:
        return np.ones(abar.shape, "float32")
    if not gamma > 0:
        raise ValueError(f"`snr_gamma` must be positive or None, not {gamma!r}")
    kind = schedule.prediction_type
    if kind == "epsilon" and abar[-1] == 0.0:
        raise ValueError("noise cannot be predicted at zero terminal SNR: use v_prediction")
    snr = abar / (1.0 - abar)
    clipped = np.minimum(snr, gamma)
    divisors = {"epsilon": snr, "v_prediction": snr + 1.0, "sample": np.ones_like(snr)}
    return (clipped / divisors[kind]).astype("float32")
