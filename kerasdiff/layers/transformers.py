"""Attention over a picture's positions and a text's (arXiv 2112.10752, section 3.3)."""

import keras
from keras import ops

from kerasdiff.attention import attention
from kerasdiff.layers.basic import Dense, PaddedConv2D, gelu
from kerasdiff.layers.blocks import Composite, repeat_rows
from kerasdiff.layers.norms import GroupNorm, layer_norm
from kerasdiff.layers.token_merging import TokenMerging


@keras.saving.register_keras_serializable("kerasdiff")
class Attention(Composite):
    """Multi-head attention of (B, Tq, C) to a context (B, Tk, E), or to itself.

    Args:
        heads: must divide C.
        use_bias: whether queries, keys and values have biases; the output always does.
        causal: whether each position attends only to itself and those before it.

    Attributes:
        LEAVES: names of the four matrices: of queries, keys, values and the output.
    """

    FIELDS = ("heads", "use_bias", "causal")
    LEAVES = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, heads, use_bias=False, causal=False, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.use_bias, self.causal = heads, use_bias, causal

    def build(self, x_shape, context_shape=None):
        channels = x_shape[-1]
        if self.heads < 1 or channels % self.heads:
            raise ValueError(
                f"{self.name}: `heads` must divide the {channels} channels, not be {self.heads}"
            )
        *leaves, last = self.LEAVES
        self.to_q, self.to_k, self.to_v = (
            self.part(Dense, leaf, channels, use_bias=self.use_bias) for leaf in leaves
        )
        self.to_out = self.part(Dense, last, channels)
        self.to_q.build(x_shape)
        self.to_k.build(context_shape or x_shape)
        self.to_v.build(context_shape or x_shape)
        self.to_out.build(x_shape)

    def call(self, x, context=None):
        """Attends to `context` if given, else to `x`."""
        context, mask = x if context is None else context, None
        keys, values = self.to_k(context), self.to_v(context)
        if self.causal:
            rows, columns = ops.arange(ops.shape(x)[1]), ops.arange(ops.shape(keys)[1])
            mask = rows[:, None] >= columns  # (Tq, Tk)
        x = attention(*(self._split(part) for part in (self.to_q(x), keys, values)), mask)
        batch, length, heads, size = ops.shape(x)
        return self.to_out(ops.reshape(x, (batch, length, heads * size)))  # (B, Tq, C)

    def _split(self, x):
        """(B, T, C) -> (B, T, heads, C / heads)"""
        batch, length, channels = ops.shape(x)
        return ops.reshape(x, (batch, length, self.heads, channels // self.heads))


@keras.saving.register_keras_serializable("kerasdiff")
class FeedForward(Composite):
    """GEGLU (arXiv 2002.05202) with the exact GELU, on (B, T, C).

    Args:
        expansion: of the inner width.
    """

    FIELDS = ("expansion",)

    def __init__(self, expansion=4, **kwargs):
        super().__init__(**kwargs)
        self.expansion = expansion

    def build(self, x_shape):
        channels = x_shape[-1]
        self.inward = self.part(Dense, "net.0.proj", 2 * self.expansion * channels)
        self.outward = self.part(Dense, "net.2", channels)
        self.inward.build(x_shape)
        self.outward.build((*x_shape[:-1], self.expansion * channels))

    def call(self, x):
        value, gate = ops.split(self.inward(x), 2, axis=-1)
        return self.outward(value * gelu(gate))


@keras.saving.register_keras_serializable("kerasdiff")
class TransformerBlock(Composite):
    """Self-attention, attention to the context and a perceptron, each added to (B, T, C).

    Where the context has a multiple of B rows, so has the result; see `repeat_rows`.

    Args:
        heads: of both attentions.
    """

    FIELDS = ("heads",)

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads
        self.norm1, self.norm2, self.norm3 = (self.part(layer_norm, f"norm{i}") for i in (1, 2, 3))
        self.attn1 = self.part(Attention, "attn1", heads)
        self.attn2 = self.part(Attention, "attn2", heads)
        self.ff = self.part(FeedForward, "ff")

    def build(self, x_shape, context_shape):
        for layer in (self.norm1, self.norm2, self.norm3, self.attn1, self.ff):
            layer.build(x_shape)
        self.attn2.build(x_shape, context_shape)

    def call(self, x, context, merging=None):
        """`merging`, if given, is (height, width, ratio) of `TokenMerging`."""
        tokens = self.norm1(x)
        if merging is None:
            x = x + self.attn1(tokens)
        else:
            merging = TokenMerging(x, *merging)
            x = x + merging.part(self.attn1(merging.merge(tokens)))
        x = repeat_rows(x, context)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


@keras.saving.register_keras_serializable("kerasdiff")
class SpatialTransformer(Composite):
    """Transformer blocks over the positions of (B, H, W, C), attending to context (B, T, E).

    Args:
        heads: must divide C.
        depth: number of transformer blocks.
        groups, epsilon: of the GroupNorm that opens it.
        linear_projection: project by a matrix instead of a 1x1 convolution, which differ in the
            shape of the kernel alone.
        token_merging: share of the positions that are merged for self-attention; see
            `TokenMerging`. It needs an even height and width, known while tracing.
    """

    FIELDS = ("heads", "depth", "groups", "epsilon", "linear_projection", "token_merging")

    def __init__(
        self, heads, depth, groups, epsilon, linear_projection=False, token_merging=0.0, **kwargs
    ):
        super().__init__(**kwargs)
        self.heads, self.depth, self.linear_projection = heads, depth, linear_projection
        self.groups, self.epsilon, self.token_merging = groups, epsilon, token_merging
        self.norm = self.part(GroupNorm, "norm", groups, epsilon)
        self.blocks = [
            self.part(TransformerBlock, f"transformer_blocks.{i}", heads) for i in range(depth)
        ]

    def build(self, x_shape, context_shape):
        batch, _, _, channels = x_shape
        kind, size = (Dense, ()) if self.linear_projection else (PaddedConv2D, (1,))
        self.proj_in = self.part(kind, "proj_in", channels, *size)
        self.proj_out = self.part(kind, "proj_out", channels, *size)
        for layer in (self.norm, self.proj_in, self.proj_out):
            layer.build(x_shape)
        for block in self.blocks:
            block.build((batch, None, channels), context_shape)

    def call(self, x, context):
        batch, height, width, channels = ops.shape(x)
        inner = self.proj_in(self.norm(x))
        inner = ops.reshape(inner, (batch, height * width, channels))  # (B, HW, C)
        even = all(isinstance(size, int) and size % 2 == 0 for size in (height, width))
        merging = (height, width, self.token_merging) if self.token_merging and even else None
        for block in self.blocks:
            inner = block(inner, context, merging=merging)
        rows = ops.shape(inner)[0]
        inner = ops.reshape(inner, (rows, height, width, channels))  # (B, H, W, C)
        return repeat_rows(x, inner) + self.proj_out(inner)
