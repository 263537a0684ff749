"""Loops whose turns do not begin before the last one's end."""

import keras


def next_index(index, arrays):
    """`index + 1`, known only when a loop's arrays are.

    By itself a number is known at once, and TensorFlow begins up to ten turns beside each other:
    it holds the attention scores of all, and what is made of weights alone. Nothing exceeds
    infinity, so what is added waits and is 0.

    Args:
        index: int32 scalar.
        arrays: what the turn computes.
    """
    firsts = [keras.ops.cast(keras.ops.ravel(array)[:1], "float32") for array in arrays]
    total = keras.ops.sum(keras.ops.concatenate(firsts))  # an empty array has no first
    return index + 1 + keras.ops.cast(total > float("inf"), "int32")
