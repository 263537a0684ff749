"""The autoencoder's encoder: pictures to latents (arXiv 2112.10752, section 3.1)."""

from functools import cached_property

import keras
from keras import ops

from kerasdiff.block_plan import encoder_blocks
from kerasdiff.configs import AutoencoderConfig
from kerasdiff.layers import MeanLatents, Network, apply_blocks, to_policy

LOG_VARIANCE = (-30.0, 20.0)
"""The range that log variances are clipped to (Latent Diffusion's code)."""


@keras.saving.register_keras_serializable("kerasdiff")
class ImageEncoder(Network):
    """Pictures (B, H, W, 3) in [-1, 1] to mean latents (B, H/f, W/f, C), scaled, in float32.

    `layers[-2].output` are the moments before that, as in keras-cv.

    Args:
        config: an `AutoencoderConfig`; f is its `factor`.
        dtype: float32 (None), bfloat16, float16, mixed_bfloat16 or mixed_float16.
        name: of the model.

    Raises:
        ValueError: if `norm_groups` does not divide every one of `channels`.
    """

    CONFIG = AutoencoderConfig

    def __init__(self, config=CONFIG(), *, dtype=None, name="image_encoder", trainable=True):  # noqa: B008
        policy = to_policy(dtype)
        image = keras.Input((None, None, config.image_channels), name="image", dtype="float32")
        moments = apply_blocks(image, encoder_blocks(config), config, policy)
        latents = MeanLatents(config.scaling_factor, config.shift_factor, name="latents")(moments)
        super().__init__(config, image, latents, policy, name, trainable)

    @cached_property
    def moments(self):
        """The same network up to the moments (B, H/f, W/f, 2 C): mean and log variance."""
        model = keras.Model(self.input, self.layers[-2].output, name=f"{self.name}_moments")
        model.dtype_policy = self.dtype_policy
        return model


def sample_moments(moments, noise, config):
    """A sample of the posterior as scaled latents, in float32.

    Args:
        moments: (B, h, w, 2 C), see `ImageEncoder.moments`.
        noise: (B, h, w, C), normal.
        config: the `AutoencoderConfig`.

    Returns:
        (B, h, w, C).

    Raises:
        ValueError: if the shapes do not fit.
    """
    moments, noise = ops.cast(moments, "float32"), ops.cast(noise, "float32")
    if (*noise.shape[:-1], 2 * noise.shape[-1]) != tuple(moments.shape):
        raise ValueError(
            f"`noise` must have half the channels of `moments` of shape {tuple(moments.shape)}, "
            f"not shape {tuple(noise.shape)}"
        )
    mean, log_variance = ops.split(moments, 2, axis=-1)
    deviation = ops.exp(0.5 * ops.clip(log_variance, *LOG_VARIANCE))
    return (mean + deviation * noise - config.shift_factor) * config.scaling_factor
