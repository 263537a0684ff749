"""The UNet of latent diffusion (arXiv 2112.10752; SDXL: arXiv 2307.01952), and its timesteps."""

import math

import keras
import numpy as np
from keras import ops

from kerasdiff.block_plan import unet_blocks
from kerasdiff.configs import DiffusionModelConfig
from kerasdiff.layers import (
    Downsample,
    GroupNorm,
    JoinSkip,
    Network,
    PaddedConv2D,
    ResBlock,
    SpatialTransformer,
    TimeEmbedding,
    Upsample,
    to_policy,
)
from kerasdiff.layers.token_merging import check_ratio


@keras.saving.register_keras_serializable("kerasdiff")
class DiffusionModel(Network):
    """F: noisy latents, a timestep and a text to predicted noise or velocity.

    Inputs, in this order, each under its name: `latent` (B, h, w, in_channels),
    `timestep_embedding` (B, channels[0]), `context` (B, T, context_dim), and, where the config has
    them, `added_embedding` (B, added_embed_dim), `guidance_embedding` (B, time_cond_dim), and
    ControlNet's residuals `controlnet_down_0` ... and `controlnet_mid`, of the shapes of the skips
    and the middle. The output is (B, h, w, out_channels). Any h and w will do. Where there
    are the first three inputs alone, `latent` may have fewer rows than `context`, in a whole ratio,
    and `timestep_embedding` one: what comes before the text is computed once for all of it.

    Args:
        config: a `DiffusionModelConfig`.
        dtype: float32 (None), bfloat16, float16, mixed_bfloat16 or mixed_float16.
        name: of the model.

    Raises:
        ValueError: if `norm_groups` or `heads` do not divide the channels of their level, or the
            config's tuples differ in length.
    """

    CONFIG = DiffusionModelConfig

    def __init__(self, config=CONFIG(), *, dtype=None, name="diffusion_model", trainable=True):  # noqa: B008
        policy = to_policy(dtype)
        inputs = _inputs(config)
        walk = Walk(config, policy, inputs)
        output = walk.through(unet_blocks(config))
        super().__init__(config, list(inputs.values()), output, policy, name, trainable)

    def walk(self, inputs):
        """A `Walk` along the plan with this model's layers, for a part of the way."""
        return _LayerWalk(self, inputs)

    def merge_tokens(self, ratio):
        """Merges alike positions for self-attention in the outermost level that has it.

        Before anything is compiled; nothing is merged where that level's height or width is odd or
        not known while tracing.

        Args:
            ratio: share of the positions that is merged away, 0 (none) to 0.75 (arXiv 2303.17604).
        """
        check_ratio(ratio)
        transformers = [block for block in unet_blocks(self.config) if block.kind == "transformer"]
        for block in transformers:
            if block.channels == transformers[0].channels:
                self.get_layer(block.name).token_merging = ratio


def timestep_embedding(timesteps, width, flip_sin_to_cos=True, freq_shift=0.0, max_period=10000.0):
    """Sinusoidal embedding (arXiv 2006.11239, from 1706.03762), in float32.

    Args:
        timesteps: (B,) numbers, fractions allowed.
        width: of the embedding; even.
        flip_sin_to_cos: cosines first.
        freq_shift: taken from the number of frequencies.
        max_period: of the slowest frequency.

    Returns:
        (B, width) float32.

    Raises:
        ValueError: if `width` is odd or not positive.
    """
    if width < 2 or width % 2:
        raise ValueError(f"`width` must be even and positive, not {width}")
    half = width // 2
    exponents = np.float32(-math.log(max_period)) * np.arange(half, dtype="float32")
    exponents = exponents / np.float32(half - freq_shift)
    # Exponents are float32, as networks have been trained with; the exponential is exact, because
    # its last bit times a timestep of 1000 shows in the picture.
    frequencies = np.exp(exponents.astype("float64")).astype("float32")
    angles = ops.cast(timesteps, "float32")[:, None] * frequencies  # (B, width / 2)
    waves = [ops.sin(angles), ops.cos(angles)]
    return ops.concatenate(waves[::-1] if flip_sin_to_cos else waves, axis=-1)


