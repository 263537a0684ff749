"""A folder of pictures: what is read, and what is left out and named."""

import json
import pickle
import struct
import zlib

import numpy as np
import pytest
from picture_cases import cut, folder_of, pixels, put
from PIL import Image

from kerasdiff.training.data.pictures import PictureFolder


def put_metadata(folder, *lines):
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "metadata.jsonl").write_text(text, "utf-8")


# What is read


def test_pictures_and_their_captions_in_the_order_of_names(tmp_path):
    put(tmp_path, "b.png", "the second\n")
    put(tmp_path, "a.png", "\ufeffthe first: ⛰", pixels(12, 12, 7))
    put(tmp_path, "sub/c.WEBP", "the third", lossless=True)
    source = PictureFolder(tmp_path, size=12)
    assert [source[i][1] for i in range(3)] == ["the first: ⛰", "the second", "the third"]
    assert len(source) == 3 and source.sizes == [(12, 12)] * 3 and source.skipped == {}
    picture, _ = source[np.int64(0)]
    assert picture.dtype == np.uint8 and picture.flags.writeable
    np.testing.assert_array_equal(picture, pixels(12, 12, 7))


def test_metadata_gives_captions(tmp_path):
    put(tmp_path, "a.png", "not this one")
    put(tmp_path, "sub/b.png", None)
    put_metadata(
        tmp_path,
        {"file_name": "./sub/b.png", "text": " the second "},
        "",
        {"file_name": "a.png", "text": "the first", "more": [1]},
    )
    source = PictureFolder(tmp_path, size=12)
    assert [source[i][1] for i in range(2)] == ["the first", "the second"]
    assert source.skipped == {}


def test_all_formats_are_read_alike(tmp_path):
    smooth = np.full((16, 16, 3), (200, 100, 50), "uint8")
    for suffix in ("png", "jpg", "jpeg", "webp", "bmp"):
        put(tmp_path, f"a.{suffix}", "flat", smooth)
    source = PictureFolder(tmp_path, size=16)
    assert len(source) == 5
    for i in range(5):
        assert np.abs(source[i][0].astype(int) - smooth).max() <= 4


def test_photos_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter
    put(tmp_path, "a.png", "a tree", Image.fromarray(pixels(8, 16)), exif=exif)
    source = PictureFolder(tmp_path, buckets=[(8, 16), (16, 8)])
    assert source.sizes == [(16, 8)]
    np.testing.assert_array_equal(source[0][0], np.rot90(pixels(8, 16), -1))


