"""The blocks that UNet and autoencoder are made of, in the order of the block plan's kinds."""

import keras
from keras import ops

from kerasdiff.layers import Attention, Dense, GroupNorm, PaddedConv2D, register


@register
class ResBlock(keras.layers.Layer):
    """Two convolutions around a residual, steered by the timestep where there is one.

    Args:
        channels: of the output.
        groups, epsilon: of the two group normalisations.
    """

    def __init__(self, channels, groups, epsilon, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.groups, self.epsilon = channels, groups, epsilon

    def build(self, inputs_shape, embedding_shape=None):
        own, norm = {"dtype": self.dtype_policy}, (self.groups, self.epsilon, "silu")
        middle = (*inputs_shape[:-1], self.channels)
        self.norm1 = GroupNorm(*norm, name=f"{self.name}.norm1", **own)
        self.conv1 = PaddedConv2D(self.channels, padding=1, name=f"{self.name}.conv1", **own)
        self.norm2 = GroupNorm(*norm, name=f"{self.name}.norm2", **own)
        self.conv2 = PaddedConv2D(self.channels, padding=1, name=f"{self.name}.conv2", **own)
        for layer, shape in zip(
            (self.norm1, self.conv1, self.norm2, self.conv2),
            (inputs_shape, inputs_shape, middle, middle),
            strict=True,
        ):
            layer.build(shape)
        self.time_emb_proj = self.conv_shortcut = None
        if embedding_shape is not None:
            name = f"{self.name}.time_emb_proj"
            self.time_emb_proj = Dense(self.channels, name=name, **own)
            self.time_emb_proj.build(embedding_shape)
        if inputs_shape[-1] != self.channels:
            name = f"{self.name}.conv_shortcut"
            self.conv_shortcut = PaddedConv2D(self.channels, 1, name=name, **own)
            self.conv_shortcut.build(inputs_shape)

    def call(self, inputs, embedding=None):
        """`inputs` (B, H, W, C), `embedding` of the timestep (B, E)."""
        x = self.conv1(self.norm1(inputs))
        if embedding is not None:
            x = x + self.time_emb_proj(ops.silu(embedding))[:, None, None, :]
        x = self.conv2(self.norm2(x))
        if self.conv_shortcut is not None:
            inputs = self.conv_shortcut(inputs)
        return inputs + x

    def compute_output_spec(self, inputs, embedding=None):
        return keras.KerasTensor((*inputs.shape[:-1], self.channels), dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "groups": self.groups,
            "epsilon": self.epsilon,
        }


@register
class TransformerBlock(keras.layers.Layer):
    """Self-attention, cross-attention and a gated feed-forward (GEGLU, arXiv 2002.05202)."""

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, inputs_shape, context_shape):
        own, width = {"dtype": self.dtype_policy}, inputs_shape[-1]
        self.norms = [
            keras.layers.LayerNormalization(epsilon=1e-5, name=f"{self.name}.norm{i}", **own)
            for i in (1, 2, 3)
        ]
        for norm in self.norms:
            norm.build(inputs_shape)
        self.attn1 = Attention(self.heads, name=f"{self.name}.attn1", **own)
        self.attn1.build(inputs_shape)
        self.attn2 = Attention(self.heads, name=f"{self.name}.attn2", **own)
        self.attn2.build(inputs_shape, context_shape)
        self.gate = Dense(8 * width, name=f"{self.name}.ff.net.0.proj", **own)
        self.gate.build(inputs_shape)
        self.out = Dense(width, name=f"{self.name}.ff.net.2", **own)
        self.out.build((*inputs_shape[:-1], 4 * width))

    def call(self, inputs, context):
        """`inputs` (B, N, C), `context` (B, T, D)."""
        x = inputs + self.attn1(self.norms[0](inputs))
        x = x + self.attn2(self.norms[1](x), context)
        hidden, gate = ops.split(self.gate(self.norms[2](x)), 2, axis=-1)
        return x + self.out(hidden * ops.gelu(gate, approximate=False))

    def compute_output_spec(self, inputs, context):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "heads": self.heads}


