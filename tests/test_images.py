"""Masks, sizes, resizing and PNG files."""

import numpy as np
import pytest
from PIL import Image

from kerasdiff import images


def picture(height=8, width=12):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype="uint8")


def test_bytes_become_minus_one_to_one_and_come_back():
    pixels = np.array([[[0, 127, 255]]], "uint8")
    floats = images.to_float(pixels, 1, 1)
    assert floats.shape == (1, 1, 1, 3) and floats.dtype == np.float32
    np.testing.assert_allclose(floats[0, 0, 0], [-1, 127 / 127.5 - 1, 1], atol=1e-6)
    np.testing.assert_array_equal(images.to_uint8(floats)[0], pixels)


def test_every_byte_survives_the_round_trip():
    pixels = np.arange(256, dtype="uint8").reshape(16, 16, 1).repeat(3, axis=-1)
    np.testing.assert_array_equal(images.to_uint8(images.to_float(pixels, 16, 16))[0], pixels)


def test_the_decoder_may_overshoot():
    np.testing.assert_array_equal(images.to_uint8([[-3.0, 3.0]]), [[0, 255]])


def test_arrays_pil_and_paths_give_the_same(tmp_path):
    pixels = picture()
    Image.fromarray(pixels).save(tmp_path / "p.png")
    expected = images.to_float(pixels, 8, 12)
    for image in (Image.fromarray(pixels), tmp_path / "p.png", str(tmp_path / "p.png"), [pixels]):
        np.testing.assert_array_equal(images.to_float(image, 8, 12), expected)
    np.testing.assert_allclose(images.to_float(pixels / 255.0, 8, 12), expected, atol=1e-6)


