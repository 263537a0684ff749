"""Sizes for pictures of many shapes, and epochs in batches of one size."""

import numpy as np
import pytest

from kerasdiff.training.data.buckets import group_batches, make_buckets, nearest_bucket


def epoch(sizes, batch_size, seed=0):
    return group_batches(sizes, batch_size, np.random.default_rng(seed))


def test_the_buckets_of_512_are_known():
    expected = [(384, 640), (448, 576), (512, 512), (576, 448), (640, 384)]
    assert make_buckets(512 * 512) == expected


@pytest.mark.parametrize("area, multiple, max_ratio", [(128 * 128, 8, 2.0), (70_000, 32, 3.0)])
def test_buckets_keep_their_promises(area, multiple, max_ratio):
    buckets = make_buckets(area, multiple, max_ratio)
    assert len(set(buckets)) == len(buckets) > 3
    for height, width in buckets:
        assert height * width <= area and height % multiple == width % multiple == 0
        assert max(height, width) <= max_ratio * min(height, width)
        assert (width, height) in buckets
        inside = [(h, w) for h, w in buckets if h >= height and w >= width]
        assert inside == [(height, width)], "a bucket lies inside another"


def test_a_ratio_of_one_leaves_the_square():
    assert make_buckets(512 * 512, 64, 1.0) == [(512, 512)]


@pytest.mark.parametrize(
    "arguments, name",
    [
        ((63 * 63, 64), "area"),
        ((0, 64), "area"),
        ((4096, 0), "area"),
        ((4096, 8, 0.9), "max_ratio"),
        ((4096, 8, float("nan")), "max_ratio"),
    ],
)
def test_buckets_that_cannot_be_are_refused(arguments, name):
    with pytest.raises(ValueError, match=name):
        make_buckets(*arguments)


def test_the_nearest_bucket_is_nearest_in_ratio():
    buckets = make_buckets(512 * 512)
    assert nearest_bucket((300, 300), buckets) == (512, 512)
    assert nearest_bucket((1000, 3000), buckets) == (384, 640)
    assert nearest_bucket((400, 300), buckets) == (576, 448)
    for size in buckets:
        assert nearest_bucket(size, buckets) == size


def test_ratios_are_compared_as_logarithms():
    # 1:sqrt(2) lies in the middle between 1:1 and 1:2 and so do its transposes.
    assert nearest_bucket((100, 140), [(64, 64), (32, 64)]) == (64, 64)
    assert nearest_bucket((100, 143), [(64, 64), (32, 64)]) == (32, 64)
    assert nearest_bucket((140, 100), [(64, 64), (64, 32)]) == (64, 64)
    assert nearest_bucket((143, 100), [(64, 64), (64, 32)]) == (64, 32)


def test_of_equal_ratios_the_largest_is_taken():
    assert nearest_bucket((50, 50), [(64, 64), (128, 128), (32, 32)]) == (128, 128)


def test_no_buckets_are_refused():
    with pytest.raises(ValueError, match="buckets"):
        nearest_bucket((50, 50), [])


def test_one_size_is_a_plain_shuffled_epoch():
    batches = epoch([(8, 8)] * 12, 4)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    order = np.concatenate(batches)
    assert sorted(order) == list(range(12)) and list(order) != list(range(12))


def test_an_incomplete_batch_is_filled_with_other_pictures():
    batches = epoch([(8, 8)] * 10, 4)
    assert [len(set(batch)) for batch in batches] == [4, 4, 4]
    counts = np.bincount(np.concatenate(batches))
    assert counts.min() == 1 and counts.max() == 2 and counts.sum() == 12


def test_a_batch_holds_one_size():
    sizes = [(8, 8)] * 7 + [(8, 16)] * 5 + [(16, 8)] * 9
    np.random.default_rng(3).shuffle(sizes)
    batches = epoch(sizes, 4)
    assert len(batches) == 2 + 2 + 3
    for batch in batches:
        assert len({sizes[i] for i in batch}) == 1 and len(set(batch)) == 4
    assert set(np.concatenate(batches)) == set(range(len(sizes)))


def test_a_size_with_few_pictures_repeats_them_evenly():
    batches = epoch([(8, 8)] * 4 + [(8, 16)] * 3, 8)
    (few,) = [batch for batch in batches if 4 in batch]
    assert sorted(np.bincount(few, minlength=7)[4:]) == [2, 3, 3]


def test_batches_of_different_sizes_are_mixed():
    sizes = [(8, 8)] * 40 + [(8, 16)] * 40
    order = [sizes[batch[0]] for batch in epoch(sizes, 2)]
    assert order != sorted(order) and order != sorted(order, reverse=True)


def test_the_generator_decides_all():
    sizes = [(8, 8), (8, 16)] * 15
    first, again, other = epoch(sizes, 4, 1), epoch(sizes, 4, 1), epoch(sizes, 4, 2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(first) == len(other)


def test_filling_favours_no_picture():
    extra = sum(
        np.bincount(np.concatenate(epoch([(8, 8)] * 5, 4, seed)), minlength=5) - 1
        for seed in range(400)
    )
    # 3 of 5 pictures appear twice in each epoch: 240 +- 10 times each in 400 epochs.
    assert extra.sum() == 1200 and np.abs(extra - 240).max() < 40


@pytest.mark.parametrize("sizes, batch_size, name", [([], 4, "sizes"), ([(8, 8)], 0, "batch_size")])
def test_batches_of_nothing_are_refused(sizes, batch_size, name):
    with pytest.raises(ValueError, match=name):
        epoch(sizes, batch_size)
