"""The demo's scenes, captions, pictures and vocabulary."""

import numpy as np
import pytest

from kerasdiff.demo.captions import all_words, caption
from kerasdiff.demo.command import random_captions
from kerasdiff.demo.data import DemoScenes
from kerasdiff.demo.painting import paint
from kerasdiff.demo.scenes import MIXTURE, Boat, House, Shapes, Thing, is_held_out, random_scene
from kerasdiff.demo.vocabulary import demo_tokenizer, learn_merges
from kerasdiff.demo.words import COLOURS, SHAPES

RED_HOUSE = House("red", "pine", "left", True, "sunset")


def scenes(count, **options):
    rng = np.random.default_rng(0)
    return [random_scene(rng, **options) for _ in range(count)]


def test_training_never_sees_what_is_held_out():
    assert not any(map(is_held_out, scenes(500)))
    assert all(map(is_held_out, scenes(100, held_out=True)))


def test_every_kind_is_drawn_as_often_as_the_mixture_says():
    kinds = {House: "house", Boat: "boat"}
    drawn = [
        kinds.get(type(scene)) or ("one shape", "two shapes")[len(scene.things) - 1]
        for scene in scenes(2000, held_out=None)
    ]
    for kind, share in MIXTURE.items():
        assert abs(drawn.count(kind) / 2000 - share) < 0.04


def test_the_grid_shows_each_kind_in_turn():
    captions = random_captions(40, seed=2)
    kinds = ["house" if "house" in text else "boat" if "boat" in text else "" for text in captions]
    assert kinds == ["house", "boat", "", ""] * 10


def test_every_word_is_known_to_captions_and_every_caption_to_the_words():
    rng = np.random.default_rng(1)
    said = set()
    for scene in scenes(3000, held_out=None):
        said |= set(caption(scene, rng).replace(",", " ,").split())
    assert said - {","} == set(all_words())


@pytest.mark.parametrize(
    "scene, text",
    [
        (RED_HOUSE, "a red house to the left of a pine tree near a mountain at sunset"),
        (House("orange"), "an orange house"),
        (House("blue", "oak"), "a blue house and an oak tree"),
        (Boat("red", True, "night"), "a boat with red sails on the sea near a mountain at night"),
        (Shapes((Thing("red", "star", "big"),)), "a big red star"),
        (
            Shapes((Thing("red", "star"), Thing("orange", "heart")), "above", "gray"),
            "a red star above an orange heart on a gray background",
        ),
    ],
)  # fmt: skip
def test_the_plainest_caption_says_all_that_a_scene_says(scene, text):
    assert caption(scene) == text


def test_a_caption_may_turn_a_relation_round_but_not_its_meaning():
    rng = np.random.default_rng(0)
    texts = {caption(House("red", "pine", "left"), rng) for _ in range(100)}
    assert any("house to the left of a pine" in text for text in texts)
    assert any("pine tree to the right of a red house" in text for text in texts)
    assert not any("house to the right" in text or "tree to the left" in text for text in texts)


def test_pictures_depend_on_scene_and_seed_alone():
    first, again = (paint(RED_HOUSE, np.random.default_rng(3)) for _ in range(2))
    other = paint(RED_HOUSE, np.random.default_rng(4))
    assert first.shape == (128, 128, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 3


@pytest.mark.parametrize("size", [64, 96, 256])
def test_a_scene_looks_the_same_at_every_size(size):
    for scene in scenes(8, held_out=None):
        small = paint(scene, np.random.default_rng(5), 64).astype("float32")
        large = paint(scene, np.random.default_rng(5), size).astype("float32")
        blocks = [picture.reshape(8, len(picture) // 8, 8, -1, 3) for picture in (small, large)]
        averages = [block.mean((1, 3)) for block in blocks]
        assert np.abs(averages[0] - averages[1]).max() < 12


def test_edges_are_smooth():
    picture = paint(Shapes((Thing("white", "circle", "big"),), None, "black"), _rng()).astype(int)
    row = np.unique(picture[..., 0])
    assert len(row) > 60  # many greys between black and white, not two


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_a_shape_has_its_colour_in_the_middle(colour, shape):
    background = "black" if colour == "white" else "white"
    rng = np.random.default_rng(1)
    scene = Shapes((Thing(colour, shape, "big"), Thing(colour, shape)), "left", background)
    picture = paint(scene, rng).reshape(-1, 3).astype(int)
    near = np.abs(picture - COLOURS[colour]).max(-1) < 40
    assert 0.06 < near.mean() < 0.4


def test_the_source_gives_the_same_item_whatever_its_length_and_order():
    long, short = DemoScenes(100, 64), DemoScenes(3, 64, keep=True)
    for i in (2, 0, 1, 2):
        np.testing.assert_array_equal(long[i][0], short[i][0])
        assert long[i][1] == short[i][1]
    assert long.sizes == [(64, 64)] * 100 and not long.skipped
    with pytest.raises(IndexError):
        short[3]


def test_each_word_is_one_token_and_other_text_falls_into_bytes():
    tokenizer = demo_tokenizer(all_words(), 40)
    for scene in scenes(200, held_out=None):
        text = caption(scene)
        assert len(tokenizer.encode(text)) == len(text.split()) + 2
    ids = tokenizer.encode("an astronaut, grün")
    assert tokenizer.decode(ids[1:-1]) == "an astronaut , grün"
    assert tokenizer.vocab_size < 700


def test_merges_make_every_word_whole():
    assert learn_merges(["aa"]) == [("a", "a</w>")]
    # "ab" twice over, before anything that occurs once
    assert learn_merges(["abab", "abc"])[0] == ("a", "b")


def _rng():
    return np.random.default_rng(0)
