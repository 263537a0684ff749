"""Products of matrices and convolutions, in the forms that XLA computes fastest on processors.

TensorFlow's XLA hands both to Eigen there, whose convolutions are faster than its matrix products;
and a convolution of 3x3 can do with half of its products, by minimal filtering (Winograd; Lavin and
Gray, arXiv 1509.09308). Both are exact but for rounding: filtering's error is two to three times
the plain form's. Products of 16 bits it computes in float32, all kernels cast ahead; they are cast
here, one by one, and take the same forms. Where the processor computes in bfloat16, though, matrix
products are of bfloat16's factors, twice as fast as float32's, and small pictures are convolved by
one of them. In other programs, on other devices and at other sizes the plain forms are computed.
"""

import math

import numpy as np
from keras import ops

from kerasdiff import backend
from kerasdiff.backend import call_once, forms, is_native

FEWEST_ROWS, FEWEST_INPUTS = 2048, 256
"""From so many on `paired` is faster than a matrix product (`benchmarks.products`)."""

FEWEST_PIXELS, FEWEST_CHANNELS = 256, 128
"""From so many on `filtered` is faster: mixing rows of pixels and of the kernel takes time too."""

MOST_GATHERED = 256
"""Up to so many pixels bfloat16 is convolved by a matrix product, where these are native."""

MOST_NUMBERS = 2**24
"""From so many on, 64 MiB, a picture is convolved plainly: the loop's copies would set the peak.

A decoder of 512x512 without tiles took 1.3 GiB more, and one of tiles of 256x256 takes 0.4 GiB less
with a quarter of it, which holds where memory is short.
"""


def matmul(x, kernel):
    """(..., I) times (I, O) to (..., O)."""
    if forms().paired and _is_known(x):
        *leading, width = x.shape
        if math.prod(leading) >= FEWEST_ROWS and width >= FEWEST_INPUTS and width % 2 == 0:
            return paired(x, kernel)
    return backend.matmul(x, kernel)


def is_product(x, kernel):
    """Whether `convolve` takes a matrix product for these, of native factors too."""
    return kernel.shape[0] == 1 or is_native(x) and kernel.shape[0] == 3 and is_small(x)


def is_small(x, times=1):
    """Whether a picture of so many times the pixels of (B, H, W, C) is small: for `gathered`."""
    _, height, width, _ = x.shape
    return None not in x.shape and times * height * width <= MOST_GATHERED


def convolve(x, kernel):
    """(B, H, W, I) with a kernel (k, k, I, O), zeros around, to (B, H, W, O)."""
    if is_native(x):
        return matmul(x, kernel[0, 0]) if kernel.shape[0] == 1 else gathered(x, kernel)
    if forms().filtered and _is_known(x):
        _, height, width, channels = x.shape
        pixels, (least, most) = height * width, sorted((channels, kernel.shape[-1]))
        is_small = pixels * most < MOST_NUMBERS // (4 if forms().spares else 1)
        is_enough = pixels >= FEWEST_PIXELS and least >= FEWEST_CHANNELS and height % 4 == 0
        if is_small and kernel.shape[0] == 1:
            return matmul(x, kernel[0, 0])
        if is_small and is_enough and kernel.shape[0] == 3:
            return filtered(x, kernel)
    return ops.conv(x, kernel, 1, "same", data_format="channels_last")


def _is_known(x):
    return None not in x.shape and x.dtype == "float32"