def test_transparent_pixels_are_white(tmp_path):
    rgba = np.zeros((8, 8, 4), "uint8")
    rgba[:, 4:, 3] = 255
    expected = np.zeros((8, 8, 3), "uint8")
    expected[:, :4] = 255
    put(tmp_path, "alpha.png", "x", Image.fromarray(rgba))
    palette = Image.fromarray(rgba[..., 3] // 255).convert("L")
    palette.putpalette([9, 9, 9, 0, 0, 0])
    put(tmp_path, "palette.png", "x", palette, transparency=0)
    put(tmp_path, "key.png", "x", Image.fromarray(255 - expected), transparency=(0, 0, 0))
    source = PictureFolder(tmp_path, size=8)
    np.testing.assert_array_equal(source[0][0], expected)
    np.testing.assert_array_equal(source[1][0], 255 * np.ones_like(expected))
    np.testing.assert_array_equal(source[2][0], expected)


def test_grey_of_8_and_16_bits_becomes_rgb(tmp_path):
    grey = np.arange(256, dtype="uint8").reshape(16, 16)
    put(tmp_path, "8.png", "x", grey)
    put(tmp_path, "16.png", "x", Image.fromarray(grey.astype("uint16") * 257))
    source = PictureFolder(tmp_path, size=16)
    for i in range(2):
        np.testing.assert_array_equal(source[i][0], np.stack([grey] * 3, -1))


def test_the_centre_is_kept_and_the_shape_not_distorted(tmp_path):
    wide = np.zeros((16, 48, 3), "uint8")
    wide[:, 16:32] = 255
    put(tmp_path, "a.png", "x", wide)
    picture, _ = PictureFolder(tmp_path, size=8)[0]
    assert picture.shape == (8, 8, 3) and picture[:, 2:-2].min() > 250 and picture.min() > 200


def test_shrinking_averages(tmp_path):
    checkers = np.indices((64, 64)).sum(0)[..., None] % 2 * np.full(3, 255)
    put(tmp_path, "a.png", "x", checkers.astype("uint8"))
    assert np.abs(PictureFolder(tmp_path, size=8)[0][0].astype(int) - 127).max() <= 3


def test_buckets_keep_more_of_a_picture(tmp_path):
    put(tmp_path, "square.png", "x", pixels(64, 60))
    put(tmp_path, "tall.png", "x", pixels(64, 30))
    put(tmp_path, "wide.png", "x", pixels(30, 64))
    source = PictureFolder(tmp_path, buckets=[(24, 40), (32, 32), (40, 24)])
    assert source.sizes == [(32, 32), (40, 24), (24, 40)]
    assert [source[i][0].shape[:2] for i in range(3)] == source.sizes


def test_a_source_travels_to_other_processes(tmp_path):
    source = folder_of(tmp_path, 3)
    other = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 2000, "pictures travel as names"
    for i in range(3):
        np.testing.assert_array_equal(other[i][0], source[i][0])
        assert other[i][1] == source[i][1] == str(i)


def test_iteration_ends(tmp_path):
    source = folder_of(tmp_path, 3)
    assert [caption for _, caption in source] == ["0", "1", "2"]
    with pytest.raises(IndexError):
        source[-1]


# What is left out


def skipped(tmp_path, **options):
    """What is skipped in a folder that has a good picture, `good.png`, too."""
    put(tmp_path, "good.png")
    source = PictureFolder(tmp_path, **{"size": 12, **options})
    assert [caption for _, caption in source] == ["a picture"]
    return source.skipped


def test_what_is_no_picture_is_named(tmp_path):
    for name in ("text.png", "empty.jpg", "page.webp", "script.png"):
        (tmp_path / name).with_suffix(".txt").write_text("caption")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.webp").write_text("<html>")
    (tmp_path / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\n")
    cut(put(tmp_path, "cut.png"), 0.01)
    result = skipped(tmp_path)
    assert set(result) == {"text.png", "empty.jpg", "page.webp", "script.png", "cut.png"}
    assert all("not a picture" in reason for reason in result.values())


def test_linked_folders_are_followed_once(tmp_path):
    (tmp_path / "far").mkdir()
    put(tmp_path / "far", "1.png", "one")
    (tmp_path / "near").mkdir()
    put(tmp_path / "near", "0.png", "zero")
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "near")
    assert PictureFolder(tmp_path / "near", 8).captions == ["zero", "one"]


def test_links_to_what_is_there_anyway_change_nothing(tmp_path):
    put(tmp_path, "run2/oak.png", None)
    (tmp_path / "latest").symlink_to(tmp_path / "run2")
    (tmp_path / "run2" / "up").symlink_to(tmp_path)
    put_metadata(tmp_path, {"file_name": "run2/oak.png", "text": "an oak"})
    source = PictureFolder(tmp_path, 8)
    assert source.captions == ["an oak"] and source.skipped == {}


def test_folders_named_like_pictures_and_hidden_files_are_passed_over(tmp_path):
    put(tmp_path, "folder.png/.hidden.png")
    put(tmp_path, ".thumbnails/a.png")
    (tmp_path / "._good.png").write_bytes(b"resource fork")
    assert skipped(tmp_path) == {}


def test_bombs_are_refused_before_they_are_decoded(tmp_path):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    for name, side in (("large.png", 8200), ("huge.png", 60_000)):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        body = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
        (tmp_path / name).with_suffix(".txt").write_text("a bomb")
    result = skipped(tmp_path)
    assert "8200x8200 pixels; at most" in result["large.png"]
    assert "bomb" in result["huge.png"]


def test_pictures_without_captions_are_named(tmp_path):
    put(tmp_path, "none.png", None)
    put(tmp_path, "empty.png", " \n ")
    put(tmp_path, "latin.png", None).with_suffix(".txt").write_bytes("Bäume".encode("latin-1"))
    put(tmp_path, "long.png", "word " * 20_000)
    put(tmp_path, "folder.png", None).with_suffix(".txt").mkdir()
    result = skipped(tmp_path)
    assert result["none.png"] == "no caption: there is no none.txt"
    assert result["empty.png"] == "empty.txt: the caption is empty"
    assert "latin.txt" in result["latin.png"] and "utf-8" in result["latin.png"]
    assert "65536 bytes" in result["long.png"]
    assert "folder.txt cannot be read" in result["folder.png"]
    assert len(result) == 5


def test_small_pictures_are_left_out(tmp_path):
    put(tmp_path, "half.png", picture=pixels(6, 6))
    put(tmp_path, "less.png", picture=pixels(5, 60))
    result = PictureFolder(tmp_path, size=12).skipped
    assert result == {"less.png": "5x60 pixels: 12x12 would enlarge it more than 2 times"}
    assert set(skipped(tmp_path, max_upscale=1.0)) == {"half.png", "less.png"}


@pytest.mark.parametrize(
    "line, reason",
    [
        ("{not json", "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("7", "is not of the form"),
        ({"file_name": "a.png"}, "is not of the form"),
        ({"file_name": 3, "text": "x"}, "is not of the form"),
        ({"file_name": "a.png", "text": ["x"]}, "is not of the form"),
        ({"file_name": "a.png", "text": ""}, "'a.png': the caption is empty"),
        ({"file_name": "a.png", "text": "\ud800"}, "'a.png': .*surrogates"),
        ({"file_name": "absent.png", "text": "x"}, "no such picture"),
        ({"file_name": "../outside.png", "text": "x"}, "leads out of the folder"),
        ({"file_name": "sub/../../outside.png", "text": "x"}, "leads out of the folder"),
        ({"file_name": "..\\outside.png", "text": "x"}, "leads out of the folder"),
        ({"file_name": "/outside.png", "text": "x"}, "leads out of the folder"),
        ({"file_name": "C:outside.png", "text": "x"}, "leads out of the folder"),
        ({"file_name": "a\0.png", "text": "x"}, "no such picture"),
        ({"file_name": "good.png", "text": "again"}, "'good.png' was named in a line before"),
    ],
)
def test_lines_of_metadata_that_are_wrong_are_named(tmp_path, line, reason):
    put(tmp_path, "outside.png", None)
    folder = tmp_path / "folder"
    put(folder, "a.png", None)
    put_metadata(folder, {"file_name": "good.png", "text": "a picture"}, line)
    result = skipped(folder)
    assert set(result) == {"metadata.jsonl, line 2", "a.png"}
    with pytest.raises(ValueError, match=reason):
        raise ValueError(result["metadata.jsonl, line 2"])
    assert result["a.png"] == "no caption: metadata.jsonl does not name it"


def test_a_folder_without_usable_pictures_says_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"of 0 pictures \(.png.* found$"):
        PictureFolder(tmp_path)
    for i in range(8):
        put(tmp_path, f"{i}.png", None)
    with pytest.raises(ValueError, match=r"of 8 .* found: 0.png: no caption.*; and 3 more"):
        PictureFolder(tmp_path, size=12)


@pytest.mark.parametrize("name", ["absent", "good.png"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    put(tmp_path, "good.png")
    with pytest.raises(ValueError, match=f"{name}: no such folder"):
        PictureFolder(tmp_path / name)


def test_metadata_that_cannot_be_read_is_an_error(tmp_path):
    put(tmp_path, "good.png")
    (tmp_path / "metadata.jsonl").mkdir()
    with pytest.raises(ValueError, match="metadata.jsonl: cannot be read"):
        PictureFolder(tmp_path)


@pytest.mark.parametrize(
    "options, name",
    [
        ({"size": 0}, "size"),
        ({"size": (8, -8)}, "size"),
        ({"size": 1 << 20}, "size"),
        ({"size": 8.5}, "size"),
        ({"size": (8, 8, 3)}, "size"),
        ({"buckets": []}, "buckets"),
        ({"buckets": [(8, 8), (0, 8)]}, "buckets"),
    ],
)
def test_sizes_that_cannot_be_are_refused(tmp_path, options, name):
    put(tmp_path, "good.png")
    with pytest.raises(ValueError, match=f"`{name}`"):
        PictureFolder(tmp_path, **options)
