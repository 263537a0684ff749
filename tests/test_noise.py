"""The noise stream: PyTorch's numbers, for any size, order of calls and seed."""

from pathlib import Path

import numpy as np
import pytest

from kerasdiff.noise import TorchStream

GOLDEN = np.load(Path(__file__).parent / "golden" / "noise.npz")
SEEDS = sorted({int(name.split()[0]) for name in GOLDEN.files})


@pytest.mark.parametrize("seed", SEEDS)
def test_successive_draws_of_every_size_equal_pytorch(seed):
    stream = TorchStream(seed)
    for index in range(len(GOLDEN.files) // len(SEEDS)):
        want = GOLDEN[f"{seed} {index}"]
        got = stream.normal(want.shape)
        assert got.dtype == np.float32
        # One digit of float32 around 4, the largest numbers that occur.
        assert np.abs(got - want.transpose(0, 2, 3, 1)).max() < 5e-7, want.shape


def test_equal_seeds_give_equal_streams_and_others_do_not():
    first, second, other = TorchStream(3), TorchStream(3), TorchStream(4)
    for shape in ((1, 4, 8, 8), (1, 1, 1, 3), (1, 4, 8, 8)):
        numbers = first.normal(shape)
        assert np.array_equal(numbers, second.normal(shape))
        assert not np.array_equal(numbers, other.normal(shape))


def test_a_stream_goes_on_where_it_stopped():
    stream = TorchStream(9)
    assert not np.array_equal(stream.normal((1, 4, 4, 4)), stream.normal((1, 4, 4, 4)))


def test_only_the_low_32_bits_of_a_seed_tell():
    numbers = [TorchStream(seed).normal((1, 2, 4, 4)) for seed in (5, 5 + 2**32, 5 - 2**32)]
    assert np.array_equal(numbers[0], numbers[1]) and np.array_equal(numbers[0], numbers[2])


def test_numbers_are_standard_normal():
    numbers = TorchStream(0).normal((1, 4, 256, 256))
    assert abs(numbers.mean()) < 0.01 and abs(numbers.std() - 1.0) < 0.01


@pytest.mark.parametrize("seed", [1.0, "1", None, True, 2**64, -(2**63) - 1, np.float32(2)])
def test_seeds_that_are_no_64_bit_integers_are_refused(seed):
    with pytest.raises(ValueError, match="`seed`"):
        TorchStream(seed)


@pytest.mark.parametrize("seed", [-(2**63), 2**64 - 1, np.int64(7), np.uint32(7)])
def test_the_ends_of_the_seeds_and_numpy_integers_are_taken(seed):
    assert TorchStream(seed).normal((1, 1, 4, 4)).shape == (1, 4, 4, 1)


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4, 0), (1, 4, 4, -1), (1.0, 4, 4, 4), ()])
def test_shapes_that_are_no_four_positive_integers_are_refused(shape):
    with pytest.raises(ValueError, match="`shape`"):
        TorchStream(0).normal(shape)
