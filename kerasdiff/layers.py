"""The layers that the networks are made of.

All matrices go through `Dense` and all convolutions through `PaddedConv2D`: one door for whatever
later changes how weights are held or applied. Every layer that owns variables carries its whole
canonical name (`"down_blocks.0.resnets.0.conv1"`), whatever it is nested in, so that a variable
knows the tensor it is loaded from.
"""

from contextlib import contextmanager
from contextvars import ContextVar

import keras
from keras import ops

from kerasdiff.attention import attention

register = keras.saving.register_keras_serializable(package="kerasdiff")

_uninitialized = ContextVar("uninitialized", default=False)
_LEAVES = {"kernel": "weight", "gamma": "weight", "embeddings": "weight", "beta": "bias"}
_TORCH_AXES = {2: (1, 0), 4: (3, 2, 0, 1)}


@contextmanager
def uninitialized():
    """Layers built inside start from zeros: no random number is drawn that loading overwrites."""
    token = _uninitialized.set(True)
    try:
        yield
    finally:
        _uninitialized.reset(token)


def initializer(name):
    """The Keras initializer `name`, or zeros inside `uninitialized()`."""
    return "zeros" if _uninitialized.get() else name


def tensor_name(variable):
    """The canonical (diffusers) name of the tensor that a variable of these layers holds."""
    layer, leaf = variable.path.split("/")[-2:]
    return f"{layer}.{_LEAVES.get(leaf, leaf)}"


def to_torch_axes(variable):
    """Axes by which a variable's array is transposed into PyTorch's order, as for `np.transpose`.

    A convolution's kernel HWIO -> OIHW, a matrix IO -> OI, everything else as it is.
    """
    rank = len(variable.shape)
    if variable.path.endswith("/kernel"):
        return _TORCH_AXES[rank]
    return tuple(range(rank))


@register
class Dense(keras.layers.Layer):
    """A matrix product over the last axis.

    Args:
        units: size of the output's last axis.
        use_bias: whether a bias is added.
    """

    def __init__(self, units, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.units, self.use_bias = units, use_bias

    def build(self, input_shape):
        shape = (input_shape[-1], self.units)
        self.kernel = self.add_weight(
            shape, initializer=initializer("glorot_uniform"), name="kernel"
        )
        if self.use_bias:
            self.bias = self.add_weight((self.units,), initializer="zeros", name="bias")

    def call(self, inputs):
        outputs = ops.matmul(inputs, self.kernel)
        return outputs + self.bias if self.use_bias else outputs

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "use_bias": self.use_bias}


