"""The pictures that the demo model learns: what is in one, and how chance chooses it.

Three kinds: a house in the country, a boat at sea, and coloured shapes. Scenes are values; what
`None` leaves open, chance decides when the picture is drawn.
"""

from dataclasses import dataclass

from kerasdiff.demo.words import (
    BACKGROUNDS,
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    TIMES,
    TREES,
)


@dataclass(frozen=True)
class House:
    """A house in the country.

    Attributes:
        colour: of its walls.
        tree: kind of the tree beside it, or None for no tree.
        side: where the house stands seen from the tree, "left" or "right"; None leaves it open.
        mountain: whether there is one behind.
        time: of day, or None to leave it open.
    """

    colour: str
    tree: str | None = None
    side: str | None = None
    mountain: bool = False
    time: str | None = None


@dataclass(frozen=True)
class Boat:
    """A sailing boat on the sea: the colour of its sails, a mountain behind, the time of day."""

    colour: str
    mountain: bool = False
    time: str | None = None


@dataclass(frozen=True)
class Thing:
    """One coloured shape; size "small", "big" or None."""

    colour: str
    shape: str
    size: str | None = None


@dataclass(frozen=True)
class Shapes:
    """One or two shapes on a plain background.

    Attributes:
        things: one or two `Thing`s.
        relation: where the first lies seen from the second: "left", "right", "above", "below".
        background: its name, or None to leave it open.
    """

    things: tuple[Thing, ...]
    relation: str | None = None
    background: str | None = None


# How often chance chooses each kind.
MIXTURE = {"house": 0.27, "boat": 0.13, "one shape": 0.32, "two shapes": 0.28}


def random_scene(rng, held_out=False, kind=None):
    """A scene drawn by chance.

    Args:
        rng: a `numpy.random.Generator`.
        held_out: whether it is one of the combinations that training never sees, or None if it
            does not matter.
        kind: one of `MIXTURE`; None draws it.
    """
    kind = kind or rng.choice(list(MIXTURE), p=list(MIXTURE.values()))
    while True:
        scene = _MAKERS[kind](rng)
        if held_out is None or is_held_out(scene) == held_out:
            return scene


def is_held_out(scene):
    """Whether the scene is kept for tests, because of a combination of words in it."""
    if isinstance(scene, House):
        return (scene.colour, scene.tree) in HELD_OUT_HOUSES
    if isinstance(scene, Boat):
        return (scene.colour, scene.time) in HELD_OUT_BOATS
    return any((thing.colour, thing.shape) in HELD_OUT_THINGS for thing in scene.things)


HELD_OUT_HOUSES = {("blue", "cherry"), ("orange", "pine"), ("white", "oak")}
HELD_OUT_BOATS = {("purple", "night"), ("green", "sunset"), ("red", "dawn")}
HELD_OUT_THINGS = {("green", "star"), ("pink", "square"), ("orange", "heart"), ("blue", "triangle")}


def _house(rng):
    tree = _maybe(rng, TREES, 0.85)
    side = _maybe(rng, ("left", "right"), 0.5) if tree else None
    mountain = bool(rng.random() < 0.5)
    return House(_pick(rng, COLOURS), tree, side, mountain, _maybe(rng, TIMES, 0.9))


def _boat(rng):
    return Boat(_pick(rng, COLOURS), bool(rng.random() < 0.4), _maybe(rng, TIMES, 0.9))


def _one_shape(rng):
    background = _maybe(rng, BACKGROUNDS, 0.9)
    colour = _pick(rng, [name for name in COLOURS if name != background])
    thing = Thing(colour, _pick(rng, SHAPES), _maybe(rng, SIZES, 0.8))
    return Shapes((thing,), None, background)


def _two_shapes(rng):
    background = _maybe(rng, BACKGROUNDS, 0.7)
    colours = rng.permutation([name for name in COLOURS if name != background])[:2]
    shapes = rng.choice(SHAPES, 2)
    things = [Thing(str(c), str(s)) for c, s in zip(colours, shapes, strict=True)]
    return Shapes(tuple(things), _pick(rng, RELATIONS), background)


_MAKERS = {"house": _house, "boat": _boat, "one shape": _one_shape, "two shapes": _two_shapes}


def _pick(rng, names):
    return str(rng.choice(list(names)))


def _maybe(rng, names, chance):
    return _pick(rng, names) if rng.random() < chance else None
