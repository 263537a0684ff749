"""What waits for what, where compilers would begin early: turns of loops, casts of weights."""

import keras


def next_index(index, arrays):
    """`index + 1`, known only when a loop's arrays are.

    By itself a number is known at once, and TensorFlow begins up to ten turns beside each other:
    it holds the attention scores of all, and what is made of weights alone.

    Args:
        index: int32 scalar.
        arrays: what the turn computes.
    """
    firsts = [keras.ops.cast(keras.ops.ravel(array)[:1], "float32") for array in arrays]
    total = keras.ops.sum(keras.ops.concatenate(firsts))  # an empty array has no first
    return index + 1 + zero_after(total, "int32")


def zero_after(number, dtype):
    """0, known only when a float is: nothing exceeds infinity, NaN neither."""
    return keras.ops.cast(number > float("inf"), dtype)
