"""Residual blocks, the timestep's embedding, and the ways to another resolution."""

import keras
from keras import ops

from kerasdiff.backend import Described, call_shared, device, is_native, widen
from kerasdiff.layers.basic import Dense, PaddedConv2D
from kerasdiff.layers.norms import GroupNorm
from kerasdiff.layers.products import is_small


class Composite(Described, keras.layers.Layer):
    """A layer made of layers."""

    def part(self, kind, leaf, *args, **kwargs):
        """A layer of the class `kind` named `leaf` within this one, of this one's dtype."""
        return kind(*args, name=f"{self.name}.{leaf}", dtype=self.dtype_policy, **kwargs)

    def __call__(self, *args, **kwargs):
        suits_xla = self.suits_xla(*args, **kwargs)
        return call_shared(self, super().__call__, *args, suits_xla=suits_xla, **kwargs)

    def suits_xla(self, *args, **kwargs):
        """Whether XLA is no slower than TensorFlow's kernels in bfloat16: unless they convolve."""
        return True

    def compute_output_shape(self, x_shape):
        return x_shape


def repeat_rows(x, like):
    """`x` (B, ...), repeated as a whole up to the rows of `like`.

    Rows that are unknown while tracing, or no multiple, leave it as it is. With guidance a UNet is
    asked twice about one picture: once is enough until the text comes in.
    """
    rows, wanted = x.shape[0], like.shape[0]
    known = rows is not None and wanted is not None
    fits = known and 0 < rows < wanted and wanted % rows == 0
    return ops.concatenate([x] * (wanted // rows)) if fits else x


@keras.saving.register_keras_serializable("kerasdiff")
class JoinSkip(keras.layers.Concatenate):
    """[(B, H, W, C), (B, H, W, D)] to (B, H, W, C + D); the second may be of fewer rows."""

    def call(self, inputs):
        x, skip = inputs
        return super().call([x, repeat_rows(skip, x)])


@keras.saving.register_keras_serializable("kerasdiff")
class TimeEmbedding(Composite):
    """A small perceptron: (B, I) to (B, units).

    A `condition` (B, K), the guidance embedding of arXiv 2210.03142, is projected and added to
    its input.

    Args:
        units: width of the output.
    """

    FIELDS = ("units",)

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.linear_1 = self.part(Dense, "linear_1", units)
        self.linear_2 = self.part(Dense, "linear_2", units)

    def build(self, x_shape, condition_shape=None):
        if condition_shape is not None:
            self.cond_proj = self.part(Dense, "cond_proj", x_shape[-1], use_bias=False)
            self.cond_proj.build(condition_shape)
        self.linear_1.build(x_shape)
        self.linear_2.build((x_shape[0], self.units))

    def call(self, x, condition=None):
        if condition is not None:
            x = x + self.cond_proj(condition)
        return self.linear_2(ops.silu(self.linear_1(x)))

    def compute_output_shape(self, x_shape):
        return (x_shape[0], self.units)


@keras.saving.register_keras_serializable("kerasdiff")
class ResBlock(Composite):
    """A residual block of two convolutions: (B, H, W, I) to (B, H, W, channels).

    An `embedding` (B, E) of the timestep, already activated, is projected and added in between.

    Args:
        channels: of the output; other than the input's, the input is projected.
        groups, epsilon: of the GroupNorms.
    """

    FIELDS = ("channels", "groups", "epsilon")

    def __init__(self, channels, groups, epsilon, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.groups, self.epsilon = channels, groups, epsilon
        self.norm1 = self.part(GroupNorm, "norm1", groups, epsilon)
        self.conv1 = self.part(PaddedConv2D, "conv1", channels, 3, padding=1)
        self.norm2 = self.part(GroupNorm, "norm2", groups, epsilon)
        self.conv2 = self.part(PaddedConv2D, "conv2", channels, 3, padding=1)
        self.time_emb_proj = self.conv_shortcut = None

    def build(self, x_shape, embedding_shape=None):
        inner = self.compute_output_shape(x_shape)
        self.norm1.build(x_shape)
        self.conv1.build(x_shape)
        self.norm2.build(inner)
        self.conv2.build(inner)
        if embedding_shape is not None:
            self.time_emb_proj = self.part(Dense, "time_emb_proj", self.channels)
            self.time_emb_proj.build(embedding_shape)
        if x_shape[-1] != self.channels:
            self.conv_shortcut = self.part(PaddedConv2D, "conv_shortcut", self.channels, 1)
            self.conv_shortcut.build(x_shape)

    def suits_xla(self, x, *args, **kwargs):
        return is_small(x)

    def call(self, x, embedding=None):
        inner = self.conv1(ops.silu(self.norm1(x)))
        if embedding is not None:
            inner = inner + self.time_emb_proj(embedding)[:, None, None]  # (B, 1, 1, C)
        inner = self.conv2(ops.silu(self.norm2(inner)))
        return inner + (x if self.conv_shortcut is None else self.conv_shortcut(x))

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], self.channels)


@keras.saving.register_keras_serializable("kerasdiff")
class Downsample(Composite):
    """A convolution that halves height and width.

    Args:
        channels: of the output.
        padding: see `PaddedConv2D`: 1 in the UNet; (0, 1) in the autoencoder.
    """

    FIELDS = ("channels", "padding")

    def __init__(self, channels, padding=1, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.padding = channels, padding
        self.conv = self.part(PaddedConv2D, "conv", channels, 3, padding=padding, strides=2)

    def build(self, x_shape):
        self.conv.build(x_shape)

    def suits_xla(self, x, *args, **kwargs):
        return False

    def call(self, x):
        return self.conv(x)

    def compute_output_shape(self, x_shape):
        return self.conv.compute_output_shape(x_shape)


@keras.saving.register_keras_serializable("kerasdiff")
class Upsample(Composite):
    """Repeats each pixel twice in both directions, and convolves.

    Of the nine pixels under the kernel several are the same one then, so that their weights are
    added instead, and four small convolutions of the input give the four pixels of each: 16
    products where there were 36. A picture that is to be cropped before the convolution, to the
    height and width of `like`, the skip that comes next, is doubled indeed: halving an odd size
    has rounded up. So is every one on accelerators, and a small one of `native` products: adding
    weights takes longer there than the products that it saves.

    Args:
        channels: of the output.
    """

    FIELDS = ("channels",)

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.conv = self.part(PaddedConv2D, "conv", channels, 3, padding=1)

    def build(self, x_shape):
        self.conv.build(x_shape)

    def suits_xla(self, x, *args, **kwargs):
        return is_small(x, 4)

    def call(self, x, like=None):
        _, height, width, _ = ops.shape(x)
        fits = like is None or tuple(like.shape[1:3]) == (2 * height, 2 * width)
        if fits and device() == "cpu" and not (is_native(x) and is_small(x, 4)):
            return self._double(x)
        x = ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)
        if not fits:
            _, height, width, _ = ops.shape(like)
            x = x[:, :height, :width]
        return self.conv(x)

    def _double(self, x):
        """(B, H, W, C) -> (B, 2H, 2W, channels)"""
        (batch, height, width, _), dtype = ops.shape(x), x.dtype
        x = ops.pad(widen(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
        sums = keras.backend.result_type(x.dtype, "float32")
        kernel, rows = ops.cast(self.conv.kernel_values(x), sums), []
        for above, tall in zip((x[:, :-1], x[:, 1:]), _halves(kernel, 0), strict=True):
            left, right = (
                ops.conv(beside, ops.cast(small, x.dtype), data_format="channels_last")
                for beside, small in zip(
                    (above[:, :, :-1], above[:, :, 1:]), _halves(tall, 1), strict=True
                )
            )
            # (B, H, W, 2 channels) -> (B, H, 2W channels)
            pairs = ops.concatenate([left, right], axis=-1)
            rows.append(ops.reshape(pairs, (batch, height, 2 * width * self.channels)))
        # (B, H, 4W channels) -> (B, 2H, 2W, channels)
        x = ops.reshape(
            ops.concatenate(rows, axis=-1), (batch, 2 * height, 2 * width, self.channels)
        )
        return self.conv.scaled(x, dtype) + self.conv.bias

    def compute_output_shape(self, x_shape, like_shape=None):
        height, width = (
            (None if size is None else 2 * size for size in x_shape[1:3])
            if like_shape is None
            else like_shape[1:3]
        )
        return (x_shape[0], height, width, self.channels)


def _halves(kernel, axis):
    """What three weights are to a doubled pixel's first and second half: two weights each."""
    before, centre, after = ops.split(kernel, 3, axis)
    first, second = [before, centre + after], [before + centre, after]
    return ops.concatenate(first, axis), ops.concatenate(second, axis)
