"""Ways through the latent space: from text to text, from noise to noise, and round in circles.

Texts mix along lines. Noise does not: the mean of two standard normal arrays spreads less than
either, and the network has never seen that; great circles keep the spread (Shoemake 1985, slerp).
"""

from numbers import Integral

import numpy as np


def line(first, last, count):
    """Evenly from one array to another.

    Args:
        first, last: arrays of one shape, such as two texts from `encode_text`. (Where it gives a
            `Conditioning`, of SDXL's texts, they mix by themselves: `a + t * (b - a)`.)
        count: of points, both ends included.

    Returns:
        (count, *shape).

    Raises:
        ValueError: if the shapes differ, an array is not of floats or `count` is below 2.
    """
    first, last, parts = _ends(first, last, count)
    return first + parts * (last - first)


def arc(first, last, count):
    """Evenly along the great circle from one noise to another; as `line` otherwise.

    Raises:
        ValueError: as of `line`; or if the noises lie opposite each other, where all ways are as
            long.
    """
    first, last, parts = _ends(first, last, count)
    cosine = np.vdot(first, last) / (np.linalg.norm(first) * np.linalg.norm(last))
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if np.sin(angle) < 1e-6:  # in one line
        if cosine < 0.0:
            raise ValueError("the ends lie opposite each other: go by another noise in between")
        return first + parts * (last - first)
    weights = np.sin((1.0 - parts) * angle), np.sin(parts * angle)
    return ((weights[0] * first + weights[1] * last) / np.sin(angle)).astype(first.dtype)


def circle(first, second, count):
    """Round through two noises and back to where it began, which is not repeated.

    Args:
        first, second: independent standard normal arrays of one shape; every point between them is
            one too.
        count: of points.

    Returns:
        (count, *shape).

    Raises:
        ValueError: as of `line`.
    """
    first, second, parts = _ends(first, second, count, endpoint=False)
    angles = 2.0 * np.pi * parts
    return (np.cos(angles) * first + np.sin(angles) * second).astype(first.dtype)


def _ends(first, last, count, endpoint=True):
    """Both arrays, and how far each point is, shaped to multiply them."""
    if hasattr(first, "context") or hasattr(last, "context"):
        raise ValueError("both ends must be arrays; a `Conditioning` mixes as `a + t * (b - a)`")
    first, last = np.asarray(first), np.asarray(last)
    if first.shape != last.shape:
        raise ValueError(f"both ends must have one shape, not {first.shape} and {last.shape}")
    if not all(np.issubdtype(end.dtype, np.floating) for end in (first, last)):
        raise ValueError(f"both ends must be of floats, not {first.dtype} and {last.dtype}")
    if not isinstance(count, Integral) or count < 2:
        raise ValueError(f"`count` must be a whole number from 2, not {count!r}")
    parts = np.linspace(0.0, 1.0, count, endpoint).reshape(-1, *[1] * first.ndim)
    return first, last, parts.astype(first.dtype)
