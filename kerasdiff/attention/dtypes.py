"""In which dtype attention takes its products and sums."""

import keras
from keras import ops


def scaled(query, scale):
    """The query times a number that is not rounded to the query's dtype first."""
    return ops.cast(ops.cast(query, sum_dtype(query)) * scale, query.dtype)


def for_scores(array):
    """Queries or keys as their product is taken of: float16 may overflow."""
    is_short = keras.backend.standardize_dtype(array.dtype) == "float16"
    return ops.cast(array, "float32") if is_short else array


def sum_dtype(array):
    """Of softmax, its sums and everything that is added up over pieces."""
    return "float64" if keras.backend.standardize_dtype(array.dtype) == "float64" else "float32"
