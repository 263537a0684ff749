"""The autoencoder's way in: pictures to latents (arXiv 2112.10752, section 3.1)."""

import keras
from keras import ops

from kerasdiff.block_plan import encoder_blocks
from kerasdiff.blocks import autoencoder_layer
from kerasdiff.configs import AutoencoderConfig
from kerasdiff.layers import register
from kerasdiff.networks import Network, dtype_of


@register
class ScaledMean(keras.layers.Layer):
    """The mean of the posterior as scaled latents: moments (B, h, w, 2C) -> (B, h, w, C)."""

    def __init__(self, scaling_factor, shift_factor, **kwargs):
        super().__init__(**kwargs)
        self.scaling_factor, self.shift_factor = scaling_factor, shift_factor

    def call(self, moments):
        mean = ops.split(moments, 2, axis=-1)[0]
        return (mean - self.shift_factor) * self.scaling_factor

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] // 2)

    def get_config(self):
        own = {"scaling_factor": self.scaling_factor, "shift_factor": self.shift_factor}
        return {**super().get_config(), **own}


@register
class ImageEncoder(Network):
    """Pictures (B, H, W, 3) in [-1, 1] to the posterior's mean as scaled latents (B, h, w, C).

    Args:
        config: an `AutoencoderConfig`; h and w are H and W divided by its `factor`.
        dtype: "float32", "bfloat16", "float16" or a mixed policy.
        name: of the model.

    Attributes:
        moments: a model that shares these layers, from pictures to mean and log variance,
            (B, h, w, 2C), before sampling and scaling.
    """

    config_class = AutoencoderConfig

    def __init__(self, config=AutoencoderConfig(), *, dtype="float32", name="image_encoder"):  # noqa: B008
        shape = (None, None, config.image_channels)
        x = image = keras.Input(shape, dtype=dtype_of(dtype), name="image")
        for block in encoder_blocks(config):
            x = autoencoder_layer(block, config, dtype)(x)
        scale = ScaledMean(
            config.scaling_factor, config.shift_factor, name="scaled_mean", dtype=dtype
        )
        super().__init__(image, scale(x), config, dtype, name)
        self.moments = keras.Model(image, x, name=f"{name}_moments")


def sample_moments(moments, noise, config):
    """Scaled latents drawn from the posterior.

    Args:
        moments: (B, h, w, 2C), mean and log variance, which is clipped to [-30, 20].
        noise: standard normal, (B, h, w, C).
        config: the `AutoencoderConfig`.

    Returns:
        (B, h, w, C) float32.
    """
    mean, log_variance = ops.split(ops.cast(moments, "float32"), 2, axis=-1)
    sample = mean + ops.exp(0.5 * ops.clip(log_variance, -30.0, 20.0)) * noise
    return (sample - config.shift_factor) * config.scaling_factor
