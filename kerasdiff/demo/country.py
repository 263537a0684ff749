"""Finds the house or boat, the tree and the mountain in a picture of the demo's country or sea.

Each is known by its form and its colours under the light of the time of day. A form is moved over
the pixels that can have its colour, and stands where most of it is covered and little around it.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from kerasdiff.demo.drawing import Canvas
from kerasdiff.demo.painting import HORIZON, box
from kerasdiff.demo.seeing import correlate, distance, distance_to_shades, spread
from kerasdiff.demo.weather import LIGHTS
from kerasdiff.demo.words import COLOURS

GRID = 64  # pixels a side of the pictures read here
CLOSE = 40.0  # a pixel this close to a material's colour can be made of it

# By day, as `painting` and `weather` have them.
MEADOW = ((HORIZON, (104, 164, 92)), (0.719, (99, 159, 88)), (0.72, (142, 200, 96)),
          (1.0, (78, 150, 70)))  # fmt: skip
TIMBER = {"house": (92, 84, 98), "boat": (134, 84, 54)}  # roof and hull
LEAVES = {"pine": (34, 117, 74), "oak": (92, 158, 52), "cherry": (250, 178, 206)}
ROCK = ((125, 132, 163), (92, 97, 120))  # the mountain's left and right side
SNOW = ((250, 252, 255), (206, 214, 232))

# The least fits that count, about midway in the gaps between painted pictures that have the thing
# and those that have not (1,400 of them, half blurred, noisy and compressed): houses 1.31 and 0.99,
# boats 1.05 and 0.15, trees 0.64 and 0.29, mountains 0.70 and 0.39.
FOUND = {"house": 1.14, "boat": 0.6}
TREE_FOUND = 0.5
MOUNTAIN_FOUND = 0.55


@dataclass(frozen=True)
class Country:
    """What stands in the country: see `reading.Reading`."""

    colour: str
    tree: str | None
    side: str | None
    mountain: bool


def empty_country(kind, time):
    """Sky over a meadow ("house") or the sea ("boat") at a time of day, (GRID, GRID, 3)."""
    canvas, light = Canvas(GRID), LIGHTS[time]
    if kind == "house":
        ground = canvas.gradient(MEADOW) * np.float32(light.ambient)
    else:
        ground = canvas.gradient(light.sea, (canvas.y - HORIZON) / (1.0 - HORIZON))
    return np.where((canvas.y < HORIZON)[..., None], canvas.gradient(light.sky), ground)


def read_country(pixels, kind, time):
    """What stands in a picture.

    Args:
        pixels: float32 (GRID, GRID, 3), 0 to 255.
        kind: "house" or "boat", what is looked for.
        time: of day, whose light lies on all colours.

    Returns:
        A `Country`, or None where no house or boat is found.
    """
    view, forms = _View(pixels, kind, time), _forms()
    body, timber = forms[kind]
    fits = correlate(view.made_of(COLOURS.values(), 0.86, 1.14), body.weights)
    fits += correlate(view.made_of([TIMBER[kind]], 0.75, 1.25), timber.weights)
    fits[:, ~_reach(0.32, 0.6, 0.84)] = 0.0
    colour, row, column = np.unravel_index(fits.argmax(), fits.shape)
    if fits[colour, row, column] < FOUND[kind]:
        return None
    moved = (row - GRID // 2, column - GRID // 2)
    visible = ~np.roll(spread(body.inside | timber.inside, 2), moved, (0, 1))
    mountain = _mountain_fit(view, visible) > MOUNTAIN_FOUND
    tree = side = None
    if kind == "house":
        tree, tree_column = _tree(view, visible)
        side = ("left" if column < tree_column else "right") if tree else None
    return Country(list(COLOURS)[colour], tree, side, bool(mountain))


class _View:
    """A picture under the light of a time of day, and what lies behind everything in it."""

    def __init__(self, pixels, kind, time):
        self.pixels, light = pixels, LIGHTS[time]
        self._ambient = np.float32(light.ambient)
        empty = empty_country(kind, time)
        sunny = empty + light.glow * (255.0 - empty) * np.float32(light.orb) / 255.0
        cloudy = empty + 0.8 * (light.clouds - empty)
        self._behind = np.minimum(distance(pixels, empty, sunny), distance(pixels, empty, cloudy))

    def made_of(self, colours, darkest, lightest):
        """Where each colour, in shades between two factors, is the nearest and near enough.

        Returns:
            (colours, GRID, GRID) booleans; no pixel is true twice or where the backdrop is nearer.
        """
        apart = np.stack(
            [
                distance_to_shades(self.pixels, c * self._ambient, darkest, lightest)
                for c in np.float32(list(colours))
            ]
        )
        return (apart == apart.min(0)) & (apart < np.minimum(self._behind, CLOSE))


def _tree(view, visible):
    """The tree's kind and the column of its crown, or (None, None)."""
    forms = _forms()
    masks = view.made_of([*LEAVES.values(), *ROCK, *SNOW], 0.78, 1.22)[: len(LEAVES)] & visible
    fits = np.stack(
        [correlate(m, forms[kind].weights) for kind, m in zip(LEAVES, masks, strict=True)]
    )
    fits[:, ~_reach(0.36, 0.42, 0.72)] = 0.0
    kind, row, column = np.unravel_index(fits.argmax(), fits.shape)
    if fits[kind, row, column] < TREE_FOUND:
        return None, None
    return list(LEAVES)[kind], column


