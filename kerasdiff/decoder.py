"""The autoencoder's decoder: latents to pictures (arXiv 2112.10752, section 3.1)."""

import keras

from kerasdiff.block_plan import decoder_blocks
from kerasdiff.configs import AutoencoderConfig
from kerasdiff.layers import Network, apply_blocks, to_policy


@keras.saving.register_keras_serializable("kerasdiff")
class Decoder(Network):
    """Scaled latents (B, h, w, C) to pictures (B, f h, f w, 3), around [-1, 1], not clipped.

    Args:
        config: an `AutoencoderConfig`; f is its `factor`.
        dtype: float32 (None), bfloat16, float16, mixed_bfloat16 or mixed_float16.
        name: of the model.

    Raises:
        ValueError: if `norm_groups` does not divide every one of `channels`, or
            `scaling_factor` is 0.
    """

    CONFIG = AutoencoderConfig

    def __init__(self, config=CONFIG(), *, dtype=None, name="decoder", trainable=True):  # noqa: B008
        if not config.scaling_factor:
            raise ValueError("`scaling_factor` must not be 0")
        policy = to_policy(dtype)
        latent = keras.Input((None, None, config.latent_channels), name="latent", dtype="float32")
        unscale = keras.layers.Rescaling(
            1.0 / config.scaling_factor, config.shift_factor, name="unscale", dtype="float32"
        )
        image = apply_blocks(unscale(latent), decoder_blocks(config), config, policy)
        super().__init__(config, latent, image, policy, name, trainable)
