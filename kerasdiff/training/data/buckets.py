"""Aspect-ratio buckets: a few sizes for pictures of many shapes, and batches of one size each.

As NovelAI did for Stable Diffusion ("NovelAI Improvements on Stable Diffusion", 2022): a picture
goes to the size whose aspect ratio is nearest, so that less is cut away than by a square. Each size
is one more compilation of the training step.
"""

import math

import numpy as np


def make_buckets(area, multiple=64, max_ratio=2.0):
    """The sizes that hold at most `area` pixels and cannot grow on either side.

    Args:
        area: pixels, such as 512 * 512.
        multiple: both sides are multiples of it; at least the factor of the autoencoder.
        max_ratio: of the longer side to the shorter.

    Returns:
        List of (height, width), from the widest to the tallest; with each size its transpose.

    Raises:
        ValueError: an argument is out of range, or nothing fits.
    """
    if multiple < 1 or area < multiple * multiple:
        raise ValueError(f"`area` is {area}: not even one square of {multiple}x{multiple} fits")
    if not max_ratio >= 1.0:
        raise ValueError(f"`max_ratio` must be at least 1, not {max_ratio}")
    sides = range(multiple, math.isqrt(area) + 1, multiple)
    longest = {side: area // side // multiple * multiple for side in sides}
    # Only the largest of all short sides that allow the same long one: the others are inside it.
    pairs = {long: short for short, long in longest.items() if long <= max_ratio * short}
    wide = {(short, long) for long, short in pairs.items()}
    return sorted(wide | {(long, short) for short, long in wide}, key=lambda size: size[0])


def nearest_bucket(size, buckets):
    """The bucket whose aspect ratio is nearest on a logarithmic scale; of equals the largest.

    Args:
        size: (height, width) of a picture.
        buckets: list of (height, width).
    """
    if not buckets:
        raise ValueError("`buckets` is empty; at least one (height, width) is needed")
    ratio = math.log(size[0] / size[1])
    return min(
        buckets,
        key=lambda each: (abs(math.log(each[0] / each[1]) - ratio), -each[0] * each[1]),
    )


def group_batches(sizes, batch_size, rng):
    """One epoch in random order, as batches that hold pictures of one size each.

    Every picture appears at least once. Where the pictures of a size do not fill their last batch,
    pictures from the beginning of that size's random order fill it: none is left out, no batch is
    short, and every epoch has as many batches. Only where a size has fewer than `batch_size`
    pictures does a batch hold any of them twice.

    Args:
        sizes: (height, width) of each picture.
        batch_size: pictures a batch.
        rng: a `numpy.random.Generator`; the same state gives the same batches.

    Returns:
        List of int64 arrays (batch_size,) of indices into `sizes`.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, not {batch_size}")
    if not len(sizes):
        raise ValueError("`sizes` is empty: there is no picture to make a batch of")
    members = {}
    for i, size in enumerate(sizes):
        members.setdefault(tuple(size), []).append(i)
    batches = []
    for size in sorted(members):
        order = rng.permutation(members[size])
        count = -(-len(order) // batch_size)
        # (count * B,) -> (count, B); np.resize goes on from the beginning of `order`
        batches.extend(np.resize(order, (count, batch_size)))
    return [batches[i] for i in rng.permutation(len(batches))]
