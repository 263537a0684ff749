"""CLIP's text transformer (arXiv 2103.00020), for every family of checkpoints."""

import keras
from keras import ops

from kerasdiff.configs import CLIP_L, TextEncoderConfig
from kerasdiff.layers import Attention, Dense, initializer, register
from kerasdiff.networks import Network

_ACTIVATIONS = {
    "quick_gelu": lambda x: x * ops.sigmoid(1.702 * x),
    "gelu": lambda x: ops.gelu(x, approximate=False),
}


@register
class CLIPEmbedding(keras.layers.Layer):
    """Token plus position embedding: tokens (B, T), positions (1 or B, T) -> (B, T, width)."""

    def __init__(self, vocab_size, max_length, width, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.max_length, self.width = vocab_size, max_length, width

    def build(self, tokens_shape, positions_shape=None):
        def table(rows, name):
            start, name = initializer("random_normal"), f"embeddings.{name}"
            layer = keras.layers.Embedding(
                rows, self.width, start, name=name, dtype=self.dtype_policy
            )
            layer.build()
            return layer

        self.token_embedding = table(self.vocab_size, "token_embedding")
        self.position_embedding = table(self.max_length, "position_embedding")

    def call(self, tokens, positions):
        return self.token_embedding(tokens) + self.position_embedding(positions)

    def compute_output_spec(self, tokens, positions):
        return keras.KerasTensor((*tokens.shape, self.width), dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "vocab_size": self.vocab_size,
            "max_length": self.max_length,
            "width": self.width,
        }


@register
class CLIPEncoderLayer(keras.layers.Layer):
    """Causal self-attention and a feed-forward, each behind a LayerNorm."""

    NAMES = ("q_proj", "k_proj", "v_proj", "out_proj")

    def __init__(self, heads, mlp_width, activation, epsilon, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.mlp_width = heads, mlp_width
        self.activation, self.epsilon = activation, epsilon

    def build(self, input_shape):
        own = {"dtype": self.dtype_policy}
        self.layer_norm1, self.layer_norm2 = (
            keras.layers.LayerNormalization(
                epsilon=self.epsilon, name=f"{self.name}.layer_norm{i}", **own
            )
            for i in (1, 2)
        )
        name = f"{self.name}.self_attn"
        self.self_attn = Attention(self.heads, True, self.NAMES, name=name, **own)
        self.fc1 = Dense(self.mlp_width, name=f"{self.name}.mlp.fc1", **own)
        self.fc2 = Dense(input_shape[-1], name=f"{self.name}.mlp.fc2", **own)
        for layer in (self.layer_norm1, self.layer_norm2, self.self_attn, self.fc1):
            layer.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.mlp_width))

    def call(self, inputs):
        positions = ops.arange(ops.shape(inputs)[1])
        causal = (positions[:, None] >= positions[None, :])[None, None]  # (1, 1, T, T)
        x = inputs + self.self_attn(self.layer_norm1(inputs), attention_mask=causal)
        return x + self.fc2(_ACTIVATIONS[self.activation](self.fc1(self.layer_norm2(x))))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "heads": self.heads,
            "mlp_width": self.mlp_width,
            "activation": self.activation,
            "epsilon": self.epsilon,
        }


@register
class TakeEnd(keras.layers.Layer):
    """The hidden state at the end token: states (B, T, width), tokens (B, T) -> (B, width).

    Args:
        end_token_id: the first position of this token; None takes the largest id's.
    """

    def __init__(self, end_token_id, **kwargs):
        super().__init__(**kwargs)
        self.end_token_id = end_token_id

    def call(self, states, tokens):
        score = tokens if self.end_token_id is None else ops.equal(tokens, self.end_token_id)
        end = ops.argmax(ops.cast(score, "int32"), axis=-1)  # (B,), the first of equals
        return ops.take_along_axis(states, end[:, None, None], axis=1)[:, 0]

    def compute_output_spec(self, states, tokens):
        return keras.KerasTensor((states.shape[0], states.shape[-1]), dtype=states.dtype)

    def get_config(self):
        return {**super().get_config(), "end_token_id": self.end_token_id}


@register
class TextEncoder(Network):
    """Token ids to hidden states.

    Inputs are `tokens` (B, T) and `positions` (1 or B, T), whole numbers of any dtype, as a list in
    this order or as a dict. The output is the context, (B, T, width); where the config asks for a
    projection or an inner layer it is a dict of `context` and `pooled`, (B, projection_dim): the
    last layer at the end token.

    Args:
        config: a `TextEncoderConfig`.
        dtype: "float32", "bfloat16", "float16" or a mixed policy.
        name: of the model.

    Raises:
        ValueError: width and heads do not fit, an unknown activation, or an output layer that is
            neither the last (-1) nor one before.
    """

    config_class = TextEncoderConfig

    def __init__(self, config=CLIP_L, *, dtype="float32", name="text_encoder"):
        if config.activation not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            raise ValueError(f"`activation` must be one of {known}, not {config.activation!r}")
        if not -config.depth <= config.output_layer <= -1:
            raise ValueError(
                f"`output_layer` must lie in [-{config.depth}, -1], not {config.output_layer}"
            )
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        positions = keras.Input((None,), dtype="int32", name="positions")
        embed = CLIPEmbedding(
            config.vocab_size, config.max_length, config.width, name="embeddings", dtype=dtype
        )
        states = [embed(tokens, positions)]
        for i in range(config.depth):
            layer = CLIPEncoderLayer(
                config.heads, config.mlp_width, config.activation, config.epsilon,
                name=f"encoder.layers.{i}", dtype=dtype,
            )  # fmt: skip
            states.append(layer(states[-1]))
        norm = keras.layers.LayerNormalization(
            epsilon=config.epsilon, name="final_layer_norm", dtype=dtype
        )
        last = norm(states[-1])
        outputs = last if config.output_layer == -1 else states[config.output_layer]
        if config.projection_dim is not None or config.output_layer != -1:
            pooled = TakeEnd(config.end_token_id, name="end", dtype=dtype)(last, tokens)
            if config.projection_dim is not None:
                project = Dense(config.projection_dim, False, name="text_projection", dtype=dtype)
                pooled = project(pooled)
            outputs = {"context": outputs, "pooled": pooled}
        super().__init__([tokens, positions], outputs, config, dtype, name)
