"""The Keras layer around `attention`: it splits widths into heads and joins them again."""

import keras
from keras import ops

from kerasdiff.attention.function import attention, check_chunk_sizes, check_shapes


@keras.saving.register_keras_serializable(package="kerasdiff")
class MemoryEfficientAttention(keras.layers.Layer):
    """Multi-head softmax attention, exact, in memory linear in the sequence length.

    It has no weights: project queries, keys and values before it and the output after it.

    ```python
    tokens = keras.Input((None, 320))
    query, key, value = (keras.layers.Dense(320, use_bias=False)(tokens) for _ in range(3))
    mixed = MemoryEfficientAttention(num_heads=8)(query, key, value)
    ```

    Args:
        num_heads: into how many heads the widths are split.
        query_chunk_size, key_chunk_size: the most queries and keys of one head whose scores exist
            at once, see `attention`.
    """

    def __init__(self, num_heads, query_chunk_size=None, key_chunk_size=4096, **kwargs):
        super().__init__(**kwargs)
        check_chunk_sizes(
            num_heads=num_heads, query_chunk_size=query_chunk_size, key_chunk_size=key_chunk_size
        )
        self.num_heads = num_heads
        self.query_chunk_size = query_chunk_size
        self.key_chunk_size = key_chunk_size
        self.supports_masking = True

    def build(self, *shapes, **named_shapes):
        """Nothing to make: the layer has no weights."""
        self.built = True

    def call(self, query, key=None, value=None, mask=None, key_mask=None):
        """Attends from `query` to `key` and mixes `value`.

        Args:
            query: (B, Tq, num_heads * D), not scaled.
            key: (B, Tk, num_heads * D); `query` by default.
            value: (B, Tk, num_heads * Dv); `key` by default.
            mask: optional boolean, True where a query may attend to a key: (B, Tk), (B, Tq, Tk)
                or broadcastable to (B, num_heads, Tq, Tk).
            key_mask: (B, Tk), of keys alone; Keras gives the padding mask that came with `key`.

        Returns:
            (B, Tq, num_heads * Dv).

        Raises:
            ValueError: on other ranks, on widths that do not divide into heads, and on shapes
                that do not fit together.
        """
        key = query if key is None else key
        value = key if value is None else value
        query, key, value = (
            self._split_heads(name, array)
            for name, array in (("query", query), ("key", key), ("value", value))
        )
        output = attention(
            query,
            key,
            value,
            _joined(mask, key_mask),
            query_chunk_size=self.query_chunk_size,
            key_chunk_size=self.key_chunk_size,
        )
        width = self.num_heads * value.shape[-1]
        return ops.reshape(output, (*ops.shape(output)[:2], width))

    def _split_heads(self, name, array):
        *_, heads, size = self._split_shape(name, array)
        return ops.reshape(array, (*ops.shape(array)[:2], heads, size))

    def _split_shape(self, name, array):
        shape = tuple(array.shape)
        if len(shape) != 3 or not shape[2] or shape[2] % self.num_heads:
            raise ValueError(
                f"`{name}` must have shape (batch, length, width) with a width divisible by "
                f"num_heads={self.num_heads}, not {shape}"
            )
        return (*shape[:2], self.num_heads, shape[2] // self.num_heads)

    def compute_output_spec(self, query, key=None, value=None, mask=None, key_mask=None):
        """(B, Tq, width of `value`) in the compute dtype."""
        key = query if key is None else key
        value = key if value is None else value
        arrays = {"query": query, "key": key, "value": value}
        check_shapes(**{name: self._split_shape(name, array) for name, array in arrays.items()})
        return keras.KerasTensor((*query.shape[:2], value.shape[2]), self.compute_dtype)

    def compute_mask(self, query, previous_mask):
        """The mask that came with `query`; never a mask of keys."""
        return getattr(query, "_keras_mask", None)

    def get_config(self):
        """What the constructor was given."""
        return super().get_config() | {
            "num_heads": self.num_heads,
            "query_chunk_size": self.query_chunk_size,
            "key_chunk_size": self.key_chunk_size,
        }


def _joined(mask, key_mask):
    """One mask of both; None where there is neither."""
    masks = [_with_heads(each) for each in (mask, key_mask) if each is not None]
    return ops.logical_and(*masks) if len(masks) == 2 else masks[0] if masks else None


def _with_heads(mask):
    """(B, Tk) as (B, 1, 1, Tk), (B, Tq, Tk) as (B, 1, Tq, Tk), and others as they are."""
    axes = {2: (1, 2), 3: (1,)}.get(len(mask.shape))
    return mask if axes is None else ops.expand_dims(mask, axes)
