"""The blocks of the networks, in the order in which data passes through them.

One plan serves the models, ControlNet and the map of weight names: each row has a block's name in
the diffusers layout, which is the canonical one, and in the original layout of Latent Diffusion
(arXiv 2112.10752), and what it takes to build it. A block's tensors have names that begin with the
block's.
"""

from typing import NamedTuple


class Block(NamedTuple):
    """One block of a network.

    Attributes:
        name: in the diffusers layout, such as `"down_blocks.0.resnets.1"`.
        original: in the original layout, such as `"input_blocks.2.0"`.
        kind: `"conv"`, `"norm"`, `"time"` (embeds a vector), `"res"`, `"transformer"`,
            `"attention"` (of the autoencoder: one head, no context), `"down"` or `"up"`.
        channels: that leave the block.
        heads: of its attention, 0 where it has none.
        depth: transformer blocks in a row, 0 where it is no transformer.
        skip: `"push"` where the output is also kept for the way up, after the transformer if one
            follows; `"pop"` where the latest kept one joins the input.
    """

    name: str
    original: str
    kind: str
    channels: int
    heads: int = 0
    depth: int = 0
    skip: str = ""


def unet_blocks(config):
    """Every block of the UNet.

    Args:
        config: a `DiffusionModelConfig`.

    Returns:
        list of `Block`.

    Raises:
        ValueError: if the config's tuples are not of one length.
    """
    outer = config.channels[0]
    time = [Block("time_embedding", "time_embed", "time", 4 * outer)]
    if config.added_embed_dim is not None:
        time.append(Block("add_embedding", "label_emb.0", "time", 4 * outer))
    return [
        *time,
        Block("conv_in", "input_blocks.0.0", "conv", outer, skip="push"),
        *diffusion_model_plan(config),
        Block("conv_norm_out", "out.0", "norm", outer),
        Block("conv_out", "out.2", "conv", config.out_channels),
    ]


def diffusion_model_plan(config):
    """The UNet's blocks between `conv_in` and `conv_norm_out`: the way down, the middle, up."""
    _check_lengths(config)
    return [*_down(config), *_middle(config), *_up(config)]


def encoder_blocks(config):
    """Every block of the autoencoder's encoder, for an `AutoencoderConfig`."""
    ends = _autoencoder_ends("encoder", config.channels[0], 2 * config.latent_channels, config)
    quant = Block("quant_conv", "quant_conv", "conv", 2 * config.latent_channels)
    return [ends[0], *_encoder(config), *ends[1:], *[quant] * config.quant_conv]


def decoder_blocks(config):
    """Every block of the autoencoder's decoder, for an `AutoencoderConfig`."""
    ends = _autoencoder_ends("decoder", config.channels[-1], config.image_channels, config)
    quant = Block("post_quant_conv", "post_quant_conv", "conv", config.latent_channels)
    return [*[quant] * config.post_quant_conv, ends[0], *_decoder(config), *ends[1:]]


def autoencoder_plan(config):
    """The autoencoder's blocks between the outermost convolutions of either half."""
    return [*_encoder(config), *_decoder(config)]


def _check_lengths(config):
    levels = len(config.channels)
    for field in ("layers_per_block", "depth", "up_depth", "heads"):
        values = getattr(config, field)
        if len(values) != levels:
            raise ValueError(
                f"`{field}` must have one entry for each of the {levels} levels of `channels`, "
                f"not {values}"
            )


def _down(config):
    index = 0
    for level, channels in enumerate(config.channels):
        name, heads, depth = f"down_blocks.{level}", config.heads[level], config.depth[level]
        for layer in range(config.layers_per_block[level]):
            index += 1
            res = f"{name}.resnets.{layer}", f"input_blocks.{index}.0"
            yield Block(*res, "res", channels, skip="push" if not depth else "")
            if depth:
                attention = f"{name}.attentions.{layer}", f"input_blocks.{index}.1"
                yield Block(*attention, "transformer", channels, heads, depth, "push")
        if level < len(config.channels) - 1:
            index += 1
            down = f"{name}.downsamplers.0", f"input_blocks.{index}.0"
            yield Block(*down, "down", channels, skip="push")


def _middle(config):
    if config.mid_depth is None:
        return
    channels = config.channels[-1]
    yield Block("mid_block.resnets.0", "middle_block.0", "res", channels)
    if config.mid_depth:
        attention = "mid_block.attentions.0", "middle_block.1"
        yield Block(*attention, "transformer", channels, config.heads[-1], config.mid_depth)
    last = "mid_block.resnets.1", f"middle_block.{2 if config.mid_depth else 1}"
    yield Block(*last, "res", channels)


def _up(config):
    index = 0
    for level, channels in enumerate(config.channels[::-1]):
        name, heads = f"up_blocks.{level}", config.heads[-1 - level]
        depth, layers = config.up_depth[level], config.layers_per_block[-1 - level] + 1
        for layer in range(layers):
            original = f"output_blocks.{index + layer}"
            yield Block(f"{name}.resnets.{layer}", f"{original}.0", "res", channels, skip="pop")
            if depth:
                attention = f"{name}.attentions.{layer}", f"{original}.1"
                yield Block(*attention, "transformer", channels, heads, depth)
        if level < len(config.channels) - 1:
            yield Block(f"{name}.upsamplers.0", f"{original}.{2 if depth else 1}", "up", channels)
        index += layers


def _autoencoder_ends(half, inner, out, config):
    """conv_in, conv_norm_out and conv_out of a half."""
    return [
        Block(f"{half}.conv_in", f"{half}.conv_in", "conv", inner),
        Block(
            f"{half}.conv_norm_out", f"{half}.norm_out", "norm",
            config.channels[-1 if half == "encoder" else 0],
        ),
        Block(f"{half}.conv_out", f"{half}.conv_out", "conv", out),
    ]  # fmt: skip


def _encoder(config):
    for level, channels in enumerate(config.channels):
        name, original = f"encoder.down_blocks.{level}", f"encoder.down.{level}"
        for layer in range(config.layers_per_block):
            yield Block(f"{name}.resnets.{layer}", f"{original}.block.{layer}", "res", channels)
        if level < len(config.channels) - 1:
            yield Block(f"{name}.downsamplers.0", f"{original}.downsample", "down", channels)
    yield from _autoencoder_middle("encoder", config)


def _decoder(config):
    yield from _autoencoder_middle("decoder", config)
    outermost = len(config.channels) - 1
    for level, channels in enumerate(config.channels[::-1]):
        # The original layout counts levels from the picture inwards on the way up, too.
        name, original = f"decoder.up_blocks.{level}", f"decoder.up.{outermost - level}"
        for layer in range(config.layers_per_block + 1):
            yield Block(f"{name}.resnets.{layer}", f"{original}.block.{layer}", "res", channels)
        if level < outermost:
            yield Block(f"{name}.upsamplers.0", f"{original}.upsample", "up", channels)


def _autoencoder_middle(half, config):
    channels, name, original = config.channels[-1], f"{half}.mid_block", f"{half}.mid"
    yield Block(f"{name}.resnets.0", f"{original}.block_1", "res", channels)
    if config.mid_attention:
        yield Block(f"{name}.attentions.0", f"{original}.attn_1", "attention", channels, heads=1)
    yield Block(f"{name}.resnets.1", f"{original}.block_2", "res", channels)
