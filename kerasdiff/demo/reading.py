"""Reads a picture of the demo's world: what is in it, without knowing what was asked for.

The world is known (`words`, `weather`, `painting`), so nothing is learnt: a picture's margin tells
the kind, the time of day or the background; then forms are looked for where their colours are.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from kerasdiff.demo.country import GRID, empty_country, read_country
from kerasdiff.demo.drawing import Canvas
from kerasdiff.demo.painting import OUTLINES
from kerasdiff.demo.seeing import (
    distance_to_shades,
    overlap,
    regions,
    resized,
    shrunk,
    spread,
    unit_form,
)
from kerasdiff.demo.words import BACKGROUNDS, COLOURS, TIMES

FINE = 128  # pixels a side of the pictures in which shapes are read

# Surroundings. At most 0.44 of the margin of painted pictures, blurred and noisy or not, is strange
# to their own surroundings, in one half 0.69; to any others at least 0.28 more. Of noise, 0.9.
STRANGE = 40.0  # a colour this far from the expected one is entirely another
MARGIN = 0.14  # of the picture to each side, where few things stand
MOST_STRANGE = 0.6  # share of the margin
MOST_STRANGE_HALF = 0.8  # share of the margin's left or right half

# Shapes.
NEAR = 45.0  # a pixel this close to a colour has it
LEAST_INSIDE = 0.003  # of the picture, further than 1/64 from the edges; painted shapes have 0.012
SOFTNESS = 0.07  # of outlines, for a shape of area 1: what an autoencoder leaves of sharp corners
LEAST_OVERLAP = 0.82  # with an outline; painted shapes have 0.89
SIZE_LIMIT = 0.225  # between the radii of small and big


@dataclass(frozen=True)
class Seen:
    """One shape on a plain background.

    Attributes:
        colour: its name, or None for a colour that has none.
        shape: its name, or None if it is like none of them.
        size: "small" or "big".
        middle: (x, y) of its centre of mass, fractions of the picture.
    """

    colour: str | None
    shape: str | None
    size: str
    middle: tuple[float, float]


@dataclass(frozen=True)
class Reading:
    """What is in a picture; None or nothing where it shows no such thing.

    Attributes:
        kind: "house", "boat" or "shapes".
        time: of day.
        colour: of the house's walls or the boat's sails.
        tree: its kind.
        side: where the house stands seen from the tree, "left" or "right".
        mountain: whether there is one.
        background: its name, for shapes.
        things: the shapes.
    """

    kind: str | None = None
    time: str | None = None
    colour: str | None = None
    tree: str | None = None
    side: str | None = None
    mountain: bool = False
    background: str | None = None
    things: tuple[Seen, ...] = ()


def read(picture):
    """What is in a picture.

    Args:
        picture: uint8 (S, S, 3), S at least 64.

    Returns:
        A `Reading`.

    Raises:
        ValueError: if the picture is no such array.
    """
    pixels = np.asarray(picture)
    shape = pixels.shape
    if pixels.dtype != np.uint8 or len(shape) != 3 or shape[0] != shape[1] or shape[2] != 3:
        raise ValueError(f"picture: expected uint8 (S, S, 3), received {pixels.dtype} {shape}")
    if shape[0] < GRID:
        raise ValueError(f"picture: expected at least {GRID} pixels a side, received {shape[0]}")
    coarse = resized(pixels, GRID)
    kind, name = _surroundings(coarse)
    if kind is None:
        return Reading()
    if kind == "shapes":
        things = _things(resized(pixels, FINE), name)
        return Reading(kind, background=name, things=things) if things else Reading()
    found = read_country(coarse, kind, name)
    if found is None:
        return Reading(time=name)
    return Reading(kind, name, found.colour, found.tree, found.side, found.mountain)


def _surroundings(pixels):
    """The kind of a picture (GRID, GRID, 3), and its time of day or background; or two Nones."""
    margin = _margin()
    strange = {
        place: np.minimum(distance_to_shades(pixels[margin], empty, 0.92, 1.08) / STRANGE, 1.0)
        for place, empty in _empty_margins().items()
    }
    place = min(strange, key=lambda place: strange[place].mean())
    at_left = np.nonzero(margin)[1] < GRID // 2
    halves = strange[place][at_left].mean(), strange[place][~at_left].mean()
    fits = np.mean(halves) < MOST_STRANGE and max(halves) < MOST_STRANGE_HALF
    return place if fits else (None, None)


@cache
def _empty_margins():
    """(kind, time or background) to the margin's pixels where nothing stands, (pixels, 3)."""
    places = {("shapes", name): _backdrop(name, GRID) for name in BACKGROUNDS}
    places |= {
        (kind, time): empty_country(kind, time) for kind in ("house", "boat") for time in TIMES
    }
    return {place: empty[_margin()] for place, empty in places.items()}


