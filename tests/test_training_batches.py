"""Batches follow from seed and step alone; what is drawn is distributed as it should be."""

from dataclasses import replace

import numpy as np
import pytest
from training_cases import CONFIG, networks, write_pictures

from kerasdiff.clip_tokenizer import SimpleTokenizer
from kerasdiff.training.data.batches import AutoencoderDraw, Batches, DiffusionDraw
from kerasdiff.training.data.cached import cache_moments
from kerasdiff.training.data.captions import Truncating
from kerasdiff.training.data.lists import Pictures, Several
from kerasdiff.training.data.pictures import PictureFolder
from kerasdiff.training.textual_inversion import InversionSource


class Source:
    """Seven pictures in two sizes, recognised by their first pixel."""

    sizes = [(16, 16)] * 4 + [(8, 32)] * 3

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        return np.full((*self.sizes[i], 3), i, "uint8"), f"picture {i}"


class Letters:
    """A tokenizer with a token a letter."""

    def pack(self, text):
        return np.array([len(text)] * 4, "int32")


def draw(config=CONFIG, **options):
    return DiffusionDraw([Letters()], config, **options)


def batches(batch_size=2, seed=5, drawer=None, **options):
    return Batches(Source(), batch_size, drawer or draw(), seed, **options)


def same(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_a_batch_is_a_function_of_seed_and_step():
    ones = [batches()[step][0] for step in range(12)]  # three epochs
    again = batches()
    for step in (7, 11, 0, 3, 8, 7, 4):  # in any order
        assert same(again[step][0], ones[step])
    later = batches(start=6)
    assert all(same(later[i][0], ones[6 + i]) for i in range(6))
    other = batches(seed=6)
    assert not any(same(other[step][0], ones[step]) for step in range(4))
    assert not same(ones[0], ones[4])  # epochs differ


def test_every_epoch_shows_every_picture_in_batches_of_one_size():
    data = batches()
    assert data.steps_per_epoch == 4 and data.num_batches is None
    for epoch in range(3):
        seen = [data[4 * epoch + i][0]["pictures"] for i in range(4)]
        assert {int(row[0, 0, 0]) for pictures in seen for row in pictures} == set(range(7))
        assert {pictures.shape for pictures in seen} == {(2, 16, 16, 3), (2, 8, 32, 3)}


def test_parts_of_a_batch_make_the_whole():
    whole = batches(4)[3][0]
    parts = [batches(4, part=(i, 2))[3][0] for i in range(2)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in whole}
    assert same(joined, whole)


@pytest.mark.parametrize("size, part", [(0, (0, 1)), (-1, (0, 1)), (3, (0, 2))])
def test_sizes_that_do_not_work_are_refused(size, part):
    with pytest.raises(ValueError, match="`batch_size` must be a multiple"):
        batches(size, part=part)


def rows(count, drawer, source=None):
    source = source or Source()
    rng = np.random.default_rng(0)
    drawn = [drawer(source[0], rng, (i, count)) for i in range(count)]
    return {name: np.stack([row[name] for row in drawn]) for name in drawn[0]}


def test_shapes_and_dtypes():
    batch = batches()[0][0]
    height, width = batch["pictures"].shape[1:3]
    latent = (2, height // 2, width // 2, 4)
    assert batch["noise"].shape == batch["posterior_noise"].shape == latent
    assert batch["noise"].dtype == np.float32 and batch["pictures"].dtype == np.uint8
    assert batch["timesteps"].shape == (2,) and batch["timesteps"].dtype == np.int32
    assert batch["tokens"].shape == (2, 4) and batch["tokens"].dtype == np.int32


def test_timesteps_are_spread_over_the_batch():
    steps = rows(500, draw())["timesteps"]
    assert np.array_equal(np.sort(steps) // 2, np.arange(500))  # one in each of 500 parts
    free = rows(500, draw(stratified=False))["timesteps"]
    assert not np.array_equal(np.sort(free) // 2, np.arange(500))
    assert free.min() >= 0 and free.max() < 1000 and abs(free.mean() - 500) < 50
    short = replace(CONFIG, schedule=replace(CONFIG.schedule, num_train_timesteps=10))
    assert set(rows(500, draw(short))["timesteps"]) == set(range(10))


@pytest.mark.parametrize("share", (0.0, 0.1, 1.0))
def test_captions_are_left_out_as_often_as_asked(share):
    tokens = rows(2000, draw(caption_dropout=share))["tokens"][:, 0]
    assert set(tokens) <= {0, len("picture 0")}
    assert abs((tokens == 0).mean() - share) < 0.02


def test_offset_noise_is_the_same_all_over_a_channel():
    plain, offset = rows(800, draw())["noise"], rows(800, draw(offset_noise=0.5))["noise"]
    assert np.abs(plain.mean()) < 0.01 and abs(plain.std() - 1.0) < 0.01
    means = offset.mean((1, 2))  # of 64 latents each
    assert abs(means.std() - np.sqrt(0.5**2 + 1 / 64)) < 0.02
    assert abs((offset - means[:, None, None]).std() - np.sqrt(63 / 64)) < 0.01


def test_moments_take_the_place_of_pictures():
    class Cached(Source):
        def __getitem__(self, i):
            return np.zeros((8, 8, 8), "float16"), "a"

    batch = rows(3, draw(moments=True), Cached())
    assert batch["moments"].shape == (3, 8, 8, 8) and "pictures" not in batch
    assert batch["noise"].shape == (3, 8, 8, 4)


@pytest.mark.parametrize("name", ("caption_dropout", "pure_noise"))
@pytest.mark.parametrize("share", (-0.1, 1.5))
def test_a_share_is_from_0_to_1(name, share):
    with pytest.raises(ValueError, match=f"`{name}` must be from 0 to 1"):
        draw(**{name: share})


@pytest.mark.parametrize("stratified", (True, False))
def test_so_many_rows_as_asked_begin_in_pure_noise(stratified):
    steps = rows(2000, draw(pure_noise=0.2, stratified=stratified))["timesteps"]
    assert abs((steps == 999).mean() - 0.2) < 0.02
    others = steps[steps < 999]
    assert others.min() < 5 and others.max() > 990 and abs(others.mean() - 500) < 20
    assert set(rows(50, draw(pure_noise=1.0))["timesteps"]) == {999}


def test_timesteps_are_shifted_towards_noise():
    steps = rows(2000, draw(shift=3.0))["timesteps"]
    # a share s of the way is at 3 s / (1 + 2 s): a quarter at half, a half at three quarters
    for share, timestep in ((0.25, 500), (0.5, 750), (0.75, 900)):
        assert abs((steps < timestep).mean() - share) < 0.01
    with pytest.raises(ValueError, match="`shift` must be positive, not 0"):
        draw(shift=0)


def captioned(*captions):
    return Pictures(np.zeros((len(captions), 16, 16, 3), "uint8"), captions)


@pytest.mark.parametrize(
    "source, named",
    (
        (captioned("an oak", "an oak in deep snow"), r"1 of 2 .* 3 tokens \(item 1: 5\)"),
        (Several(captioned("a"), captioned("an oak in snow")), r"1 of 2 .*\(item 1: 4\)"),
        (InversionSource(captioned("a"), "oak", ("a photo of an {}",), 1), r"1 of 1 .*: 5\)"),
    ),
)
def test_captions_that_are_too_long_are_known_at_the_start(source, named):
    tokenizer = SimpleTokenizer(max_length=5)
    with pytest.raises(ValueError, match=named + r".* `Truncating\(tokenizer\)`"):
        Batches(source, 1, DiffusionDraw([tokenizer], CONFIG))
    cut = Batches(source, 1, DiffusionDraw([Truncating(tokenizer)], CONFIG))
    assert cut[0][0]["tokens"].shape == (1, 5)
    fits = DiffusionDraw([SimpleTokenizer()], CONFIG)
    assert Batches(source, 1, fits)[0][0]["tokens"].shape == (1, 77)


def test_pictures_of_long_captions_are_named(tmp_path):
    write_pictures(tmp_path / "pictures")
    (tmp_path / "pictures/3.txt").write_text("a very long caption")
    source = PictureFolder(tmp_path / "pictures", 16)
    with pytest.raises(ValueError, match=r"1 of 6 .* than 3 tokens \(3.png: 4\)"):
        Batches(source, 2, DiffusionDraw([SimpleTokenizer(max_length=5)], CONFIG))


def test_sources_that_tell_no_captions_are_taken():
    several = Several(Source(), captioned("a"))
    for source in (Source(), several):
        batch = Batches(source, 2, DiffusionDraw([SimpleTokenizer()], CONFIG))[0][0]
        assert batch["tokens"].shape == (2, 77)


def test_pictures_of_an_autoencoder_can_be_parts():
    plain = rows(2, AutoencoderDraw(CONFIG.autoencoder))
    assert plain["pictures"].shape == (2, 16, 16, 3) and plain["noise"].shape == (2, 8, 8, 4)

    class Numbered(Source):
        def __getitem__(self, i):
            return np.arange(16 * 16 * 3, dtype="uint8").reshape(16, 16, 3), "a"

    parts = rows(50, AutoencoderDraw(CONFIG.autoencoder, 8), Numbered())
    assert parts["pictures"].shape == (50, 8, 8, 3) and parts["noise"].shape == (50, 4, 4, 4)
    corners = parts["pictures"][:, 0, 0, 0]
    assert len(set(corners)) > 20
    picture = Numbered()[0][0]
    for corner, part in zip(corners, parts["pictures"], strict=True):
        places = np.argwhere(picture[:9, :9, 0] == corner)
        assert any(np.array_equal(picture[y : y + 8, x : x + 8], part) for y, x in places)


def test_latents_of_another_image_encoder_are_refused(tmp_path):
    _, _, encoder, _ = networks(0)
    _, _, other, _ = networks(1)
    pictures = [(np.zeros((16, 16, 3), "uint8"), "a picture")]
    (path,) = cache_moments(pictures, encoder, tmp_path)
    assert cache_moments(pictures, encoder, tmp_path) == [path]
    with pytest.raises(ValueError, match="npz: was encoded by another image encoder: remove it"):
        cache_moments(pictures, other, tmp_path)
    with np.load(path) as arrays:
        np.savez(path, moments=arrays["moments"], captions=arrays["captions"])
    with pytest.raises(ValueError, match="does not say which image encoder made it"):
        cache_moments(pictures, encoder, tmp_path)
