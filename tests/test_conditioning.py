"""Encoded texts: they mix as arrays do, in both parts, and what does not fit is named."""

import numpy as np
import pytest

from kerasdiff.conditioning import Conditioning, as_conditioning
from kerasdiff.configs import TINY

SDXL = TINY["sdxl"].diffusion_model  # context of width 64, 32 pooled numbers


def text(seed, rows=1, pooled=True):
    rng = np.random.default_rng(seed)
    context = rng.normal(size=(rows, 77, 64)).astype("float32")
    return Conditioning(context, rng.normal(size=(rows, 32)).astype("float32") if pooled else None)


A, B = text(1), text(2)
MIXTURES = {
    "sum": (lambda a, b: a + b),
    "difference": (lambda a, b: a - b),
    "multiple": (lambda a, b: 2 * a),
    "multiple from the right": (lambda a, b: a * 0.5),
    "mean": (lambda a, b: (a + b) / 2),
    "weights": (lambda a, b: 0.7 * a + 0.3 * b),
    "steps of an interpolation": (lambda a, b: a + np.linspace(0, 1, 5)[3] * (b - a)),
    "numbers of NumPy": (lambda a, b: np.float32(0.25) * a + np.float64(0.75) * b),
}


@pytest.mark.parametrize("mix", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize("pooled", (True, False))
def test_texts_mix_as_their_parts_do(mix, pooled):
    a, b = text(1, pooled=pooled), text(2, pooled=pooled)
    mixed = mix(a, b)
    assert isinstance(mixed, Conditioning)
    np.testing.assert_allclose(mixed.context, mix(a.context, b.context), atol=1e-6)
    assert mixed.context.dtype == np.float32
    if pooled:
        np.testing.assert_allclose(mixed.pooled, mix(a.pooled, b.pooled), atol=1e-6)
        assert mixed.pooled.dtype == np.float32
    else:
        assert mixed.pooled is None


def test_one_text_mixes_with_each_of_several():
    mixed = A + text(3, rows=4)
    assert mixed.context.shape == (4, 77, 64) and mixed.pooled.shape == (4, 32)


@pytest.mark.parametrize(
    "mix",
    (
        lambda: A + 1,
        lambda: A + A.context,
        lambda: A - (A.context, A.pooled),
        lambda: A * B,
        lambda: A * "2",
        lambda: [0.5] * A,
        lambda: A.context * A,
        lambda: A / None,
    ),
)
def test_what_is_no_mixture_is_refused(mix):
    with pytest.raises(TypeError):
        mix()


def test_texts_with_and_without_pooled_vectors_do_not_mix():
    for a, b in ((A, text(2, pooled=False)), (text(1, pooled=False), B)):
        with pytest.raises(ValueError, match="with pooled vectors do not mix with texts without"):
            a + b


def test_one_text_becomes_a_batch_of_one():
    ours = as_conditioning(Conditioning(A.context[0], A.pooled[0].astype("float64")), SDXL, "text")
    np.testing.assert_array_equal(ours.context, A.context)
    np.testing.assert_array_equal(ours.pooled, A.pooled)
    assert ours.pooled.dtype == np.float32


@pytest.mark.parametrize(
    "pooled, message",
    (
        (None, "`text` must be a `Conditioning` with pooled vectors"),
        (np.zeros((1, 31)), r"`text` must have pooled vectors of shape \(1, 32\), not \(1, 31\)"),
        (np.zeros((2, 32)), r"shape \(1, 32\), not \(2, 32\)"),
        (np.full((1, 32), np.nan), "`text` must be an array of finite numbers"),
        ("words", "`text` must be an array of finite numbers"),
    ),
)
def test_pooled_vectors_that_do_not_fit_are_named(pooled, message):
    with pytest.raises(ValueError, match=message):
        as_conditioning(Conditioning(A.context, pooled), SDXL, "text")
