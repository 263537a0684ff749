"""The judge says no to pictures of other scenes and to what is no picture of its world."""

from dataclasses import replace

import numpy as np
import pytest
from judge_cases import BLUE_HEART, RED_STAR

from kerasdiff.demo.judge import CATEGORIES, judge
from kerasdiff.demo.painting import paint
from kerasdiff.demo.reading import Reading, read
from kerasdiff.demo.scenes import Boat, House, Shapes, Thing, random_scene
from kerasdiff.demo.words import BACKGROUNDS, COLOURS, OPPOSITE, RELATIONS, SHAPES, TIMES, TREES

# Judged by another scene, a category is right where the two scenes agree, only there.


def stated(rng, kind):
    """A scene that leaves nothing open."""
    scene = random_scene(rng, held_out=None, kind=kind)
    if kind == "house":
        scene = replace(scene, time=scene.time or "day")
        return replace(scene, side=scene.side or "left") if scene.tree else scene
    if kind == "boat":
        return replace(scene, time=scene.time or "dawn")
    things = tuple(replace(t, size=t.size or "big") for t in scene.things)
    free = [name for name in BACKGROUNDS if name not in [thing.colour for thing in things]]
    things = things if kind == "one shape" else scene.things
    return replace(scene, things=things, background=scene.background or free[-1])


def varied(scene, rng):
    """A near miss: about half of what a scene states is drawn again."""

    def maybe(old, names):
        return str(rng.choice(list(names))) if rng.random() < 0.5 else old

    if isinstance(scene, House | Boat):
        new = replace(scene, colour=maybe(scene.colour, COLOURS), time=maybe(scene.time, TIMES),
                      mountain=bool(rng.random() < 0.5))  # fmt: skip
        if isinstance(scene, House) and scene.tree:
            side = maybe(scene.side, ("left", "right"))
            new = replace(new, tree=maybe(scene.tree, TREES), side=side)
            if rng.random() < 0.1:
                new = replace(new, tree=None, side=None)
        return new
    colours = [name for name in COLOURS if name != "white"]
    things = [replace(thing, shape=maybe(thing.shape, SHAPES)) for thing in scene.things]
    if rng.random() < 0.5:
        names = rng.permutation(colours)
        things = [replace(t, colour=str(c)) for t, c in zip(things, names, strict=False)]
    if len(things) == 1:
        things = [replace(things[0], size=maybe(things[0].size, ("small", "big")))]
        return Shapes(tuple(things), None, maybe(scene.background, ("black", "gray", "teal")))
    relation = maybe(scene.relation, RELATIONS)
    return Shapes(tuple(things), relation, maybe(scene.background, ("black", "gray", "teal")))


def agreement(asked, drawn):
    """Category to whether two scenes of a kind that leave nothing open say the same."""
    if isinstance(asked, House | Boat):
        same = {name: getattr(asked, name) == getattr(drawn, name)
                for name in ("time", "colour", "mountain")}  # fmt: skip
        if isinstance(asked, House):
            same["tree"] = asked.tree == drawn.tree
            if asked.side:
                same["axis"] = asked.side == drawn.side
        return same
    same = {"background": asked.background == drawn.background}
    if len(asked.things) == 1:
        (one,), (other,) = asked.things, drawn.things
        same |= {"shape": one.shape == other.shape, "size": one.size == other.size}
        return same | {"object colour": one.colour == other.colour}
    turned = Shapes(drawn.things[::-1], OPPOSITE[drawn.relation])
    ways = [(way.things, way.relation) for way in (drawn, turned)]
    same["pair"] = (asked.things, asked.relation) in ways
    colours = [thing.colour for thing in asked.things]
    for things, relation in ways:
        if [thing.colour for thing in things] == colours:
            shapes = [thing.shape for thing in asked.things]
            return same | {"pair colours": True, "axis": relation == asked.relation,
                           "pair shapes": [thing.shape for thing in things] == shapes}  # fmt: skip
    return same | {"pair colours": False}


def test_another_scene_is_right_exactly_where_the_two_agree():
    rng = np.random.default_rng(5)
    hits, yes, counts = {}, {}, {}
    for i in range(480):
        asked = stated(rng, ("house", "boat", "one shape", "two shapes")[i % 4])
        drawn = varied(asked, rng)
        verdict = judge(paint(drawn, rng), asked)
        assert verdict["scene"]
        for category, same in agreement(asked, drawn).items():
            counts[category] = counts.get(category, 0) + 1
            yes[category] = yes.get(category, 0) + same
            hits[category] = hits.get(category, 0) + (verdict[category] == same)
    assert set(counts) == set(CATEGORIES) - {"scene"}
    for category, count in counts.items():
        assert hits[category] >= 0.98 * count, category
        assert 0.05 < yes[category] / count < 0.95, category  # both answers are asked for


@pytest.mark.parametrize("asked, drawn", [
    (House("red"), Boat("red")),
    (Boat("red"), House("red")),
    (Shapes((RED_STAR,)), House("red")),
    (House("red", None, None, False, "day"), Shapes((RED_STAR,))),
])  # fmt: skip
def test_nothing_is_right_in_a_picture_of_another_kind(asked, drawn):
    assert not any(judge(paint(drawn, np.random.default_rng(0)), asked).values())


# What is no picture of the demo's world.


def all_asked():
    """A scene of each kind, stating everything."""
    yield House("red", "oak", "left", True, "day")
    yield House("white", None, None, False, "night")
    yield Boat("blue", False, "dawn")
    yield Shapes((Thing("red", "circle", "big"),), None, "black")
    yield Shapes((RED_STAR, BLUE_HEART), "left", "white")


@pytest.mark.parametrize("sigma", [20, 60, 120])
def test_noise_is_nothing(sigma):
    rng = np.random.default_rng(6)
    for _ in range(10):
        noise = np.uint8(np.clip(rng.normal(128.0, sigma, (128, 128, 3)), 0, 255))
        assert read(noise) == Reading()
        for scene in all_asked():
            assert not any(judge(noise, scene).values())


@pytest.mark.parametrize("colour", [*COLOURS.values(), *BACKGROUNDS.values(), (0, 0, 0)])
def test_one_colour_is_nothing(colour):
    assert read(np.full((128, 128, 3), colour, np.uint8)) == Reading()


def test_an_empty_background_is_nothing():
    canvas = paint(Shapes((), None, "teal"), np.random.default_rng(0))
    assert read(canvas) == Reading()


@pytest.mark.parametrize("mix", ["beside", "blended"])
def test_halves_of_two_kinds_are_neither(mix):
    rng = np.random.default_rng(7)
    for _ in range(40):
        kinds = rng.permutation(["house", "boat", "shapes"])[:2]
        scenes = [stated(rng, "two shapes" if kind == "shapes" else kind) for kind in kinds]
        if "shapes" not in kinds:
            scenes[1] = replace(scenes[1], time=next(t for t in TIMES if t != scenes[0].time))
        first, second = (paint(scene, rng) for scene in scenes)
        if mix == "beside":
            picture = np.concatenate([first[:, :64], second[:, 64:]], 1)
        else:
            picture = np.uint8((first.astype("int") + second) // 2)
        for scene in scenes:
            verdict = judge(picture, scene)
            assert sum(verdict.values()) < len(verdict) / 2, (scene, verdict)
