"""The CLIP text transformer (arXiv 2103.00020), of OpenAI's and OpenCLIP's sizes."""

import keras
from keras import ops

from kerasdiff.backend import Described
from kerasdiff.configs import TextEncoderConfig
from kerasdiff.layers import (
    Attention,
    Composite,
    Dense,
    Network,
    gelu,
    initializer,
    layer_norm,
    to_policy,
)

ACTIVATIONS = {
    "quick_gelu": lambda x: x * ops.sigmoid(1.702 * x),  # OpenAI CLIP's approximation
    "gelu": gelu,
}
ROOT = "text_model"
EMBEDDINGS = "clip_embedding"  # what keras-cv's users look for


@keras.saving.register_keras_serializable("kerasdiff")
class TextEncoder(Network):
    """Token ids to hidden states.

    Inputs `tokens` (B, T) integer, of any numeric dtype, and `positions` (1 or B, T). The output
    is the context (B, T, width), unless the config names a projection or a layer other than the
    last: then it is a dict of `context` and `pooled`, the final LayerNorm's output at the end
    token, (B, width), or projected, (B, projection_dim). Hidden states before the last layer are
    handed out as they are, without the final LayerNorm.

    Args:
        config: a `TextEncoderConfig`.
        dtype: float32 (None), bfloat16, float16, mixed_bfloat16 or mixed_float16.
        name: of the model.

    Raises:
        ValueError: if `activation` is unknown, `heads` does not divide `width`, or `output_layer`
            is no layer.
    """

    CONFIG = TextEncoderConfig

    def __init__(self, config=CONFIG(), *, dtype=None, name="text_encoder", trainable=True):  # noqa: B008
        _check(config)
        policy = to_policy(dtype)
        tokens = keras.Input((None,), name="tokens", dtype="int32")
        positions = keras.Input((None,), name="positions", dtype="int32")
        embeddings = TextEmbeddings(
            config.vocab_size, config.max_length, config.width, name=EMBEDDINGS, dtype=policy
        )  # fmt: skip
        states = [embeddings(tokens, positions)]
        for i in range(config.depth):
            block = TextBlock(
                config.heads, config.mlp_width, config.activation, config.epsilon,
                name=f"{ROOT}.encoder.layers.{i}", dtype=policy,
            )  # fmt: skip
            states.append(block(states[-1]))
        last = layer_norm(f"{ROOT}.final_layer_norm", policy, config.epsilon)(states[-1])
        outputs = context = last if config.output_layer == -1 else states[config.output_layer]
        if config.projection_dim is not None or config.output_layer != -1:
            pooled = EndTokenState(config.end_token_id, name="pooled", dtype=policy)(last, tokens)
            if config.projection_dim is not None:
                pooled = Dense(
                    config.projection_dim, use_bias=False, name="text_projection", dtype=policy
                )(pooled)
            outputs = {"context": context, "pooled": pooled}
        super().__init__(config, [tokens, positions], outputs, policy, name, trainable)


def _check(config):
    if config.activation not in ACTIVATIONS:
        raise ValueError(
            f"`activation` must be one of {', '.join(ACTIVATIONS)}, not {config.activation!r}"
        )
    if not -config.depth <= config.output_layer <= -1:
        raise ValueError(
            f"`output_layer` must be from -{config.depth} to -1, not {config.output_layer}"
        )


class Embedding(Described, keras.layers.Embedding):
    """Integers below `input_dim` to rows of `output_dim` numbers."""

    FIELDS = ("input_dim", "output_dim")


@keras.saving.register_keras_serializable("kerasdiff")
class TextEmbeddings(Composite):
    """(B, T) ids and (1 or B, T) positions to (B, T, width).

    Args:
        vocab_size, max_length: rows of the two tables.
        width: of both.
    """

    FIELDS = ("vocab_size", "max_length", "width")

    def __init__(self, vocab_size, max_length, width, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.max_length, self.width = vocab_size, max_length, width
        self.token_embedding = self._table("token_embedding", vocab_size)
        self.position_embedding = self._table("position_embedding", max_length)

    def _table(self, leaf, rows):
        start = initializer("random_normal")
        return Embedding(
            rows, self.width, embeddings_initializer=start, name=f"{ROOT}.embeddings.{leaf}",
            dtype=self.dtype_policy,
        )  # fmt: skip

    def build(self, tokens_shape, positions_shape):
        self.token_embedding.build(tokens_shape)
        self.position_embedding.build(positions_shape)

    def call(self, tokens, positions):
        return self.token_embedding(tokens) + self.position_embedding(positions)

    def compute_output_shape(self, tokens_shape, positions_shape):
        return (*tokens_shape, self.width)


@keras.saving.register_keras_serializable("kerasdiff")
class TextAttention(Attention):
    """Causal self-attention with biases, under the names that CLIP's files use."""

    LEAVES = ("q_proj", "k_proj", "v_proj", "out_proj")

    def __init__(self, heads, use_bias=True, causal=True, **kwargs):
        super().__init__(heads, use_bias, causal, **kwargs)


@keras.saving.register_keras_serializable("kerasdiff")
class TextBlock(Composite):
    """One transformer layer: causal self-attention and a perceptron, each added to (B, T, C).

    Args:
        heads: of the attention; must divide C.
        mlp_width: of the perceptron.
        activation: `"quick_gelu"` or `"gelu"`.
        epsilon: of the LayerNorms.
    """

    FIELDS = ("heads", "mlp_width", "activation", "epsilon")

    def __init__(self, heads, mlp_width, activation, epsilon, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.mlp_width = heads, mlp_width
        self.activation, self.epsilon = activation, epsilon
        self.layer_norm1 = self.part(layer_norm, "layer_norm1", epsilon=epsilon)
        self.self_attn = self.part(TextAttention, "self_attn", heads)
        self.layer_norm2 = self.part(layer_norm, "layer_norm2", epsilon=epsilon)
        self.fc1 = self.part(Dense, "mlp.fc1", mlp_width)

    def build(self, x_shape):
        self.fc2 = self.part(Dense, "mlp.fc2", x_shape[-1])
        for layer in (self.layer_norm1, self.self_attn, self.layer_norm2, self.fc1):
            layer.build(x_shape)
        self.fc2.build((*x_shape[:-1], self.mlp_width))

    def call(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.fc2(ACTIVATIONS[self.activation](self.fc1(self.layer_norm2(x))))


@keras.saving.register_keras_serializable("kerasdiff")
class EndTokenState(Composite):
    """Hidden states (B, T, C) and tokens (B, T) to the state at each row's end token, (B, C).

    Args:
        end_token_id: whose first place counts; None takes the first place of the largest id.
    """

    FIELDS = ("end_token_id",)

    def __init__(self, end_token_id=None, **kwargs):
        super().__init__(**kwargs)
        self.end_token_id = end_token_id

    def call(self, x, tokens):
        if self.end_token_id is not None:
            tokens = ops.cast(tokens == self.end_token_id, "int32")
        place = ops.argmax(tokens, axis=-1)[:, None, None]  # (B, 1, 1)
        return ops.take_along_axis(x, place, axis=1)[:, 0]

    def compute_output_shape(self, x_shape):
        return (x_shape[0], x_shape[-1])
