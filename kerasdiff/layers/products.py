"""Products of matrices and convolutions, in the forms that XLA computes soonest on processors.

TensorFlow's XLA hands both to Eigen there and gets more from its convolutions than from its
matrices; and a convolution of 3x3 can do with half of its products, by minimal filtering (Winograd;
Lavin and Gray, arXiv 1509.09308). Both are exact but for rounding: filtering's is about twice that
of the plain form, below 2e-6 of the largest output. In 16 bits, in other programs, on other devices
and at other sizes the plain forms are computed.
"""

import math

import numpy as np
from keras import ops

from kerasdiff.processor import whose_xla

FEWEST_ROWS, FEWEST_INPUTS = 2048, 256
"""From so many on a matrix is soonest as a convolution (`benchmarks.products`)."""

FEWEST_PIXELS, FEWEST_CHANNELS = 256, 128
"""From so many on minimal filtering pays: rows of pixels and of the kernel have to be mixed too."""


def matmul(x, kernel):
    """(..., I) times (I, O) to (..., O)."""
    if whose_xla() != "tensorflow" or not _is_known(x) or not _is_worth_pairing(x.shape):
        return ops.matmul(x, kernel)
    *leading, width = x.shape
    # The same sums, by a kernel over rows of two pixels: (..., I) -> (1, rows, 2, I / 2)
    pairs = ops.reshape(x, (1, -1, 2, width // 2))
    kernel = ops.reshape(kernel, (1, 2, width // 2, -1))
    return ops.reshape(ops.conv(pairs, kernel, data_format="channels_last"), (*leading, -1))


def convolve(x, kernel):
    """(B, H, W, I) with a kernel (k, k, I, O), zeros around, to (B, H, W, O)."""
    if whose_xla() and _is_known(x):
        if kernel.shape[0] == 1:
            return matmul(x, kernel[0, 0])
        if kernel.shape[0] == 3 and _is_worth_mixing(x.shape, kernel.shape):
            return _filter(x, kernel)
    return ops.conv(x, kernel, 1, "same", data_format="channels_last")


def _is_known(x):
    return None not in x.shape and x.dtype == "float32"


def _is_worth_pairing(shape):
    *leading, width = shape
    return math.prod(leading) >= FEWEST_ROWS and width >= FEWEST_INPUTS and width % 2 == 0


def _is_worth_mixing(shape, kernel_shape):
    _, height, width, channels = shape
    enough = height * width >= FEWEST_PIXELS and min(channels, kernel_shape[-1]) >= FEWEST_CHANNELS
    return enough and height % 4 == 0


def _filter(x, kernel):
    """Four rows of pixels from six products with mixed kernels of one row, instead of twelve.

    A loop, lest all kernels of a network be mixed ahead, in memory beside each other, and as it
    compiles sooner.
    """
    batch, height, width, channels = x.shape
    fours = height // 4
    # (B, H, W, I) -> (B, H / 4 + 1, 4, W, I): six rows begin in four and end in the next
    rows = ops.pad(x, ((0, 0), (1, 3), (0, 0), (0, 0)))
    rows = ops.reshape(rows, (batch, fours + 1, 4, width, channels))

    def add_product(index, rows, kernel, out):
        weights = ops.take(ops.convert_to_tensor(_MIXTURES), index, axis=0)
        six = [rows[:, :-1, row] for row in range(4)] + [rows[:, 1:, row] for row in range(2)]
        mixed = sum(row * weights[i] for i, row in enumerate(six))
        taps = sum(kernel[i : i + 1] * weights[6 + i] for i in range(3))
        product = ops.conv(mixed, taps, 1, "same", data_format="channels_last")
        # (B, H / 4, W, O) -> (B, H / 4, 4, W, O)
        out = out + product[:, :, None] * ops.reshape(weights[9:], (4, 1, 1))
        return index + 1, rows, kernel, out

    out = ops.zeros((batch, fours, 4, width, kernel.shape[-1]), x.dtype)
    begin = ops.zeros((), "int32"), rows, ops.convert_to_tensor(kernel), out
    out = ops.while_loop(lambda index, *_: index < len(_MIXTURES), add_product, begin)[-1]
    return ops.reshape(out, (batch, height, width, -1))


def _mixtures():
    """How rows, kernels and outputs are mixed: a row of 6 + 3 + 4 weights for each product.

    F(4, 3) by interpolation at 0, infinity and the points whose squares are 1/2 and 2, whose
    rounding errors are two thirds of those at the usual 1 and 2.
    """
    ends = [[1, 0, -2.5, 0, 1, 0] + [1, 0, 0] + [1, 0, 0, 0],
            [0, 1, 0, -2.5, 0, 1] + [0, 0, 1] + [0, 0, 0, 1]]  # fmt: skip
    middle = []
    for square, other in ((0.5, 2.0), (2.0, 0.5)):
        for point in (square**0.5, -(square**0.5)):
            taps = np.array([1.0, point, square]) / (2 * square * (square - other))
            inputs = [0, -point * other, -other, point, 1, 0]
            middle.append([*inputs, *taps, 1, point, square, point**3])
    return np.array([ends[0], *middle, ends[1]], "float32")


_MIXTURES = _mixtures()