def paired(x, kernel):
    """`matmul` as a convolution, the same sums: each row is two pixels of half the width."""
    *leading, width = x.shape
    pairs = ops.reshape(x, (1, -1, 2, width // 2))  # (..., I) -> (1, rows, 2, I / 2)
    kernel = ops.reshape(kernel, (1, 2, width // 2, -1))
    return ops.reshape(ops.conv(pairs, kernel, data_format="channels_last"), (*leading, -1))


def gathered(x, kernel):
    """`convolve` of 3x3 as one matrix product, of the nine pixels that each output meets."""
    batch, height, width, channels = x.shape
    x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    met = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    # (B, H, W, 9 I) times (9 I, O)
    return matmul(ops.concatenate(met, -1), ops.reshape(kernel, (9 * channels, -1)))


def filtered(x, kernel):
    """`convolve` of 3x3 by six products, with kernels of 1x3, where four rows would take twelve.

    Args:
        x: (B, H, W, I), H a multiple of 4.
        kernel: (3, 3, I, O).

    Returns:
        (B, H, W, O); its gradient is a convolution of the same kind, and nine matrix products.
    """
    return call_once(_filtered, x, kernel)


def _filtered(x, kernel):
    @ops.custom_gradient  # no framework can go backwards through every loop
    def run(x, kernel):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            turned = ops.transpose(ops.flip(kernel, (0, 1)), (0, 1, 3, 2))  # (3, 3, O, I)
            return filtered(upstream, turned), _kernel_gradient(x, upstream)

        return _filter(x, kernel), gradient

    return run(x, kernel)


def _kernel_gradient(x, upstream):
    """(3, 3, I, O), each place of the kernel by the pixels that it meets."""
    _, height, width, channels = x.shape
    x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    upstream = ops.reshape(upstream, (-1, upstream.shape[-1]))  # (B, H, W, O) -> (BHW, O)

    def place(i, j):
        met = ops.reshape(x[:, i : i + height, j : j + width], (-1, channels))  # (BHW, I)
        return ops.matmul(ops.transpose(met), upstream)

    return ops.stack([ops.stack([place(i, j) for j in range(3)]) for i in range(3)])


def _filter(x, kernel):
    """A loop over the products, lest all kernels of a network be mixed ahead, beside each other.

    It also compiles sooner.
    """
    batch, height, width, channels = x.shape
    fours = ops.reshape(x, (batch, height // 4, 4, width, channels))  # (B, H / 4, 4, W, I)
    beside = ((0, 0), (1, 0), (0, 0), (0, 0)), ((0, 0), (0, 1), (0, 0), (0, 0))
    above, below = ops.pad(fours[:, :-1, 3], beside[0]), ops.pad(fours[:, 1:, 0], beside[1])

    def add_product(index, fours, above, below, kernel, out):
        mixture = ops.take(_MIXTURES, index, axis=0)
        weights = ops.unstack(mixture)
        mixed = _weighted_sum([above, *ops.unstack(fours, axis=2), below], weights[:6])
        taps = _weighted_sum(ops.split(kernel, 3), weights[6:9])
        product = ops.conv(mixed, taps, 1, "same", data_format="channels_last")
        # (B, H / 4, W, O) -> (B, H / 4, 4, W, O)
        out = out + product[:, :, None] * ops.reshape(mixture[9:], (4, 1, 1))
        return index + 1, fours, above, below, kernel, out

    out = ops.zeros((batch, height // 4, 4, width, kernel.shape[-1]), x.dtype)
    begin = ops.zeros((), "int32"), fours, above, below, kernel, out
    out = ops.while_loop(lambda index, *_: index < len(_MIXTURES), add_product, begin)[-1]
    return ops.reshape(out, (batch, height, width, -1))


def _weighted_sum(arrays, weights):
    return sum(array * weight for array, weight in zip(arrays, weights, strict=True))


def _mixtures():
    """How rows, kernels and outputs are mixed: a row of 6 + 3 + 4 weights for each product.

    F(4, 3) by interpolation at 0, infinity and the points whose squares are 1/2 and 2, whose
    rounding errors are two thirds of those at the usual 1 and 2.
    """
    zero = [1, 0, -2.5, 0, 1, 0] + [1, 0, 0] + [1, 0, 0, 0]
    infinity = [0, 1, 0, -2.5, 0, 1] + [0, 0, 1] + [0, 0, 0, 1]
    middle = []
    for square, other in ((0.5, 2.0), (2.0, 0.5)):
        for point in (square**0.5, -(square**0.5)):
            taps = np.array([1.0, point, square]) / (2 * square * (square - other))
            inputs = [0, -point * other, -other, point, 1, 0]
            middle.append([*inputs, *taps, 1, point, square, point**3])
    return np.array([zero, *middle, infinity], "float32")


_MIXTURES = _mixtures()
