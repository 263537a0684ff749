"""What the autoencoder's two halves share: attention in the middle, and the walk over a plan."""

import keras
from keras import ops

from kerasdiff.backend import Described
from kerasdiff.layers.basic import PaddedConv2D
from kerasdiff.layers.blocks import Composite, Downsample, ResBlock, Upsample
from kerasdiff.layers.norms import GroupNorm
from kerasdiff.layers.transformers import Attention


@keras.saving.register_keras_serializable("kerasdiff")
class AttentionBlock(Composite):
    """Single-head attention among the positions of (B, H, W, C), added to its input.

    Args:
        groups, epsilon: of the GroupNorm that opens it.
    """

    FIELDS = ("groups", "epsilon")

    def __init__(self, groups, epsilon, **kwargs):
        super().__init__(**kwargs)
        self.groups, self.epsilon = groups, epsilon
        self.group_norm = self.part(GroupNorm, "group_norm", groups, epsilon)
        # Its matrices are named as this block's own.
        self.attention = Attention(1, use_bias=True, name=self.name, dtype=self.dtype_policy)

    def build(self, x_shape):
        self.group_norm.build(x_shape)
        self.attention.build((x_shape[0], None, x_shape[-1]))

    def call(self, x):
        batch, height, width, channels = ops.shape(x)
        rows = ops.reshape(self.group_norm(x), (batch, height * width, channels))  # (B, HW, C)
        return x + ops.reshape(self.attention(rows), (batch, height, width, channels))


@keras.saving.register_keras_serializable("kerasdiff")
class MeanLatents(Described, keras.layers.Layer):
    """Moments (B, h, w, 2 C) to scaled mean latents (B, h, w, C) in float32.

    Args:
        scale, shift: latents are `(mean - shift) * scale`.
    """

    FIELDS = ("scale", "shift")

    def __init__(self, scale, shift, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.scale, self.shift = scale, shift

    def call(self, moments):
        mean, _ = ops.split(moments, 2, axis=-1)
        return (mean - self.shift) * self.scale

    def compute_output_shape(self, moments_shape):
        return (*moments_shape[:-1], moments_shape[-1] // 2)


def apply_blocks(x, blocks, config, dtype):
    """Passes a symbolic (B, H, W, C) through new layers for the blocks of a plan."""
    norm = (config.norm_groups, config.epsilon)
    makers = {
        "conv": lambda block: (PaddedConv2D, block.channels, 1 if "quant" in block.name else 3),
        "res": lambda block: (ResBlock, block.channels, *norm),
        "attention": lambda block: (AttentionBlock, *norm),
        "down": lambda block: (Downsample, block.channels, (0, 1)),
        "up": lambda block: (Upsample, block.channels),
        "norm": lambda block: (GroupNorm, *norm),
    }
    for block in blocks:
        kind, *args = makers[block.kind](block)
        if kind is PaddedConv2D:
            args.append(args[-1] // 2)  # padding by half a kernel
        x = kind(*args, name=block.name, dtype=dtype)(x)
        if block.kind == "norm":
            name = block.name.replace("conv_norm_out", "conv_act")
            x = keras.layers.Activation("silu", name=name, dtype=dtype)(x)
    return x
