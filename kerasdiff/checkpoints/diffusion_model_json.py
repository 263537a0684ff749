"""The config of the UNet in a diffusers folder, both ways."""

from kerasdiff.checkpoints.config_fields import (
    MAX_LAYERS,
    MAX_WIDTH,
    NETWORK_RECORDS,
    TRAINING,
    Fields,
    channels_of,
    compact,
    is_integer,
)  # fmt: skip
from kerasdiff.configs import DiffusionModelConfig

MIDDLE = "UNetMidBlock2DCrossAttn"

# Fields of diffusers' UNet2DConditionModel with its own defaults, not Stable Diffusion's.
HONOURED = {
    "sample_size": None, "in_channels": 4, "out_channels": 4, "flip_sin_to_cos": True,
    "freq_shift": 0, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "mid_block_type": MIDDLE,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "norm_num_groups": 32, "norm_eps": 1e-5, "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1, "reverse_transformer_layers_per_block": None,
    "attention_head_dim": 8, "use_linear_projection": False, "addition_embed_type": None,
    "addition_time_embed_dim": None, "projection_class_embeddings_input_dim": None,
    "time_embedding_dim": None, "time_cond_proj_dim": None,
}  # fmt: skip
FIXED = {
    "_class_name": ("UNet2DConditionModel",), "center_input_sample": (False,),
    "only_cross_attention": (False,), "downsample_padding": (1,), "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"), "encoder_hid_dim": (None,), "encoder_hid_dim_type": (None,),
    "num_attention_heads": (None,), "dual_cross_attention": (False,), "class_embed_type": (None,),
    "num_class_embeds": (None,), "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,), "resnet_out_scale_factor": (1,),
    "time_embedding_type": ("positional",), "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,), "conv_in_kernel": (3,), "conv_out_kernel": (3,),
    "attention_type": ("default",), "class_embeddings_concat": (False,),
    "mid_block_only_cross_attention": (None, False), "cross_attention_norm": (None,),
}  # fmt: skip
NO_EFFECT = NETWORK_RECORDS | {
    "dropout": TRAINING,
    "upcast_attention": "in float16 the scores of attention are always taken in float32",
    "addition_embed_type_num_heads": 'belongs to `addition_embed_type` "text", which is refused',
}


def diffusion_model_config(json):
    """Parse `unet/config.json`; CheckpointError names a field that cannot be honoured."""
    fields = Fields("unet", json, HONOURED, FIXED, NO_EFFECT)
    channels = channels_of(fields)
    count = len(channels)
    heads = fields.levels("attention_head_dim", count)
    depth, up_depth, mid_depth = _depths(fields, count)
    for i, attends in enumerate(zip(depth, up_depth[::-1], strict=True)):
        inside = i == count - 1 and mid_depth
        if (any(attends) or inside) and channels[i] % heads[i]:
            fields.refuse("attention_head_dim", heads[i], f"a divisor of {channels[i]} channels")
    _check_embeddings(fields, channels[0])
    context = set(fields.levels("cross_attention_dim", count))
    if len(context) > 1:
        fields.refuse("cross_attention_dim", fields["cross_attention_dim"], "the same everywhere")
    size_embed_dim, added_embed_dim = _added(fields)
    return DiffusionModelConfig(
        in_channels=fields.integer("in_channels"),
        out_channels=fields.integer("out_channels"),
        channels=channels,
        layers_per_block=fields.levels("layers_per_block", count, high=MAX_LAYERS),
        depth=depth,
        up_depth=up_depth,
        mid_depth=mid_depth,
        heads=heads,
        context_dim=context.pop(),
        linear_projection=fields.flag("use_linear_projection"),
        norm_groups=fields.integer("norm_num_groups"),
        epsilon=fields.number("norm_eps", 0.0, 1.0),
        flip_sin_to_cos=fields.flag("flip_sin_to_cos"),
        freq_shift=fields.number("freq_shift", 0.0, 1.0),
        time_cond_dim=fields.integer("time_cond_proj_dim", optional=True),
        size_embed_dim=size_embed_dim,
        added_embed_dim=added_embed_dim,
    )


