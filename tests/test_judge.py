"""The judge reads painted pictures right, damaged ones too, and says no to malformed things."""

import io

import numpy as np
import pytest
from judge_cases import BLUE_HEART, RED_STAR
from PIL import Image, ImageFilter

from kerasdiff.demo.drawing import Canvas
from kerasdiff.demo.judge import CATEGORIES, compare, judge, score, table
from kerasdiff.demo.painting import OUTLINES, paint
from kerasdiff.demo.reading import Reading, Seen, read
from kerasdiff.demo.scenes import Boat, House, Shapes, Thing, random_scene
from kerasdiff.demo.words import BACKGROUNDS, COLOURS, SHAPES


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