@cache
def _margin():
    canvas = Canvas(GRID)
    return np.maximum(abs(canvas.x - 0.5), abs(canvas.y - 0.5)) > 0.5 - MARGIN


@cache
def _backdrop(name, size):
    """The empty picture of a background, (size, size, 3)."""
    canvas = Canvas(size)
    glow = np.hypot(canvas.x - 0.45, canvas.y - 0.4) / 0.75
    return np.float32(BACKGROUNDS[name]) * (1.03 - 0.13 * glow[..., None] ** 2)


def _things(pixels, background):
    """The shapes in a picture (FINE, FINE, 3), the largest first."""
    labels, names = _labels(pixels, background)
    half = labels[::2, ::2]
    number = regions(half)
    things = []
    for region, area in zip(*np.unique(number, return_counts=True), strict=True):
        label, mask = half.flat[region], number == region
        if label and np.count_nonzero(shrunk(mask)) > LEAST_INSIDE * half.size:
            mask = spread(mask).repeat(2, 0).repeat(2, 1) & (labels == label)
            things.append((area, _seen(mask, names[label])))
    return tuple(thing for _, thing in sorted(things, key=lambda pair: -pair[0]))


def _labels(pixels, background):
    """What each pixel shows, as a place in a list of names, and the list.

    The names are the background's, then those of colours, None for a colour that has no name. A
    colour named like the background is the background: white on white is not to be seen.
    """
    names = [background, *[name for name in COLOURS if name != background], None]
    apart = [distance_to_shades(pixels, _backdrop(background, FINE), 0.6, 1.1)]  # with its shadows
    apart += [distance_to_shades(pixels, COLOURS[name], 0.86, 1.14) for name in names[1:-1]]
    apart = np.stack([*apart, np.full((FINE, FINE), NEAR, "float32")])
    labels = apart.argmin(0)
    # Soft edges mix two colours to a third. What is nowhere thick is an edge, and goes to whichever
    # of the thick ones is nearest.
    inside = [np.count_nonzero(shrunk(labels == label, 2)) for label in range(len(names))]
    thick = [i for i, count in enumerate(inside) if i == 0 or count > LEAST_INSIDE * labels.size]
    return apart[thick].argmin(0), [names[i] for i in thick]


def _seen(mask, colour):
    form, middle, area = unit_form(mask)
    likeness = {name: overlap(form, outline) for name, (outline, _) in _outlines().items()}
    shape = max(likeness, key=likeness.get)
    size = "small" if np.sqrt(area / _outlines()[shape][1]) < SIZE_LIMIT else "big"
    shape = shape if likeness[shape] > LEAST_OVERLAP else None
    return Seen(colour, shape, size, tuple(map(float, middle)))


@cache
def _outlines():
    """Each shape's unit form, with softened corners, and its area at radius 1."""
    forms, canvas, radius = {}, Canvas(256), 0.4
    for name, outline in OUTLINES.items():
        mask = canvas.polygons(radius * outline + 0.5)
        area = float(mask.mean())
        form, _, _ = unit_form(canvas.blur(mask, SOFTNESS * area**0.5) > 0.5)
        forms[name] = form, area / radius**2
    return forms