def test_resizing_is_lanczos():
    expected = Image.fromarray(picture()).resize((24, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(
        images.to_float(picture(), 16, 24), images.to_float(np.asarray(expected), 16, 24)
    )


def test_photos_are_turned_upright(tmp_path):
    image = Image.fromarray(picture(8, 12))
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: turned by a quarter
    image.save(tmp_path / "turned.png", exif=exif)
    assert images.size_of(tmp_path / "turned.png") == (12, 8)


def test_masks_are_cut_at_one_half():
    mask = np.array([[0, 127, 128, 255]], "uint8")
    np.testing.assert_array_equal(images.to_mask(mask, 1, 4)[0, :, :, 0], [[0, 0, 1, 1]])
    np.testing.assert_array_equal(images.to_mask(mask > 200, 1, 4)[0, :, :, 0], [[0, 0, 0, 1]])
    np.testing.assert_array_equal(
        images.to_mask(np.array([[0.0, 0.49, 0.5, 1.0]]), 1, 4)[0, :, :, 0], [[0, 0, 1, 1]]
    )


def test_whole_numbers_up_to_one_are_no_mask_of_bytes():
    with pytest.raises(ValueError, match="give it as bool"):
        images.to_mask(np.eye(8, dtype="uint8"), 8, 8)
    with pytest.raises(ValueError, match="give it as bool"):
        images.to_mask(Image.fromarray(np.eye(8, dtype="uint8")), 8, 8)
    assert images.to_mask(np.zeros((8, 8), "uint8"), 8, 8).max() == 0
    assert images.to_mask(Image.fromarray(np.eye(8, dtype=bool)), 8, 8).sum() == 8


@pytest.mark.parametrize("channels", (1, 3))
def test_masks_of_any_channels_are_checked_alike(channels):
    def mask(value, dtype):
        return np.full((4, 4, channels), value, dtype)

    for value, dtype in ((100.0, "float32"), (np.nan, "float32"), (100, "int64")):
        with pytest.raises(ValueError, match="`mask`"):
            images.to_mask(mask(value, dtype), 4, 4)
    for value, dtype, wanted in ((0.5, "float64", 1), (0.4, "float32", 0), (True, "bool", 1)):
        assert images.to_mask(mask(value, dtype), 4, 4).ravel().tolist() == [wanted] * 16


def test_masks_of_one_bit_take_the_nearest_pixel():
    """As diffusers, which resizes before it converts; Lanczos would ring around edges."""
    mask = Image.fromarray(np.random.default_rng(0).random((37, 53)) < 0.5)
    assert mask.mode == "1"
    wanted = np.asarray(mask.resize((24, 16), Image.Resampling.NEAREST), "float32")
    for given in (mask, mask.convert("P")):
        np.testing.assert_array_equal(images.to_mask(given, 16, 24)[0, ..., 0], wanted)
    smooth = images.to_mask(mask.convert("L"), 16, 24)[0, ..., 0]
    assert (smooth != wanted).any()


def test_floats_of_several_colours_are_no_mask():
    with pytest.raises(ValueError, match="`mask` has colours"):
        images.to_mask(picture() / 255.0, 8, 12)


def test_sixteen_bits_of_grey_become_eight(tmp_path):
    deep = np.array([[0, 257, 257 * 127, 257 * 128, 65535]], "uint16")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.frombytes("I;16B", (5, 1), deep.astype(">u2").tobytes()).save(tmp_path / "deep.tiff")
    for given in (tmp_path / "deep.png", tmp_path / "deep.tiff", Image.fromarray(deep)):
        pixels = images.to_uint8(images.to_float(given, 1, 5))
        np.testing.assert_array_equal(pixels[0, 0, :, 0], [0, 1, 127, 128, 255])
        mask = images.to_mask(given, 1, 5)
        np.testing.assert_array_equal(mask[0, 0, :, 0], [0, 0, 0, 1, 1])


@pytest.mark.parametrize("dtype", ("int32", "float32"))
def test_pixels_of_no_known_range_are_refused(tmp_path, dtype):
    Image.fromarray(np.ones((8, 8), dtype)).save(tmp_path / "odd.tiff")
    with pytest.raises(ValueError, match="odd.tiff: does not tell what is white"):
        images.read(tmp_path / "odd.tiff")
    with pytest.raises(ValueError, match="`mask`: does not tell what is white"):
        images.to_mask(Image.fromarray(np.ones((8, 8), dtype)), 8, 8)


def test_an_overlay_keeps_what_the_mask_keeps():
    before, after = picture(), np.stack([255 - picture(), np.zeros_like(picture())])
    mask = np.zeros(before.shape[:2], "uint8")
    mask[:, 5:] = 255
    for given in (before, Image.fromarray(before), before / np.float32(255.0)):
        mixed = images.overlay(after, given, mask)
        np.testing.assert_array_equal(mixed[:, :, :5], [before[:, :5]] * 2)
        np.testing.assert_array_equal(mixed[:, :, 5:], after[:, :, 5:])
    assert mixed.dtype == np.uint8
    several = images.overlay(after, np.stack([before, after[0]]), mask)
    np.testing.assert_array_equal(several[1, :, :5], after[0, :, :5])


def test_a_grey_picture_in_three_channels_is_a_mask():
    grey = np.repeat(np.array([[[0], [255]]], "uint8"), 3, axis=-1)
    np.testing.assert_array_equal(images.to_mask(grey, 1, 2)[0, :, :, 0], [[0, 1]])


def test_a_picture_where_a_mask_is_expected_is_refused():
    with pytest.raises(ValueError, match="`mask` has colours"):
        images.to_mask(Image.fromarray(picture()), 8, 12)
    with pytest.raises(ValueError, match="`mask` has colours"):
        images.to_mask(picture(), 8, 12)


@pytest.mark.parametrize("shape", ((4,), (8, 12), (8, 12, 4), (1, 8, 12, 1)))
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="`image` must have shape"):
        images.to_float(np.zeros(shape, "uint8"), 8, 12)


def test_floats_outside_the_unit_range_are_refused():
    for bad in (2.0, -0.5, np.nan):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            images.to_float(np.full((8, 12, 3), bad), 8, 12)
    with pytest.raises(ValueError, match="only uint8 arrays"):
        images.to_float(np.zeros((4, 4, 3)), 8, 12)
    with pytest.raises(ValueError, match="uint8 or float, not int64"):
        images.to_float(np.zeros((8, 12, 3), "int64"), 8, 12)


def test_files_that_are_no_pictures_are_named(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(ValueError, match="notes.txt: not a picture"):
        images.read(text)
    with pytest.raises(ValueError, match="missing.png: cannot be read as a picture: No such file"):
        images.read(tmp_path / "missing.png")
    Image.fromarray(picture(64, 64)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    with pytest.raises(ValueError, match="cut.png: cannot be read"):
        images.read(tmp_path / "cut.png")


def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    Image.fromarray(picture()).save(tmp_path / "big.png")
    monkeypatch.setattr(images.arrays, "MAX_PIXELS", 50)
    with pytest.raises(ValueError, match="12x8 pixels; at most 50"):
        images.read(tmp_path / "big.png")


def test_png_carries_its_parameters(tmp_path):
    for prompt in ("a red house", "ein Häuschen, 日本 🏠"):
        text = images.parameters_text(
            prompt, "blurry", {"Steps": 20, "CFG scale": 7.5, "Model": "a, b"}
        )
        images.save_png(tmp_path / "out.png", picture(), text)
        with Image.open(tmp_path / "out.png") as image:
            np.testing.assert_array_equal(np.asarray(image), picture())
            assert image.text["parameters"] == (
                f'{prompt}\nNegative prompt: blurry\nSteps: 20, CFG scale: 7.5, Model: "a, b"'
            )


def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    images.save_png(tmp_path / "out.png", picture())
    before = (tmp_path / "out.png").read_bytes()

    def full_disk(image, file, **_):
        file.write(b"half a pict")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        images.save_png(tmp_path / "out.png", picture())
    assert caught.value.filename == str(tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_grids_are_filled_row_by_row():
    pictures = np.arange(3, dtype="uint8")[:, None, None, None] * np.ones((1, 8, 8, 3), "uint8")
    grid = np.asarray(images.grid(pictures))
    assert grid.shape == (20, 20, 3)
    assert grid[0, 0, 0] == 0 and grid[0, 12, 0] == 1 and grid[12, 0, 0] == 2
    assert (grid[8:12] == 255).all() and (grid[12:, 12:] == 255).all()
    assert images.grid(pictures, columns=3).size == (32, 8)


def test_labels_stand_under_their_pictures():
    pictures = np.full((2, 64, 64, 3), 200, "uint8")
    grid = np.asarray(images.grid(pictures, ["ddim", "a label of many words, which wraps"]))
    assert grid.shape[1] == 132 and grid.shape[0] > 64 + 2 * 12
    assert (grid[:64, :64] == 200).all()
    below = grid[64:]
    assert below[:16, :64].min() < 100 and below[:16, 68:].min() < 100
    assert (below[32:, :64] == 255).all() and below[16:, 68:].min() < 100


def test_grids_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="of one size, not none"):
        images.grid([])
    with pytest.raises(ValueError, match="of one size, not 12x8, 8x8"):
        images.grid([picture(), picture(8, 8)])
    with pytest.raises(ValueError, match="`labels` has 1 texts for 2 pictures"):
        images.grid([picture(), picture()], ["one"])
    with pytest.raises(ValueError, match="must be several, and this is one: give .picture"):
        images.grid(np.zeros((8, 8, 3), "uint8"))
    with pytest.raises(ValueError, match="must be uint8 .* not float32 .*to_uint8"):
        images.grid(np.zeros((2, 8, 8, 3), "float32"))


def test_the_last_row_of_labels_is_whole():
    grid = np.asarray(images.grid([picture(64, 64)], ["gggg yyyy"]).convert("L"))
    assert (grid[64:-2] < 128).any() and (grid[-1] == 255).all()


def test_gifs_hold_every_picture(tmp_path):
    pictures = [np.full((8, 8, 3), shade, "uint8") for shade in (0, 100, 200)]
    images.save_gif(tmp_path / "walk.gif", pictures, frames_per_second=10)
    with Image.open(tmp_path / "walk.gif") as image:
        assert (image.n_frames, image.info["duration"], image.info["loop"]) == (3, 100, 0)
        image.seek(2)
        assert abs(np.asarray(image.convert("RGB")).astype(int) - 200).max() <= 2
