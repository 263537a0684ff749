"""A network over a large picture in overlapping tiles, whose results are blended into one another.

A tile knows nothing beyond its border, and its norms and attention see it alone. So tiles share a
broad border, within which one fades into the next: there is no line where they meet.
"""

import math

import numpy as np

OVERLAP = 0.25  # of a tile's side, at least


def in_tiles(function, array, size, inward, outward):
    """What a network makes of an array, tile by tile.

    Lengths are counted in units of a latent's side; a unit is `inward` pixels of the array and
    `outward` pixels of the result.

    Args:
        function: (1, inward s, inward t, C) to (1, outward s, outward t, K); sees tiles of one
            size.
        array: (inward h, inward w, C).
        size: of a tile's side, in units; an array that is smaller is one tile.

    Returns:
        (outward h, outward w, K) float32.
    """
    height, width = (length // inward for length in array.shape[:2])
    total = weights = None
    for top in _starts(height, size):
        for left in _starts(width, size):
            rows, columns = slice(top, top + size), slice(left, left + size)
            tile = array[_scaled(rows, inward), _scaled(columns, inward)]
            result = np.asarray(function(tile[None]), "float32")[0]
            if total is None:
                total = np.zeros((outward * height, outward * width, result.shape[-1]), "float32")
                weights = np.zeros((*total.shape[:2], 1), "float32")
            weight = _ramp(result.shape[0])[:, None] * _ramp(result.shape[1])
            place = _scaled(rows, outward), _scaled(columns, outward)
            total[place] += weight[..., None] * result
            weights[place] += weight[..., None]
    return total / weights


def count_tiles(height, width, size):
    """How many tiles an array of so many units is cut into."""
    return len(_starts(height, size)) * len(_starts(width, size))


def _starts(length, size):
    """Where tiles begin that cover a length, evenly spread."""
    if length <= size:
        return [0]
    step = max(1, math.floor(size * (1 - OVERLAP)))
    count = 1 + math.ceil((length - size) / step)
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def _ramp(length):
    """How much each row of a tile counts: little at the borders, 1 within."""
    steps = np.arange(length, dtype="float32") + 0.5
    return np.minimum(np.minimum(steps, steps[::-1]) / (OVERLAP * length), 1.0)


def _scaled(span, factor):
    return slice(span.start * factor, span.stop * factor)
