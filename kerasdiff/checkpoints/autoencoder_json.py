"""The config of the autoencoder in a diffusers folder, both ways."""

from kerasdiff.checkpoints.config_fields import (
    MAX_LAYERS,
    NETWORK_RECORDS,
    Fields,
    channels_of,
)  # fmt: skip
from kerasdiff.configs import AutoencoderConfig

ENCODER_BLOCK, DECODER_BLOCK = "DownEncoderBlock2D", "UpDecoderBlock2D"

# Fields of diffusers' AutoencoderKL with its own defaults, which are not Stable Diffusion's.
HONOURED = {
    "in_channels": 3, "out_channels": 3, "down_block_types": [ENCODER_BLOCK],
    "up_block_types": [DECODER_BLOCK], "block_out_channels": [64], "layers_per_block": 1,
    "latent_channels": 4, "norm_num_groups": 32, "scaling_factor": 0.18215, "shift_factor": None,
    "use_quant_conv": True, "use_post_quant_conv": True, "mid_block_add_attention": True,
}  # fmt: skip
FIXED = {
    "_class_name": ("AutoencoderKL",), "act_fn": ("silu", "swish"),
    "latents_mean": (None,), "latents_std": (None,),
}  # fmt: skip
NO_EFFECT = NETWORK_RECORDS | {
    "sample_size": "pictures of any size are coded whole; it only sizes diffusers' tiles",
    "force_upcast": "a picture that is not finite is always decoded again in float32",
}


def autoencoder_config(json):
    """Parse `vae/config.json`; CheckpointError names a field that cannot be honoured."""
    fields = Fields("vae", json, HONOURED, FIXED, NO_EFFECT)
    channels = channels_of(fields)
    for name, block in (("down_block_types", ENCODER_BLOCK), ("up_block_types", DECODER_BLOCK)):
        if fields[name] not in ([block] * len(channels), (block,) * len(channels)):
            fields.refuse(name, fields[name], f"{len(channels)} times {block!r}")
    image_channels = fields.integer("in_channels")
    if fields["out_channels"] != image_channels:
        fields.refuse("out_channels", fields["out_channels"], f"`in_channels` = {image_channels}")
    scaling = fields.number("scaling_factor", 0.0, 1e6)
    if not scaling:
        fields.refuse("scaling_factor", scaling, "above 0")
    return AutoencoderConfig(
        image_channels=image_channels,
        latent_channels=fields.integer("latent_channels"),
        channels=channels,
        layers_per_block=fields.integer("layers_per_block", high=MAX_LAYERS),
        norm_groups=fields.integer("norm_num_groups"),
        scaling_factor=scaling,
        shift_factor=fields.number("shift_factor", -1e6, 1e6, optional=True) or 0.0,
        quant_conv=fields.flag("use_quant_conv"),
        post_quant_conv=fields.flag("use_post_quant_conv"),
        mid_attention=fields.flag("mid_block_add_attention"),
    )


def autoencoder_json(config):
    """The `config.json` that diffusers opens; `autoencoder_config` reversed."""
    levels = len(config.channels)
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": config.image_channels,
        "out_channels": config.image_channels,
        "down_block_types": [ENCODER_BLOCK] * levels,
        "up_block_types": [DECODER_BLOCK] * levels,
        "block_out_channels": list(config.channels),
        "layers_per_block": config.layers_per_block,
        "act_fn": "silu",
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_groups,
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.shift_factor or None,
        "use_quant_conv": config.quant_conv,
        "use_post_quant_conv": config.post_quant_conv,
        "mid_block_add_attention": config.mid_attention,
    }