def _inputs(config):
    """The graph's inputs by name, in order."""
    shapes = {
        "latent": (None, None, config.in_channels),
        "timestep_embedding": (config.channels[0],),
        "context": (None, config.context_dim),
        "added_embedding": config.added_embed_dim and (config.added_embed_dim,),
        "guidance_embedding": config.time_cond_dim and (config.time_cond_dim,),
    }
    if config.controlnet_residuals:
        skips = [block for block in unet_blocks(config) if block.skip == "push"]
        for i, block in enumerate(skips):
            shapes[f"controlnet_down_{i}"] = (None, None, block.channels)
        shapes["controlnet_mid"] = (None, None, config.channels[-1])
    return {
        name: keras.Input(shape, name=name, dtype="float32")
        for name, shape in shapes.items()
        if shape is not None
    }


class Walk:
    """Goes along the plan: down with skips kept, the middle, up with skips joined.

    From Keras' inputs this builds the graph; from tensors it computes.

    Args:
        config: a `DiffusionModelConfig`.
        policy: dtype policy of the layers.
        inputs: by name, as `DiffusionModel` has them.
    """

    def __init__(self, config, policy, inputs):
        self.config, self.policy, self.inputs = config, policy, inputs
        self.skips = []

    def through(self, blocks):
        """The output, from the inputs through all blocks."""
        embedders = [block for block in blocks if block.kind == "time"]
        self.embedding = self.embed(embedders)
        down = [block for block in blocks if block.name.startswith(("conv_in", "down_blocks"))]
        middle = [block for block in blocks if block.name.startswith("mid_block")]
        x = self.along(self.inputs["latent"], down)
        if self.config.controlnet_residuals:
            self.skips = [
                self._add(f"controlnet_down_{i}", skip) for i, skip in enumerate(self.skips)
            ]
        x = self.along(x, middle)
        if self.config.controlnet_residuals:
            x = self._add("controlnet_mid", x)
        return self.along(x, blocks[len(embedders) + len(down) + len(middle) :])

    def along(self, x, blocks):
        """What some blocks make of x (B, h, w, C), with `embedding` and `skips` at hand."""
        for block in blocks:
            if block.skip == "pop":
                x = self.make(JoinSkip, f"{block.name}.concat")([x, self.skips.pop()])
            x = getattr(self, f"_{block.kind}")(block, x)
            if block.skip == "push":
                self.skips.append(x)
        return x

    def make(self, kind, name, *args):
        """A layer, to be called once."""
        return kind(*args, name=name, dtype=self.policy)

    def _add(self, residual, x):
        added = self.make(keras.layers.Add, f"{residual}.add")
        return added([x, self.inputs[residual]])

    def embed(self, blocks):
        """The timestep's embedding (B, 4 channels[0]) with what is added to it, activated."""
        first, *added = [self.make(TimeEmbedding, block.name, block.channels) for block in blocks]
        x = first(self.inputs["timestep_embedding"], self.inputs.get("guidance_embedding"))
        if added:
            parts = [x, added[0](self.inputs["added_embedding"])]
            x = self.make(keras.layers.Add, "embedding")(parts)
        return self.make(keras.layers.Activation, "time_act", "silu")(x)

    def _conv(self, block, x):
        return self.make(PaddedConv2D, block.name, block.channels, 3, 1)(x)

    def _norm(self, block, x):
        x = self.make(GroupNorm, block.name, self.config.norm_groups, self.config.epsilon)(x)
        return self.make(keras.layers.Activation, "conv_act", "silu")(x)

    def _res(self, block, x):
        norm = (self.config.norm_groups, self.config.epsilon)
        return self.make(ResBlock, block.name, block.channels, *norm)(x, self.embedding)

    def _transformer(self, block, x):
        transformer = self.make(
            SpatialTransformer, block.name, block.heads, block.depth, self.config.norm_groups,
            self.config.transformer_epsilon, self.config.linear_projection,
        )  # fmt: skip
        return transformer(x, self.inputs["context"])

    def _down(self, block, x):
        return self.make(Downsample, block.name, block.channels)(x)

    def _up(self, block, x):
        return self.make(Upsample, block.name, block.channels)(x, self.skips[-1])


class _LayerWalk(Walk):
    """Goes along the plan with the layers of a model."""

    def __init__(self, model, inputs):
        super().__init__(model.config, model.dtype_policy, inputs)
        self.model = model

    def make(self, kind, name, *args):
        return self.model.get_layer(name)
