"""Token merging: what is alike becomes one for self-attention, and nothing else changes."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from stable_diffusion_cases import tiny_checkpoint, tiny_model

from kerasdiff import StableDiffusion
from kerasdiff.configs import TINY
from kerasdiff.layers import SpatialTransformer
from kerasdiff.layers.token_merging import TokenMerging

folder = pytest.fixture(tiny_checkpoint, scope="module")
NORMAL = np.random.default_rng(0).standard_normal


def tokens(height=6, width=8):
    return NORMAL((2, height * width, 5)).astype("float32")


def merged_by_definition(x, height, width, ratio):
    """One picture's tokens after merging and parting, with loops, in float64."""
    x = x.astype("float64")
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    at = {(i // width, i % width): i for i in range(height * width)}
    targets = [i for (row, column), i in at.items() if row % 2 == column % 2 == 0]
    sources = [i for i in at.values() if i not in targets]
    best = {i: max(targets, key=lambda t, i=i: unit[i] @ unit[t]) for i in sources}
    sources.sort(key=lambda i: -(unit[i] @ unit[best[i]]))
    groups = {t: [t] for t in targets}
    for i in sources[: int(ratio * len(x))]:
        groups[best[i]].append(i)
    result = x.copy()
    for members in groups.values():
        result[members] = x[members].mean(axis=0)
    return result


@pytest.mark.parametrize("ratio", (0.1, 0.5, 0.75))
@pytest.mark.parametrize("height, width", ((6, 8), (2, 2), (8, 4)))
def test_merging_and_parting_gives_the_means_of_what_is_alike(ratio, height, width):
    x = tokens(height, width)
    merging = TokenMerging(x, height, width, ratio)
    fewer = merging.merge(x)
    assert fewer.shape == (2, height * width - int(ratio * height * width), 5)
    expected = [merged_by_definition(each, height, width, ratio) for each in x]
    assert_allclose(np.asarray(merging.part(fewer)), expected, atol=1e-5)


def test_equal_cells_lose_nothing():
    cells = NORMAL((2, 3, 4, 5)).astype("float32")
    x = cells.repeat(2, axis=1).repeat(2, axis=2).reshape(2, 48, 5)
    merging = TokenMerging(x, 6, 8, 0.75)
    assert_allclose(np.asarray(merging.part(merging.merge(x))), x, atol=1e-6)


def test_zeros_and_bfloat16_are_taken():
    x = np.zeros((1, 16, 4), "float32")
    merging = TokenMerging(x, 4, 4, 0.5)
    assert_array_equal(np.asarray(merging.part(merging.merge(x))), x)


def transformer(ratio):
    layer = SpatialTransformer(2, 1, 4, 1e-6, name="attentions")
    layer.token_merging = ratio
    return layer


def test_odd_sizes_are_left_alone():
    x, context = NORMAL((1, 5, 6, 8)).astype("float32"), NORMAL((1, 3, 4)).astype("float32")
    layer = transformer(0.5)
    merged = np.asarray(layer(x, context))
    layer.token_merging = 0.0
    assert_array_equal(merged, np.asarray(layer(x, context)))
    layer.token_merging = 0.5
    x = x[:, :4]
    merged = np.asarray(layer(x, context))
    layer.token_merging = 0.0
    assert np.abs(merged - np.asarray(layer(x, context))).max() > 1e-4


def small_picture(model):
    return model.text_to_image("a red house", num_steps=2, seed=1).astype(int)


@pytest.fixture(scope="module")
def exact(folder):
    return small_picture(tiny_model(folder))


@pytest.mark.parametrize("jit_compile", (True, False))
def test_pictures_stay_near_and_only_the_outermost_level_merges(folder, exact, jit_compile):
    model = StableDiffusion.from_preset(folder, token_merging=0.5, jit_compile=jit_compile)
    difference = np.abs(small_picture(model) - exact)
    assert 0 < difference.max() and difference.mean() < 20
    layers = [x for x in model.diffusion_model.layers if isinstance(x, SpatialTransformer)]
    merging = {layer.name: layer.token_merging for layer in layers}
    last = len(model.config.diffusion_model.channels) - 1
    outermost = ("down_blocks.0", f"up_blocks.{last}")
    assert merging == {name: 0.5 * name.startswith(outermost) for name in merging}
    assert {0.0, 0.5} == set(merging.values())


@pytest.mark.parametrize("ratio", (-0.1, 0.8, float("nan"), True, "0.5", None))
def test_other_shares_are_refused_at_once(folder, ratio):
    with pytest.raises(ValueError, match="`token_merging` must be from 0 to 0.75"):
        StableDiffusion.from_preset(folder, token_merging=ratio)


def test_streamed_networks_do_not_merge(folder):
    with pytest.raises(ValueError, match='do not go with `memory` "low"'):
        StableDiffusion.from_preset(folder, token_merging=0.5, memory="low")


def test_sizes_whose_tokens_cannot_be_merged_are_refused():
    model = StableDiffusion(checkpoint=TINY["sd1"], token_merging=0.5, jit_compile=False)
    with pytest.raises(ValueError, match="`token_merging` is for sides that are multiples of 4"):
        model.text_to_image("a", img_height=30, num_steps=1)
    with pytest.raises(ValueError, match="`free_size`"):
        model.export("nowhere", free_size=True)
