"""The shipped model, by meaning: what it draws, and what each task keeps and changes.

The judge (`kerasdiff.demo.judge`) says what is right in a picture. The scores here are a guard, of
few pictures each; `tests/meaning` takes the full exam.
"""

from dataclasses import replace

import numpy as np
import pytest

from kerasdiff.checkpoints.presets import find
from kerasdiff.demo.captions import caption
from kerasdiff.demo.exam import examine
from kerasdiff.demo.judge import judge
from kerasdiff.demo.painting import paint
from kerasdiff.demo.reading import read
from kerasdiff.demo.scenes import House, Shapes, Thing
from kerasdiff.stable_diffusion import StableDiffusion

COLOURS = ("red", "blue", "yellow", "purple", "white", "orange")


@pytest.fixture(scope="module")
def model():
    return StableDiffusion.from_preset("demo")


def shares(pictures, scenes):
    """Category to the share of pictures in which it is right."""
    verdicts = [judge(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]
    names = {name for verdict in verdicts for name in verdict}
    return {name: np.mean([v[name] for v in verdicts if name in v]) for name in names}


def painted(scenes):
    return np.stack([paint(scene, np.random.default_rng(i)) for i, scene in enumerate(scenes)])


def test_the_folder_is_whole_and_small():
    folder = find("demo")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    names = {str(path.relative_to(folder)) for path in files}
    assert {"README.md", "model_index.json", "unet/diffusion_pytorch_model.safetensors"} <= names
    assert all(path.suffix in (".md", ".json", ".txt", ".safetensors") for path in files)


def test_it_wants_few_steps_and_little_guidance(model):
    assert (model.config.num_steps, model.config.guidance_scale) == (10, 3.0)
    assert model.config.image_size == (128, 128)


def test_it_draws_what_it_is_asked_for(model):
    score, pictures, _ = examine(model, count=60)
    assert pictures.shape == (60, 128, 128, 3)
    right, asked = score["scene"]
    assert right >= 0.95 * asked, score
    for category in ("time", "background", "tree", "object colour", "size", "axis"):
        right, asked = score[category]
        assert right >= 0.9 * asked, score
    for category in ("shape", "pair"):
        right, asked = score[category]
        assert right >= 0.85 * asked, score


def test_image_to_image_keeps_the_layout_and_changes_the_colour(model):
    before = [
        House(COLOURS[i % 6], ("pine", "oak", "cherry")[i % 3], ("left", "right")[i // 2 % 2],
              bool(i % 2), ("day", "sunset")[i // 3 % 2])
        for i in range(12)
    ]  # fmt: skip
    after = [replace(scene, colour=COLOURS[(i + 3) % 6]) for i, scene in enumerate(before)]
    pictures = model.image_to_image(
        [caption(scene) for scene in after], painted(before), strength=0.7, seed=0
    )
    right = shares(pictures, after)
    assert right.pop("colour") >= 0.8
    assert min(right.values()) >= 0.8, right


def inpainted(model, **options):
    """Circles beside squares, and beside the hearts that take the squares' place."""
    first = [Thing(colour, "circle") for colour in COLOURS]
    before = [Shapes((thing, Thing("green", "square")), "left", "black") for thing in first]
    after = [Shapes((thing, Thing("pink", "heart")), "left", "black") for thing in first]
    pictures, mask = painted(before), np.zeros((128, 128), "uint8")
    mask[:, 64:] = 255
    texts = [caption(scene) for scene in after]
    return pictures, model.inpaint(texts, pictures, mask, seed=0, **options), mask, after


def test_inpainting_paints_what_is_asked_for_and_leaves_the_rest(model):
    pictures, raw, mask, asked = inpainted(model, overlay=False)
    _, results, _, _ = inpainted(model)
    np.testing.assert_array_equal(results[:, :, :64], pictures[:, :, :64])
    np.testing.assert_array_equal(results[:, :, 64:], raw[:, :, 64:])
    for ones in (raw, results):
        right = shares(ones, asked)
        assert right["pair colours"] >= 0.8 and right["scene"] == 1.0, right


def kept_error(pictures, results):
    """Of what the mask keeps, of 255; the decoder sees some 20 pixels across the border."""
    return np.abs(np.float32(results) - pictures)[:, :, :40].mean()


def encoded(model, pictures):
    noise = np.zeros((len(pictures), 16, 16, 4), "float32")
    return model.encode_pictures(np.float32(pictures) / 127.5 - 1.0, noise)


@pytest.mark.xfail(strict=True, reason="latents know the whole picture: 1.6 of 255 beside 1.2")
def test_without_overlay_the_rest_stays_within_the_autoencoders_own_error(model):
    pictures, results, _, _ = inpainted(model, overlay=False)
    own = model.decode(encoded(model, pictures))
    assert kept_error(pictures, results) <= 1.1 * kept_error(pictures, own)


def test_without_overlay_more_is_kept_than_by_latents_of_two_pictures_side_by_side(model):
    """Latents of one half know the other: beside another picture's the kept half is 2.2 off."""
    pictures, results, mask, asked = inpainted(model, overlay=False)
    new = mask[::8, ::8, None] > 0
    mixed = np.where(new, encoded(model, painted(asked)), encoded(model, pictures))
    assert kept_error(pictures, results) <= kept_error(pictures, model.decode(mixed))


def test_a_negative_prompt_pushes_away(model):
    def boats_and_nights(negative):
        pictures = model.text_to_image(
            "a boat with red sails at sea", negative, batch_size=24, seed=0
        )
        readings = [read(picture) for picture in pictures]
        return (
            sum(reading.kind == "boat" for reading in readings),
            sum(reading.time == "night" for reading in readings),
        )

    (boats, nights), (boats_still, fewer) = boats_and_nights(None), boats_and_nights("at night")
    assert fewer < nights and boats_still >= boats