def _mountain_fit(view, visible):
    """How well a peak's two sides, one light and one dark, fit best: up to 2.

    Each counts where it belongs, less where the other does: a night sky is as dark as the right
    side, and so on both sides. What the house or the sails hide counts for neither.
    """
    sides = [_forms()[name].inside for name in ("left slope", "right slope")]
    seen = [np.maximum(correlate(visible, side), 0.15 * side.sum()) for side in sides]
    rock = view.made_of(ROCK, 0.94, 1.06) & visible
    (left_on_left, right_on_left), (left_on_right, right_on_right) = (
        correlate(rock, side) / count for side, count in zip(sides, seen, strict=True)
    )
    fit = left_on_left - left_on_right + right_on_right - right_on_left
    return fit[_reach(0.24, 0.42, 0.48)].max()


def _reach(across, top, bottom):
    """Places at most `across` from the middle column and between two heights."""
    canvas = Canvas(GRID)
    return (abs(canvas.x - 0.5) < across) & (canvas.y > top) & (canvas.y < bottom)


class _Form:
    """A form about the middle of the picture.

    Attributes:
        inside: (GRID, GRID) booleans.
        weights: whose sum with a mask is the share of the form that is covered, less half the
            share of its surroundings.
    """

    def __init__(self, inside, ignored=False):
        self.inside = inside
        core, ring = inside & ~ignored, spread(inside, 4) & ~spread(inside, 2) & ~ignored
        self.weights = core / core.sum() - 0.5 * ring / ring.sum()


@cache
def _forms():
    """The forms of `painting` at scale 1: (body, timber) of house and boat, crowns, slopes."""
    roof = [(-0.19, -0.1), (-0.1, -0.24), (0.1, -0.24), (0.19, -0.1)]
    holes = [box(0.0, 0.045, 0.035, 0.06)]  # door and windows
    holes += [box(x, -0.016, 0.036, 0.04) for x in (-0.093, 0.093)]
    walls = _Form(_drawn(box(0.0, 0.0, 0.155, 0.1)), _drawn(roof, *holes))
    main_sail = [(0.029, -0.34), (0.205, -0.035), (0.029, -0.035)]
    fore_sail = [(0.001, -0.31), (-0.125, -0.035), (0.001, -0.035)]
    hull = [(-0.2, 0.0), (0.21, 0.0), (0.14, 0.085), (-0.13, 0.085)]
    tiers = [(0.115, 0.18), (0.094, 0.095), (0.073, 0.01), (0.052, -0.075)]
    puffs = ((-0.07, 0.03, 0.075), (0.07, 0.03, 0.075), (0.0, -0.055, 0.085), (0.0, 0.04, 0.085))
    crown = Canvas(GRID).ellipses(*[(0.5 + x, 0.5 + y, r, r) for x, y, r in puffs]) > 0.5
    return {
        "house": (walls, _Form(_drawn(roof))),
        "boat": (_Form(_drawn(main_sail, fore_sail)), _Form(_drawn(hull))),
        "pine": _Form(_drawn(*[[(-w, y), (0.0, y - 0.15), (w, y)] for w, y in tiers])),
        "oak": _Form(crown),
        "cherry": _Form(crown),
        "left slope": _Form(_drawn([(-0.16, -0.07), (0.01, -0.07), (0.025, 0.07), (-0.29, 0.07)])),
        "right slope": _Form(_drawn([(0.03, -0.07), (0.16, -0.07), (0.29, 0.07), (0.045, 0.07)])),
    }


def _drawn(*outlines):
    return Canvas(GRID).polygons(*[np.add(outline, 0.5) for outline in outlines]) > 0.5
