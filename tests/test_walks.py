"""Walks begin and end where they are told, and noise stays noise on the way."""

import numpy as np
import pytest

from kerasdiff import walks
from kerasdiff.conditioning import Conditioning

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.standard_normal((2, 16, 16, 4), "float32")


@pytest.mark.parametrize("walk", (walks.line, walks.arc))
def test_walks_go_from_one_end_to_the_other(walk):
    points = walk(FIRST, SECOND, 5)
    assert points.shape == (5, 16, 16, 4) and points.dtype == np.float32
    np.testing.assert_allclose(points[0], FIRST, atol=1e-6)
    np.testing.assert_allclose(points[-1], SECOND, atol=1e-5)


def test_lines_are_even():
    steps = np.diff(walks.line(FIRST, SECOND, 9), axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-5)


@pytest.mark.parametrize("walk", (walks.arc, walks.circle))
def test_noise_keeps_its_spread(walk):
    points = walk(FIRST, SECOND, 8)
    assert np.abs(points.std(axis=(1, 2, 3)) - 1.0).max() < 0.05
    assert walks.line(FIRST, SECOND, 3)[1].std() < 0.8


def test_circles_come_back():
    points = walks.circle(FIRST, SECOND, np.int64(8))
    np.testing.assert_allclose(points[0], FIRST, atol=1e-6)
    np.testing.assert_allclose(points[2], SECOND, atol=1e-6)
    np.testing.assert_allclose(points[4], -FIRST, atol=1e-5)
    steps = np.linalg.norm(np.diff(points, axis=0).reshape(7, -1), axis=1)
    closing = np.linalg.norm(points[0] - points[-1])
    np.testing.assert_allclose(steps, closing, rtol=0.05)


def test_arcs_between_equal_noises_stand_still():
    points = walks.arc(FIRST, FIRST, 3)
    np.testing.assert_allclose(points, np.stack([FIRST] * 3), atol=1e-6)


def test_no_arc_joins_opposite_noises():
    with pytest.raises(ValueError, match="opposite each other: go by another noise in between"):
        walks.arc(FIRST, -FIRST, 3)


@pytest.mark.parametrize("walk", (walks.line, walks.arc, walks.circle))
def test_ends_of_whole_numbers_are_refused(walk):
    with pytest.raises(ValueError, match="both ends must be of floats, not float32 and uint8"):
        walk(FIRST, SECOND.astype("uint8"), 3)


def test_texts_of_two_encoders_say_how_they_mix():
    text = Conditioning(np.zeros((1, 77, 8)), np.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"mixes as `a \+ t"):
        walks.line(text, text, 3)


def test_ends_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="one shape"):
        walks.line(FIRST, SECOND[0], 3)
    with pytest.raises(ValueError, match="`count` must be a whole number from 2, not 1"):
        walks.arc(FIRST, SECOND, 1)
    with pytest.raises(ValueError, match="`count` must be a whole number from 2, not 0"):
        walks.circle(FIRST, SECOND, 0)
