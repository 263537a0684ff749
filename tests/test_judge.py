"""The judge reads painted pictures right, damaged ones too, and says no where it should."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from kerasdiff.demo.drawing import Canvas
from kerasdiff.demo.judge import CATEGORIES, compare, judge, score, table
from kerasdiff.demo.painting import OUTLINES, paint
from kerasdiff.demo.reading import Reading, Seen, read
from kerasdiff.demo.scenes import Boat, House, Shapes, Thing, random_scene
from kerasdiff.demo.words import BACKGROUNDS, COLOURS, OPPOSITE, RELATIONS, SHAPES, TIMES, TREES

RED_STAR, BLUE_HEART = Thing("red", "star"), Thing("blue", "heart")


def painted(count, seed, size=128):
    """Scenes and their pictures."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, held_out=None) for _ in range(count)]
    return scenes, [paint(scene, rng, size) for scene in scenes]


def damaged(picture, rng):
    """Slightly blurred, brighter or darker, noisy, and through JPEG."""
    soft = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.7))
    values = np.asarray(soft, "float32") * rng.uniform(0.96, 1.04)
    values = np.clip(values + rng.normal(0.0, 4.0, values.shape), 0.0, 255.0)
    data = io.BytesIO()
    Image.fromarray(np.uint8(values)).save(data, "JPEG", quality=75)
    return np.asarray(Image.open(data))


def shares(counts):
    return {category: right / counted for category, (right, counted) in counts.items()}


# It is right about painted pictures.


def test_every_category_is_right_in_painted_pictures():
    scenes, pictures = painted(300, seed=0)
    result = shares(score(pictures, scenes))
    assert tuple(result) == CATEGORIES
    assert min(result.values()) >= 0.98, result


def test_every_category_is_right_in_damaged_pictures():
    scenes, pictures = painted(300, seed=1)
    rng = np.random.default_rng(2)
    result = shares(score([damaged(picture, rng) for picture in pictures], scenes))
    assert tuple(result) == CATEGORIES
    assert min(result.values()) >= 0.95, result


@pytest.mark.parametrize("size", [64, 100, 256, 512])
def test_every_size_of_picture_can_be_judged(size):
    scenes, pictures = painted(30, seed=3, size=size)
    result = shares(score(pictures, scenes))
    assert min(result.values()) >= 0.95, result


def test_what_a_scene_leaves_open_is_not_judged():
    rng = np.random.default_rng(4)
    for scene, categories in (
        (House("red"), {"scene", "colour", "tree", "mountain"}),
        (House("red", "oak", "left", True, "day"),
         {"scene", "colour", "tree", "mountain", "time", "axis"}),
        (Boat("blue"), {"scene", "colour", "mountain"}),
        (Shapes((RED_STAR,)), {"scene", "object colour", "shape"}),
        (Shapes((Thing("red", "star", "big"),), None, "teal"),
         {"scene", "object colour", "shape", "size", "background"}),
        (Shapes((RED_STAR, BLUE_HEART), "left"),
         {"scene", "axis", "pair colours", "pair shapes", "pair"}),
    ):  # fmt: skip
        verdict = judge(paint(scene, rng), scene)
        assert set(verdict) == categories and all(verdict.values())


# It says no: judged by another scene, a category is right where the two scenes agree, only there.


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


# It says no to what is no picture of the demo's world.


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


# It says no to malformed things.


def on_gray(*forms):
    """A picture of polygons, each (outline, colour, middle, radius), on the gray background."""
    canvas = Canvas(128)
    canvas.pixels[:] = BACKGROUNDS["gray"]
    for outline, colour, middle, radius in forms:
        canvas.paint(canvas.polygons(np.multiply(outline, radius) + middle), colour)
    return canvas.to_uint8()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_itself_and_not_when_half_of_it_is_missing(shape):
    outline, red = OUTLINES[shape], COLOURS["red"]
    whole = on_gray((outline, red, (0.5, 0.5), 0.3))
    assert [thing.shape for thing in read(whole).things] == [shape]
    whole[:, 64:] = whole[0, 0]
    assert [thing.shape for thing in read(whole).things] == [None]


@pytest.mark.parametrize("outline", [
    [(-1.0, -0.3), (1.0, -0.3), (1.0, 0.3), (-1.0, 0.3)],  # a bar
    [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3),
     (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)],  # a cross
    [(0.0, 0.95), (1.02, -0.8), (-1.02, -0.8)],  # a triangle upside down
])  # fmt: skip
def test_other_forms_have_no_name(outline):
    (thing,) = read(on_gray((outline, COLOURS["red"], (0.5, 0.5), 0.3))).things
    assert thing.colour == "red" and thing.shape is None


def test_a_colour_without_a_name_is_none():
    (thing,) = read(on_gray((OUTLINES["circle"], (30, 30, 30), (0.5, 0.5), 0.3))).things
    assert thing.colour is None and thing.shape == "circle"


def test_size_is_told_by_radius_for_every_shape():
    for shape in SHAPES:
        for radius, size in ((0.13, "small"), (0.2, "small"), (0.25, "big"), (0.33, "big")):
            picture = on_gray((OUTLINES[shape], COLOURS["red"], (0.5, 0.5), radius))
            assert read(picture).things[0].size == size


