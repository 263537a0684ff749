"""The autoencoder's way out: latents to pictures (arXiv 2112.10752, section 3.1)."""

import keras

from kerasdiff.block_plan import decoder_blocks
from kerasdiff.blocks import autoencoder_layer
from kerasdiff.configs import AutoencoderConfig
from kerasdiff.layers import register
from kerasdiff.networks import Network, dtype_of


@register
class Decoder(Network):
    """Scaled latents (B, h, w, C) to pictures (B, H, W, 3) around [-1, 1], not clipped.

    Args:
        config: an `AutoencoderConfig`; H and W are h and w times its `factor`.
        dtype: "float32", "bfloat16", "float16" or a mixed policy.
        name: of the model.
    """

    config_class = AutoencoderConfig

    def __init__(self, config=AutoencoderConfig(), *, dtype="float32", name="decoder"):  # noqa: B008
        shape = (None, None, config.latent_channels)
        latent = keras.Input(shape, dtype=dtype_of(dtype), name="latent")
        x = keras.layers.Rescaling(
            1.0 / config.scaling_factor, config.shift_factor, name="unscale", dtype=dtype
        )(latent)
        for block in decoder_blocks(config):
            x = autoencoder_layer(block, config, dtype)(x)
        super().__init__(latent, x, config, dtype, name)