@register
class PaddedConv2D(keras.layers.Layer):
    """A convolution whose zero padding is said, never guessed from the size.

    Args:
        filters: output channels.
        kernel_size: side of the square kernel.
        strides: step in both directions.
        padding: (before, after) in both directions, or one number for both.
    """

    def __init__(self, filters, kernel_size=3, strides=1, padding=0, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.strides = filters, kernel_size, strides
        self.padding = (padding, padding) if isinstance(padding, int) else tuple(padding)

    def build(self, input_shape):
        shape = (self.kernel_size, self.kernel_size, input_shape[-1], self.filters)
        self.kernel = self.add_weight(
            shape, initializer=initializer("glorot_uniform"), name="kernel"
        )
        self.bias = self.add_weight((self.filters,), initializer="zeros", name="bias")

    def call(self, inputs):
        before, after = self.padding
        # With stride 1 "same" is these very zeros, without a padded copy.
        same = self.strides == 1 and before == after == self.kernel_size // 2
        if not same and (before or after):
            inputs = ops.pad(inputs, ((0, 0), (before, after), (before, after), (0, 0)))
        padding = "same" if same else "valid"
        return ops.conv(inputs, self.kernel, self.strides, padding, "channels_last") + self.bias

    def compute_output_shape(self, input_shape):
        def side(size):
            return size and (size + sum(self.padding) - self.kernel_size) // self.strides + 1

        return (input_shape[0], side(input_shape[1]), side(input_shape[2]), self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
        }


@register
class GroupNorm(keras.layers.Layer):
    """Group normalisation over (B, H, W, C), statistics in float32 (arXiv 1803.08494).

    Args:
        groups: number of groups that the channels are split into.
        epsilon: added to the variance; it differs between networks, see the configs.
        activation: "silu", applied to the result, or None.
    """

    def __init__(self, groups, epsilon, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.groups, self.epsilon, self.activation = groups, epsilon, activation

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.groups:
            raise ValueError(f"{self.name}: {channels} channels do not split into {self.groups}")
        self.gamma = self.add_weight((channels,), initializer="ones", name="gamma")
        self.beta = self.add_weight((channels,), initializer="zeros", name="beta")

    def call(self, inputs):
        batch, height, width, channels = ops.shape(inputs)
        per_group = channels // self.groups
        x = ops.cast(inputs, "float32")
        x = ops.reshape(x, (batch, height * width, self.groups, per_group))  # (B, HW, G, C/G)
        mean = ops.mean(x, axis=(1, 3), keepdims=True)  # (B, 1, G, 1)
        variance = ops.mean(ops.square(x - mean), axis=(1, 3), keepdims=True)
        gamma = ops.reshape(ops.cast(self.gamma, "float32"), (1, 1, self.groups, per_group))
        beta = ops.reshape(ops.cast(self.beta, "float32"), (1, 1, self.groups, per_group))
        scale = gamma * ops.rsqrt(variance + self.epsilon)  # (B, 1, G, C/G)
        x = (x - mean) * scale + beta
        x = ops.silu(x) if self.activation == "silu" else x
        return ops.cast(ops.reshape(x, (batch, height, width, channels)), inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "groups": self.groups,
            "epsilon": self.epsilon,
            "activation": self.activation,
        }


@register
class Attention(keras.layers.Layer):
    """Multi-head attention with its four projections.

    Args:
        heads: number of heads.
        use_bias: whether query, key and value projections have biases.
        names: of the four projections, behind this layer's own name.
    """

    NAMES = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, heads, use_bias=False, names=NAMES, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.use_bias, self.names = heads, use_bias, tuple(names)

    def build(self, inputs_shape, context_shape=None):
        width, context_shape = inputs_shape[-1], context_shape or inputs_shape
        if width % self.heads:
            raise ValueError(f"{self.name}: {width} channels do not split into {self.heads} heads")
        self.to_q, self.to_k, self.to_v, self.to_out = (
            Dense(width, bias, name=f"{self.name}.{name}", dtype=self.dtype_policy)
            for name, bias in zip(self.names, (*(self.use_bias,) * 3, True), strict=True)
        )
        for layer, shape in (
            (self.to_q, inputs_shape),
            (self.to_k, context_shape),
            (self.to_v, context_shape),
            (self.to_out, inputs_shape),
        ):
            layer.build(shape)

    def keys_values(self, context):
        """The two projections of a context, for calls that share it: each (B, T, heads, D)."""
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def call(self, inputs, context=None, attention_mask=None, keys_values=None):
        """Attends from `inputs` (B, N, C) to `context` (B, T, D), itself if None."""
        if keys_values is None:
            keys_values = self.keys_values(inputs if context is None else context)
        outputs = attention(self._split(self.to_q(inputs)), *keys_values, attention_mask)
        return self.to_out(ops.reshape(outputs, ops.shape(inputs)))  # (B, N, heads * D)

    def _split(self, x):
        batch, length, width = ops.shape(x)
        return ops.reshape(x, (batch, length, self.heads, width // self.heads))

    def compute_output_spec(self, inputs, context=None, attention_mask=None, keys_values=None):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "heads": self.heads,
            "use_bias": self.use_bias,
            "names": self.names,
        }