@register
class SpatialTransformer(keras.layers.Layer):
    """Transformer blocks over the positions of a feature map (arXiv 2112.10752, section 3.3).

    Args:
        heads: of each attention.
        depth: number of transformer blocks.
        linear_projection: projections in and out as matrices instead of 1x1 convolutions.
        groups, epsilon: of the group normalisation that opens it.
    """

    def __init__(self, heads, depth, linear_projection, groups, epsilon, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.depth, self.linear_projection = heads, depth, linear_projection
        self.groups, self.epsilon = groups, epsilon

    def build(self, inputs_shape, context_shape):
        own, width = {"dtype": self.dtype_policy}, inputs_shape[-1]
        sequence = (inputs_shape[0], None, width)

        def projection(name):
            name = f"{self.name}.{name}"
            if self.linear_projection:
                return Dense(width, name=name, **own)
            return PaddedConv2D(width, 1, name=name, **own)

        self.norm = GroupNorm(self.groups, self.epsilon, name=f"{self.name}.norm", **own)
        self.proj_in, self.proj_out = projection("proj_in"), projection("proj_out")
        for layer in (self.norm, self.proj_in, self.proj_out):
            layer.build(inputs_shape)
        self.blocks = [
            TransformerBlock(self.heads, name=f"{self.name}.transformer_blocks.{i}", **own)
            for i in range(self.depth)
        ]
        for block in self.blocks:
            block.build(sequence, context_shape)

    def call(self, inputs, context):
        """`inputs` (B, H, W, C), `context` (B, T, D)."""
        batch, height, width, channels = ops.shape(inputs)
        x = self.proj_in(self.norm(inputs))
        x = ops.reshape(x, (batch, height * width, channels))  # (B, HW, C)
        for block in self.blocks:
            x = block(x, context)
        x = ops.reshape(x, (batch, height, width, channels))  # (B, H, W, C)
        return inputs + self.proj_out(x)

    def compute_output_spec(self, inputs, context):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "heads": self.heads,
            "depth": self.depth,
            "linear_projection": self.linear_projection,
            "groups": self.groups,
            "epsilon": self.epsilon,
        }


@register
class AttentionBlock(keras.layers.Layer):
    """The autoencoder's single-headed self-attention over all positions."""

    def __init__(self, groups, epsilon, **kwargs):
        super().__init__(**kwargs)
        self.groups, self.epsilon = groups, epsilon

    def build(self, input_shape):
        own = {"dtype": self.dtype_policy}
        self.norm = GroupNorm(self.groups, self.epsilon, name=f"{self.name}.group_norm", **own)
        self.norm.build(input_shape)
        self.attention = Attention(1, use_bias=True, name=self.name, **own)
        self.attention.build((input_shape[0], None, input_shape[-1]))

    def call(self, inputs):
        batch, height, width, channels = ops.shape(inputs)
        x = ops.reshape(self.norm(inputs), (batch, height * width, channels))  # (B, HW, C)
        x = self.attention(x)
        return inputs + ops.reshape(x, (batch, height, width, channels))  # (B, H, W, C)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "groups": self.groups, "epsilon": self.epsilon}


@register
class Downsample(keras.layers.Layer):
    """Halves the size by a convolution of stride 2.

    Args:
        padding: (before, after): (1, 1) in the UNet, (0, 1) in the autoencoder.
    """

    def __init__(self, padding, **kwargs):
        super().__init__(**kwargs)
        self.padding = tuple(padding)

    def build(self, input_shape):
        name, dtype = f"{self.name}.conv", self.dtype_policy
        self.conv = PaddedConv2D(
            input_shape[-1], strides=2, padding=self.padding, name=name, dtype=dtype
        )
        self.conv.build(input_shape)

    def call(self, inputs):
        return self.conv(inputs)

    def compute_output_shape(self, input_shape):
        return self.conv.compute_output_shape(input_shape)

    def get_config(self):
        return {**super().get_config(), "padding": self.padding}


@register
class Upsample(keras.layers.Layer):
    """Doubles the size by repetition, cut to the size of `like` where that is odd; convolves."""

    def build(self, inputs_shape, like_shape=None):
        name, dtype = f"{self.name}.conv", self.dtype_policy
        self.conv = PaddedConv2D(inputs_shape[-1], padding=1, name=name, dtype=dtype)
        self.conv.build(inputs_shape)

    def call(self, inputs, like=None):
        x = ops.repeat(ops.repeat(inputs, 2, axis=1), 2, axis=2)
        if like is not None:
            height, width = ops.shape(like)[1:3]
            x = x[:, :height, :width]
        return self.conv(x)

    def compute_output_spec(self, inputs, like=None):
        batch, height, width, channels = inputs.shape
        size = (height and 2 * height, width and 2 * width) if like is None else like.shape[1:3]
        return keras.KerasTensor((batch, *size, channels), dtype=self.compute_dtype)


def autoencoder_layer(block, config, dtype):
    """The layer of a row of the autoencoder's plan."""
    norm, own = (config.norm_groups, config.epsilon), {"name": block.name, "dtype": dtype}
    if block.kind == "conv":
        size = 1 if block.name.endswith("quant_conv") else 3
        return PaddedConv2D(block.channels, size, padding=size // 2, **own)
    if block.kind == "norm":
        return GroupNorm(*norm, activation="silu", **own)
    if block.kind == "res":
        return ResBlock(block.channels, *norm, **own)
    if block.kind == "attention":
        return AttentionBlock(*norm, **own)
    return Downsample((0, 1), **own) if block.kind == "down" else Upsample(**own)