def test_one_thing_too_many_or_too_few_is_wrong():
    star = (OUTLINES["star"], COLOURS["red"], (0.25, 0.5), 0.18)
    heart = (OUTLINES["heart"], COLOURS["blue"], (0.75, 0.5), 0.18)
    third = (OUTLINES["circle"], COLOURS["white"], (0.5, 0.15), 0.1)
    asked = Shapes((RED_STAR, BLUE_HEART), "left", "gray")
    assert all(judge(on_gray(star, heart), asked).values())
    for forms in ((star,), (heart,), (star, heart, third)):
        verdict = judge(on_gray(*forms), asked)
        assert [name for name, right in verdict.items() if right] == ["scene", "background"]
    verdict = judge(on_gray(star, heart), Shapes((RED_STAR,), None, "gray"))
    assert not verdict["object colour"] and not verdict["shape"]


def test_specks_are_no_things():
    specks = [(OUTLINES["square"], COLOURS["green"], (x, 0.2), 0.03) for x in (0.2, 0.5, 0.8)]
    star = (OUTLINES["star"], COLOURS["red"], (0.5, 0.6), 0.2)
    assert all(judge(on_gray(star, *specks), Shapes((RED_STAR,), None, "gray")).values())


@pytest.mark.parametrize("scene", [House("red", None, None, True, "day"), Boat("red", True, "day")])
def test_a_country_without_house_or_boat_has_only_a_time(scene):
    picture = paint(scene, np.random.default_rng(8))
    other = paint(scene, np.random.default_rng(9))
    kind = "house" if isinstance(scene, House) else "boat"
    assert read(picture).kind == read(other).kind == kind
    rows = np.arange(128)
    picture[:] = (
        picture[rows, :2].mean(1, keepdims=True).astype(np.uint8)
    )  # its left edge, drawn out
    assert read(picture) == Reading(time="day")
    verdict = judge(picture, scene)
    assert [name for name, right in verdict.items() if right] == ["time"]


# Comparing.


def things(*rows):
    return Reading(
        "shapes", background="gray", things=tuple(Seen(c, s, "small", m) for c, s, m in rows)
    )


LEFT, RIGHT = (0.3, 0.5), (0.7, 0.6)


@pytest.mark.parametrize("reading, colours, shapes, axis", [
    (things(("red", "star", LEFT), ("blue", "heart", RIGHT)), True, True, True),
    (things(("blue", "heart", RIGHT), ("red", "star", LEFT)), True, True, True),
    (things(("red", "star", RIGHT), ("blue", "heart", LEFT)), True, True, False),
    (things(("red", "heart", LEFT), ("blue", "star", RIGHT)), True, False, True),
    (things(("pink", "star", LEFT), ("blue", "heart", RIGHT)), False, True, True),
    (things(("pink", "star", LEFT), ("green", "heart", RIGHT)), False, True, True),
    (things(("pink", "circle", LEFT), ("green", "circle", RIGHT)), False, False, False),
    (things(("red", None, LEFT), ("blue", "heart", RIGHT)), True, False, True),
])  # fmt: skip
def test_two_things_are_taken_in_the_order_asked_for(reading, colours, shapes, axis):
    verdict = compare(reading, Shapes((RED_STAR, BLUE_HEART), "left", "gray"))
    assert verdict == {
        "scene": True, "background": True, "pair colours": colours, "pair shapes": shapes,
        "axis": axis, "pair": colours and shapes and axis,
    }  # fmt: skip


def test_a_score_counts_what_scenes_state_and_a_table_shows_it():
    scenes = [Boat("red", False, "day"), Boat("blue")]
    pictures = [paint(scenes[0], np.random.default_rng(i)) for i in range(2)]
    result = score(pictures, scenes)
    assert result == {"scene": (2, 2), "time": (1, 1), "colour": (1, 2), "mountain": (2, 2)}
    assert table(result).splitlines()[2].split() == ["colour", "50.0", "%", "1", "of", "2"]
    assert score([], []) == {} and table({}) == ""


# Bad input.


@pytest.mark.parametrize("picture", [
    np.zeros((128, 128, 3), "float32"),
    np.zeros((128, 128), np.uint8),
    np.zeros((128, 128, 4), np.uint8),
    np.zeros((128, 64, 3), np.uint8),
    np.zeros((1, 128, 128, 3), np.uint8),
    np.zeros((63, 63, 3), np.uint8),
    np.zeros((0, 0, 3), np.uint8),
])  # fmt: skip
def test_only_square_pictures_of_bytes_are_read(picture):
    with pytest.raises(ValueError, match="picture: expected"):
        read(picture)


def test_a_scene_must_be_one():
    with pytest.raises(
        ValueError, match="scene: expected a House, Boat or Shapes, received 'a red"
    ):
        judge(np.zeros((64, 64, 3), np.uint8), "a red house")


def test_a_score_needs_a_scene_for_each_picture():
    with pytest.raises(ValueError, match="one for each of 1 pictures, received 2"):
        score([np.zeros((64, 64, 3), np.uint8)], [Boat("red"), Boat("blue")])


def test_reading_leaves_the_picture_as_it_is():
    picture = paint(House("red"), np.random.default_rng(0))
    picture.flags.writeable = False
    assert read(picture).colour == "red"
