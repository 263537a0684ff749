"""What captions say, and a text encoder that learns to tell."""

import keras
import numpy as np
import pytest

from kerasdiff.configs import TextEncoderConfig
from kerasdiff.demo.lesson import (
    HUES,
    KINDS,
    PLACES,
    TINTS,
    UNTOLD,
    Captions,
    Reader,
    lesson_loss,
    lesson_score,
    places,
)
from kerasdiff.demo.recipe import TOKENIZER
from kerasdiff.demo.scenes import Boat, House, Shapes, Thing
from kerasdiff.text_encoder import TextEncoder

CIRCLE, BLUE = Thing("red", "circle"), Thing("blue", "star")
STAR = Thing("blue", "star", "big")


@pytest.mark.parametrize(
    "scene, wanted",
    [
        (Shapes((CIRCLE, BLUE), "left"), {"left": ("circle", "red"), "right": ("star", "blue")}),
        (Shapes((CIRCLE, BLUE), "below"), {"below": ("circle", "red"), "above": ("star", "blue")}),
        (Shapes((CIRCLE,)), {"alone": ("circle", "red")}),
        (Boat("white"), {"alone": ("boat", "white")}),
        (House("pink"), {"alone": ("house", "pink")}),
        (
            House("pink", mountain=True, time="dawn"),
            {"alone": ("house", "pink"), "behind": ("mountain", "none"), "sky": ("dawn", "none")},
        ),
        (
            Shapes((STAR,), background="teal"),
            {"alone": ("star", "blue"), "ground": ("nothing", "teal"), "size": ("big", "none")},
        ),
        (House("pink", "oak", "right"), {"right": ("house", "pink"), "left": ("oak", "none")}),
    ],
)
def test_places_hold_what_the_caption_says(scene, wanted):
    told = places(scene)
    assert told.shape == (9, 2)
    for place, (kind, hue) in zip(PLACES, told, strict=True):
        assert (KINDS[kind], HUES[hue]) == wanted.get(place, ("nothing", "none"))


def test_what_is_not_said_is_not_told():
    told = places(House("pink", "oak", time="day"))
    assert (told[:4] == UNTOLD).all() and (told[4] == 0).all()
    assert KINDS[told[PLACES.index("sky"), 0]] == "day"


def test_batches_differ_and_go_on_where_a_run_stopped():
    first, others = Captions(TOKENIZER, 4, 3), Captions(TOKENIZER, 4, 2, start=1)
    assert len(first) == 3 and not np.array_equal(first[0][0], first[1][0])
    for one, other in zip(first[1], others[0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_scores_count_what_is_told():
    told = np.stack([places(Shapes((CIRCLE, STAR), "left")), places(House("pink", "oak"))])
    known = np.maximum(told, 0)
    logits = [20.0 * np.eye(len(KINDS))[known[..., 0]], 20.0 * np.eye(len(HUES))[known[..., 1]]]
    sure = np.concatenate([*logits, TINTS[known[..., 1]]], -1, dtype="float32")
    assert float(lesson_score(told, sure)) == 1.0
    assert float(lesson_loss(told, sure)) < 1e-3
    sure[0, 0] = -sure[0, 0]
    assert float(lesson_score(told, sure)) == pytest.approx(13 / 14)
    assert float(lesson_loss(told, sure)) > 1.0


def test_colours_are_asked_for_as_colours():
    told = places(Shapes((CIRCLE,)))[None]
    answers = np.zeros((1, 9, len(KINDS) + len(HUES) + 3), "float32")
    answers[..., -3:] = TINTS[told[..., 1]]
    least = float(lesson_loss(told, answers))
    answers[0, PLACES.index("alone"), -3:] = TINTS[HUES.index("blue")]
    wrong = np.mean((TINTS[HUES.index("blue")] - TINTS[HUES.index("red")]) ** 2)
    assert float(lesson_loss(told, answers)) - least == pytest.approx(wrong / 9, rel=1e-4)


def test_a_text_encoder_learns():
    keras.utils.set_random_seed(0)
    config = TextEncoderConfig(
        vocab_size=TOKENIZER.vocab_size, max_length=40, width=32, depth=1, heads=2, mlp_width=64
    )
    reader = Reader(TextEncoder(config))
    reader.compile(keras.optimizers.Adam(3e-3), lesson_loss, jit_compile=False)
    captions = Captions(TOKENIZER, 32, 60)
    losses = [float(reader.train_on_batch(*captions[i])) for i in range(60)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
