"""Tiles: all is covered, a local network gives what it gives of the whole, no seams show."""

import numpy as np
import pytest

from kerasdiff.tiles import in_tiles


def enlarge(tile):
    return np.repeat(np.repeat(tile, 8, axis=1), 8, axis=2)


def shrink(tile):
    count, height, width, channels = tile.shape
    return tile.reshape(count, height // 8, 8, width // 8, 8, channels).mean(axis=(2, 4))


@pytest.mark.parametrize("shape", [(5, 5), (8, 8), (9, 8), (17, 31), (40, 12), (64, 64)])
def test_what_looks_at_single_pixels_is_not_changed(shape):
    latent = np.random.default_rng(0).standard_normal((*shape, 4)).astype("float32")
    large = in_tiles(enlarge, latent, 8, 1, 8)
    np.testing.assert_allclose(large, enlarge(latent[None])[0], rtol=1e-5)
    np.testing.assert_allclose(in_tiles(shrink, large, 8, 8, 1), latent, rtol=1e-4, atol=1e-6)


def test_tiles_have_one_size():
    seen = set()

    def watch(tile):
        seen.add(tile.shape)
        return enlarge(tile)

    in_tiles(watch, np.zeros((23, 37, 4), "float32"), 16, 1, 8)
    assert seen == {(1, 16, 16, 4)}


def test_a_small_picture_is_one_tile():
    calls = []
    in_tiles(lambda tile: calls.append(tile.shape) or tile, np.zeros((8, 7, 3)), 8, 1, 1)
    assert calls == [(1, 8, 7, 3)]


def test_tiles_that_disagree_fade_into_each_other():
    count = iter(range(100))
    result = in_tiles(lambda tile: np.full_like(tile, next(count)), np.zeros((16, 64, 1)), 16, 1, 1)
    steps = np.abs(np.diff(result[..., 0], axis=1))
    assert result.max() > 3 and steps.max() < 0.3  # an edge between two tiles would be 1


def test_neighbours_share_a_quarter_of_a_tile():
    covered = np.zeros(100)
    seen = []

    def watch(tile):
        seen.append(int(tile[0, 0, 0, 0]))
        return tile

    row = np.arange(100, dtype="float32")
    in_tiles(watch, np.broadcast_to(row[None, :, None], (16, 100, 1)), 16, 1, 1)
    for start in seen:
        covered[start : start + 16] += 1
    assert covered.min() >= 1 and np.all(np.diff(seen) <= 12)
