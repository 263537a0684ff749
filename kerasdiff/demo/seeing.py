"""Seeing without learning: colours near a colour, forms in a mask, regions of one label.

Pictures here are float32 (size, size, 3), 0 to 255, and every mask is (size, size). Positions are
fractions of the picture, x to the right and y downwards, as in `drawing`.
"""

import numpy as np
from PIL import Image


def resized(picture, size):
    """A picture, uint8 (H, W, 3), at (size, size, 3) float32: each pixel a mean of what it covers.

    A smaller picture is grown smoothly instead.
    """
    image = Image.fromarray(picture)
    if image.size != (size, size):
        smooth = Image.Resampling.BOX if image.width > size else Image.Resampling.BICUBIC
        image = image.resize((size, size), smooth)
    return np.asarray(image, "float32")


def distance(pixels, first, second):
    """How far pixels are from the nearest of the colours between two, Euclidean in RGB.

    Args:
        pixels: (..., 3).
        first, second: the ends, (3,) or (..., 3) for other ones at each pixel.

    Returns:
        (...) float32.
    """
    first, way = np.float32(first), np.float32(second) - np.float32(first)
    apart = pixels - first
    length = np.maximum(_dot(way, way), 1e-6)
    part = np.clip(_dot(apart, way) / length, 0.0, 1.0)
    apart = apart - part[..., None] * way
    return np.sqrt(_dot(apart, apart))


def distance_to_shades(pixels, colour, darkest, lightest):
    """How far pixels are from a colour times any factor between two; see `distance`."""
    colour = np.float32(colour)
    return distance(pixels, darkest * colour, np.minimum(lightest * colour, 255.0))


def _dot(first, second):
    return np.einsum("...c,...c->...", first, second)


def correlate(masks, form):
    """The sum of masks times a form moved to every place.

    Args:
        masks: (..., size, size).
        form: (size, size) weights, drawn about the middle of the picture.

    Returns:
        (..., size, size) float: at each pixel, the sum with the form's middle moved there. The
        picture's edges are joined, so places nearer to one than the form is large mean nothing.
    """
    size = form.shape[0]
    centred = np.roll(form, (-(size // 2), -(size // 2)), (0, 1))
    spectrum = np.fft.rfft2(masks) * np.conj(np.fft.rfft2(centred))
    return np.fft.irfft2(spectrum, (size, size))


def spread(mask, steps=1):
    """A boolean mask grown by pixels to all eight sides."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        rows = padded[:-2] | padded[1:-1] | padded[2:]
        mask = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    return mask


def shrunk(mask, steps=1):
    """A boolean mask without the pixels near its edges; the picture's frame is no edge."""
    return ~spread(~mask, steps)


def regions(labels):
    """Numbers the connected regions (by sides) of equal labels.

    Args:
        labels: (size, size) integers.

    Returns:
        (size, size) integers, equal where connected: the largest flat index in the region.
    """
    size = labels.shape[0]
    number = np.arange(size * size).reshape(size, size)
    across, down = labels[:, 1:] == labels[:, :-1], labels[1:] == labels[:-1]
    while True:
        best = number.copy()
        best[:, :-1] = np.where(across, np.maximum(best[:, :-1], best[:, 1:]), best[:, :-1])
        best[:, 1:] = np.where(across, np.maximum(best[:, 1:], best[:, :-1]), best[:, 1:])
        best[:-1] = np.where(down, np.maximum(best[:-1], best[1:]), best[:-1])
        best[1:] = np.where(down, np.maximum(best[1:], best[:-1]), best[1:])
        best = best.ravel()[best]  # a number is a pixel of the same region: go where it points
        if np.array_equal(best, number):
            return number
        number = best


def unit_form(mask):
    """A mask moved and scaled to area 1 about its centre of mass, so that forms can be compared.

    Returns:
        The form, boolean (GRAIN, GRAIN) over -REACH to REACH, its middle (x, y), and its area, both
        in fractions of the picture.
    """
    size = mask.shape[0]
    y, x = np.nonzero(mask)
    middle = np.array([x.mean() + 0.5, y.mean() + 0.5])
    side = np.sqrt(len(x))
    step = 2.0 * REACH * side / GRAIN
    corner = middle - REACH * side
    image = Image.fromarray(np.uint8(mask) * 255)
    form = image.transform(
        (GRAIN, GRAIN), Image.Transform.AFFINE, (step, 0, corner[0], 0, step, corner[1]),
        Image.Resampling.BILINEAR,
    )  # fmt: skip
    return np.asarray(form) > 127, middle / size, len(x) / size**2


GRAIN, REACH = 56, 1.15


def overlap(first, second):
    """Intersection over union of two boolean masks."""
    return np.count_nonzero(first & second) / max(np.count_nonzero(first | second), 1)
