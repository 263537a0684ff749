"""Pictures that turn out to be broken: another takes their place, too many are an error."""

import pickle
import warnings

import numpy as np
import pytest
from picture_cases import cut, folder_of, pixels, put
from PIL import Image

from kerasdiff.training.data.pictures import PictureFolder


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_the_next_picture_takes_the_place_of_a_broken_one(tmp_path, suffix):
    source = folder_of(tmp_path, 4, broken={1}, suffix=suffix)
    assert source.skipped == {}
    with pytest.warns(UserWarning, match=f"01{suffix}: .*; another takes its place") as record:
        picture, caption = source[1]
    assert len(record) == 1 and caption == "2" and list(source.skipped) == [f"01{suffix}"]
    np.testing.assert_array_equal(picture, source[2][0])


def test_a_broken_picture_is_named_once(tmp_path):
    source = folder_of(tmp_path, 4, broken={3})
    with pytest.warns(UserWarning):
        assert source[3][1] == "0", "the last one's next is the first"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert source[3][1] == "0"


def test_every_process_finds_the_same_picture_in_its_place(tmp_path):
    source = folder_of(tmp_path, 20, broken={4, 5})
    other = pickle.loads(pickle.dumps(source))
    with pytest.warns(UserWarning):
        source[5]
        assert source[4][1] == other[4][1] == "6"


def test_a_picture_of_the_same_size_is_preferred(tmp_path):
    for name, width in (("a.jpg", 64), ("b.jpg", 32), ("c.jpg", 64), ("d.jpg", 16)):
        put(tmp_path, name, name, pixels(32, width))
    cut(tmp_path / "a.jpg", 0.7)
    source = PictureFolder(tmp_path, buckets=[(32, 64), (32, 32), (32, 16)])
    with pytest.warns(UserWarning):
        picture, caption = source[0]
    assert caption == "c.jpg" and picture.shape == (32, 64, 3)


def test_without_another_of_its_size_the_next_is_cropped_to_it(tmp_path):
    put(tmp_path, "a.jpg", "a", pixels(32, 64))
    put(tmp_path, "b.jpg", "b", pixels(32, 32))
    cut(tmp_path / "a.jpg", 0.7)
    source = PictureFolder(tmp_path, buckets=[(32, 64), (32, 32)])
    with pytest.warns(UserWarning):
        picture, caption = source[0]
    assert caption == "b" and picture.shape == (32, 64, 3)


def test_opening_reads_headers_only(tmp_path):
    whole = [put(tmp_path, f"{i}.png", picture=pixels(64, 64)) for i in range(2)]
    cut(whole[0], 0.1)
    assert PictureFolder(tmp_path, size=64).skipped == {}
    cut(put(tmp_path, "2.webp", picture=pixels(64, 64)))
    assert list(PictureFolder(tmp_path, size=64).skipped) == ["2.webp"], "its header knows"


def test_files_that_vanish_are_broken(tmp_path):
    source = folder_of(tmp_path, 4)
    (tmp_path / "02.jpg").unlink()
    with pytest.warns(UserWarning, match="02.jpg: .*No such file"):
        assert source[2][1] == "3"


@pytest.mark.filterwarnings("ignore:.*another takes its place")
def test_more_than_one_in_ten_broken_is_an_error(tmp_path):
    source = folder_of(tmp_path, 20, broken={3, 8, 13})
    source[3], source[8]
    with pytest.raises(ValueError, match="3 of 20 pictures .*03.jpg: .*13.jpg: "):
        source[13]


@pytest.mark.filterwarnings("ignore:.*another takes its place")
def test_nothing_readable_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="none of the 1 pictures can be read: 00.jpg"):
        folder_of(tmp_path, 1, broken={0})[0]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow and ours
def test_no_damage_escapes_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    for name in ("a.jpg", "b.png", "c.webp"):
        whole = put(tmp_path, name, "x", pixels(24, 24), exif=exif).read_bytes()
        for _ in range(150):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 3) // rng.choice([1, 8]):
                data[place] = rng.integers(256)
            (tmp_path / name).write_bytes(data)
            try:
                item = PictureFolder(tmp_path, size=16)[0]
            except ValueError:
                continue
            assert item[0].shape == (16, 16, 3)
        (tmp_path / name).unlink()