def latent_size(json):
    """`sample_size` of `unet/config.json` as (height, width) in latents, or None."""
    fields = Fields("unet", json, HONOURED, FIXED, NO_EFFECT)
    return None if fields["sample_size"] is None else fields.levels("sample_size", 2, high=2048)


def diffusion_model_json(config, sample_size):
    """The `config.json` that diffusers opens, for (height, width) latents."""
    # The list of depths also says the middle's, which follows the innermost level.
    depth = [blocks or 1 for blocks in config.depth]
    depth[-1] = config.depth[-1] or config.mid_depth or 1
    up_depth = [blocks or depth[-1 - i] for i, blocks in enumerate(config.up_depth)]
    sized = config.size_embed_dim is not None
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": compact(sample_size),
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.channels),
        "layers_per_block": compact(config.layers_per_block),
        "down_block_types": [_attends("DownBlock2D", blocks) for blocks in config.depth],
        "mid_block_type": None if config.mid_depth is None else MIDDLE,
        "up_block_types": [_attends("UpBlock2D", blocks) for blocks in config.up_depth],
        "transformer_layers_per_block": compact(depth),
        "reverse_transformer_layers_per_block": None if up_depth == depth[::-1] else up_depth,
        "attention_head_dim": compact(config.heads),
        "cross_attention_dim": config.context_dim,
        "use_linear_projection": config.linear_projection,
        "act_fn": "silu",
        "norm_num_groups": config.norm_groups,
        "norm_eps": config.epsilon,
        "flip_sin_to_cos": config.flip_sin_to_cos,
        "freq_shift": config.freq_shift,
        "time_cond_proj_dim": config.time_cond_dim,
        "addition_embed_type": "text_time" if sized else None,
        "addition_time_embed_dim": config.size_embed_dim,
        "projection_class_embeddings_input_dim": config.added_embed_dim,
    }


def _added(fields):
    """The widths of SDXL's embedding of a size number, and of pooled text with all of them."""
    names = ("addition_time_embed_dim", "projection_class_embeddings_input_dim")
    if fields.choice("addition_embed_type", (None, "text_time")) is not None:
        return tuple(fields.integer(name, high=2 * MAX_WIDTH) for name in names)
    for name in names:
        if fields[name] is not None:
            fields.refuse(name, fields[name], "absent without `addition_embed_type`")
    return None, None


def _check_embeddings(fields, width):
    """Sinusoidal embeddings are pairs of a sine and a cosine, so their widths are even."""
    if fields["time_embedding_dim"] not in (None, 4 * width):
        expected = f"4 times the first of `block_out_channels`, {4 * width}"
        fields.refuse("time_embedding_dim", fields["time_embedding_dim"], expected)
    if width % 2 or width < 4:
        fields.refuse("block_out_channels", fields["block_out_channels"], "even, from 4, at first")
    for name in ("time_cond_proj_dim", "addition_time_embed_dim"):
        if is_integer(fields[name], 1, MAX_WIDTH) and (fields[name] % 2 or fields[name] < 4):
            fields.refuse(name, fields[name], "even, from 4")


def _depths(fields, count):
    """Transformer blocks of each level down, of each level up, and of the middle."""
    depth = fields.levels("transformer_layers_per_block", count, high=MAX_LAYERS)
    name = "reverse_transformer_layers_per_block"
    up_depth = depth[::-1] if fields[name] is None else fields.levels(name, count, high=MAX_LAYERS)
    middle = fields.choice("mid_block_type", (MIDDLE, None))
    return (
        _where_attends(fields, "down_block_types", "DownBlock2D", depth),
        _where_attends(fields, "up_block_types", "UpBlock2D", up_depth),
        depth[-1] if middle else None,
    )


def _where_attends(fields, name, plain, depth):
    """The depth of each level, 0 where its block has no attention."""
    kinds = (plain, _attends(plain, True))
    blocks = fields.items(name, f"of {kinds}", lambda item: item in kinds)
    if len(blocks) != len(depth):
        fields.refuse(name, list(blocks), f"a list of {len(depth)}, as `block_out_channels`")
    return tuple(n * (block != plain) for block, n in zip(blocks, depth, strict=True))


def _attends(plain, attention):
    """The name of a level's block, with attention or without."""
    return "CrossAttn" + plain if attention else plain
