"""The UNet that predicts noise or velocity (arXiv 2112.10752; SDXL, arXiv 2307.01952)."""

import math

import keras
from keras import ops

from kerasdiff.block_plan import diffusion_model_plan
from kerasdiff.blocks import Downsample, ResBlock, SpatialTransformer, Upsample
from kerasdiff.configs import DiffusionModelConfig
from kerasdiff.layers import Dense, GroupNorm, PaddedConv2D, register
from kerasdiff.networks import Network, dtype_of


def timestep_embedding(timesteps, width, flip_sin_to_cos=True, freq_shift=0.0, max_period=10000.0):
    """Sines and cosines of a number at many frequencies (arXiv 1706.03762, section 3.5).

    Args:
        timesteps: (B,) numbers, fractions too.
        width: of the embedding, even.
        flip_sin_to_cos: cosines first.
        freq_shift: 0 or 1, how the frequencies are spread.

    Returns:
        (B, width) float32.
    """
    half = width // 2
    exponent = -math.log(max_period) * ops.arange(half, dtype="float32") / (half - freq_shift)
    angles = ops.cast(timesteps, "float32")[:, None] * ops.exp(exponent)[None]  # (B, width / 2)
    pair = [ops.sin(angles), ops.cos(angles)]
    return ops.concatenate(pair[::-1] if flip_sin_to_cos else pair, axis=-1)


@register
class DiffusionModel(Network):
    """Noisy latents, a timestep and a context to a prediction, (B, h, w, out_channels).

    Inputs, as a list in this order or as a dict by name; any h and w, any number of tokens T:

    - `latent` (B, h, w, in_channels), `timestep_embedding` (B, channels[0]) from the function of
      that name, `context` (B, T, context_dim);
    - where the config has them: `added_embedding` (B, added_embed_dim) and `guidance_embedding`
      (B, time_cond_dim);
    - with `controlnet_residuals`: `residual_0`, `residual_1`, ... for what each skip carries and
      `residual_mid` for the middle, each of that feature map's shape.

    Args:
        config: a `DiffusionModelConfig`.
        dtype: "float32", "bfloat16", "float16" or a mixed policy.
        name: of the model.

    Raises:
        ValueError: channels do not split into groups or heads, or the config's tuples disagree.
    """

    config_class = DiffusionModelConfig

    def __init__(self, config=DiffusionModelConfig(), *, dtype="float32", name="diffusion_model"):  # noqa: B008
        _check(config)
        own, io = {"dtype": dtype}, dtype_of(dtype)
        latent = keras.Input((None, None, config.in_channels), dtype=io, name="latent")
        time = keras.Input((config.channels[0],), dtype=io, name="timestep_embedding")
        context = keras.Input((None, config.context_dim), dtype=io, name="context")
        inputs = [latent, time, context]
        embedding, extra = _embed(config, time, own)
        inputs += extra

        x = PaddedConv2D(config.channels[0], padding=1, name="conv_in", **own)(latent)
        skips = [x]
        for block in diffusion_model_plan(config):
            if block.skip == "pop":
                if config.controlnet_residuals and len(inputs) == 3 + len(extra):
                    x, residuals = _add_residuals(x, skips, io)
                    inputs += residuals
                x = keras.layers.Concatenate(name=f"{block.name}.skip", **own)([x, skips.pop()])
            x = _apply(block, config, x, embedding, context, skips, own)
            if block.skip == "push":
                skips.append(x)
        norm = (config.norm_groups, config.epsilon, "silu")
        x = GroupNorm(*norm, name="conv_norm_out", **own)(x)
        x = PaddedConv2D(config.out_channels, padding=1, name="conv_out", **own)(x)
        super().__init__(inputs, x, config, dtype, name)


def _embed(config, time, own):
    """What steers the residual blocks, (B, 4 channels[0]), and the further inputs it needs."""
    width, inputs = 4 * config.channels[0], []

    def dense(name):
        return Dense(width, name=name, **own)

    def silu(name, x):
        return keras.layers.Activation("silu", name=name, **own)(x)

    if config.time_cond_dim:
        guidance = keras.Input((config.time_cond_dim,), dtype=time.dtype, name="guidance_embedding")
        project = Dense(config.channels[0], False, name="time_embedding.cond_proj", **own)
        time = keras.layers.Add(name="time_embedding.cond", **own)([time, project(guidance)])
        inputs.append(guidance)
    x = silu("time_embedding.act", dense("time_embedding.linear_1")(time))
    embedding = dense("time_embedding.linear_2")(x)
    if config.added_embed_dim:
        added = keras.Input((config.added_embed_dim,), dtype=time.dtype, name="added_embedding")
        x = silu("add_embedding.act", dense("add_embedding.linear_1")(added))
        x = dense("add_embedding.linear_2")(x)
        embedding = keras.layers.Add(name="embedding", **own)([embedding, x])
        inputs.insert(0, added)
    return embedding, inputs


def _apply(block, config, x, embedding, context, skips, own):
    if block.kind == "res":
        layer = ResBlock(block.channels, config.norm_groups, config.epsilon, name=block.name, **own)
        return layer(x, embedding)
    if block.kind == "transformer":
        layer = SpatialTransformer(
            block.heads, block.depth, config.linear_projection, config.norm_groups,
            config.transformer_epsilon, name=block.name, **own,
        )  # fmt: skip
        return layer(x, context)
    if block.kind == "down":
        return Downsample((1, 1), name=block.name, **own)(x)
    return Upsample(name=block.name, **own)(x, skips[-1])


def _add_residuals(x, skips, dtype):
    """Adds a ControlNet's residuals to the middle and, in place, to all skips."""

    def add(name, tensor):
        residual = keras.Input(tensor.shape[1:], dtype=dtype, name=name)
        return residual, keras.layers.Add(name=f"add_{name}", dtype=dtype)([tensor, residual])

    residuals = []
    for index, skip in enumerate(skips):
        residual, skips[index] = add(f"residual_{index}", skip)
        residuals.append(residual)
    residual, x = add("residual_mid", x)
    return x, [*residuals, residual]


def _check(config):
    for level, channels in enumerate(config.channels):
        if channels % config.norm_groups:
            raise ValueError(
                f"`channels` {channels} of level {level} do not split into "
                f"{config.norm_groups} groups (`norm_groups`)"
            )
        if config.depth[level] and channels % config.heads[level]:
            raise ValueError(
                f"`channels` {channels} of level {level} do not split into "
                f"{config.heads[level]} heads (`heads`)"
            )
    if config.channels[0] % 2:
        raise ValueError(f"`channels` must start with an even number, not {config.channels[0]}")
