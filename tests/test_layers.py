"""Layers against plain NumPy in float64, and what they refuse."""

import math
from functools import partial

import keras
import numpy as np
import pytest
from keras import ops
from layer_cases import numbers, randomise

from kerasdiff.layers import (
    Attention,
    Dense,
    Downsample,
    FeedForward,
    GroupNorm,
    PaddedConv2D,
    Upsample,
    gelu,
    layer_norm,
)


def convolve(x, kernel, bias, padding, strides):
    """The definition, pixel by pixel."""
    x = np.pad(x.astype("float64"), ((0, 0), padding, padding, (0, 0)))
    size = len(kernel)
    rows, columns = ((side - size) // strides + 1 for side in x.shape[1:3])
    output = np.zeros((len(x), rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            top, left = i * strides, j * strides
            patch = x[:, top : top + size, left : left + size]
            output[:, i, j] = np.einsum("bhwi,hwio->bo", patch, kernel) + bias
    return output


@pytest.mark.parametrize("height, width", [(6, 8), (7, 5)])
@pytest.mark.parametrize(
    ("size", "padding", "strides"),
    [(3, 1, 1), (3, 1, 2), (3, (0, 1), 2), (1, 0, 1), (3, 0, 1), (3, (0, 2), 1), (5, 2, 1)],
)
def test_convolutions_pad_where_they_say(height, width, size, padding, strides):
    x = numbers(2, height, width, 3)
    layer = PaddedConv2D(4, size, padding, strides)
    layer.build(x.shape)
    kernel, bias = (np.asarray(v.value) for v in randomise(layer).variables)
    expected = convolve(x, kernel, bias, layer.padding, strides)
    output = np.asarray(layer(x))
    assert layer.compute_output_shape(x.shape) == output.shape == expected.shape
    np.testing.assert_allclose(output, expected, atol=1e-4)


@pytest.mark.parametrize("use_bias", [True, False])
def test_dense_is_a_matrix_on_the_last_axis(use_bias):
    x = numbers(2, 3, 4, 5)
    layer = Dense(7, use_bias)
    layer.build(x.shape)
    randomise(layer)
    expected = x.astype("float64") @ np.asarray(layer.kernel)
    if use_bias:
        expected = expected + np.asarray(layer.bias)
    np.testing.assert_allclose(np.asarray(layer(x)), expected, atol=1e-5)
    assert layer.compute_output_shape(x.shape) == (2, 3, 4, 7)


def normalise(x, groups, epsilon):
    rows = x.astype("float64").reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean, variance = (f(rows, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    return ((rows - mean) / np.sqrt(variance + epsilon)).reshape(x.shape)


@pytest.mark.parametrize("offset, tolerance", [(0, 2e-6), (1000, 2e-4)])
@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_group_norm_is_exact_far_from_zero_too(offset, tolerance, epsilon):
    x = numbers(2, 5, 7, 12) + np.float32(offset)
    layer = GroupNorm(3, epsilon)
    layer.build(x.shape)
    gamma, beta = (np.asarray(v.value) for v in randomise(layer).variables)
    expected = normalise(x, 3, epsilon) * gamma + beta
    np.testing.assert_allclose(np.asarray(layer(x)), expected, atol=tolerance)


def test_group_norm_of_a_large_picture():
    x = numbers(1, 192, 192, 64) * 3 + numbers(64, seed=1) * 5
    output = np.asarray(GroupNorm(4, 1e-6)(x))
    np.testing.assert_allclose(output, normalise(x, 4, 1e-6), atol=2e-5)


# Of 1000.25 float16 keeps 1000 or 1000.5: 0.025 of a deviation of 10; no more may be lost again.
@pytest.mark.parametrize(
    "dtype, deviation, offset, tolerance",
    [("float16", 100, 300, 4e-3), ("bfloat16", 100, 300, 4e-2), ("float16", 10, 1000, 2.5e-2)],
)
def test_group_norm_sums_in_float32(dtype, deviation, offset, tolerance):
    x = np.asarray(ops.cast(numbers(1, 64, 64, 8) * deviation + offset, dtype), "float32")
    output = GroupNorm(2, 1e-5, dtype=dtype)(ops.cast(x, dtype))
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    output = np.asarray(ops.cast(output, "float32"))
    np.testing.assert_allclose(output, normalise(x, 2, 1e-5), atol=tolerance)


@pytest.mark.parametrize(
    "dtype, offset, tolerance",
    [("float32", 0, 2e-6), ("float32", 1000, 3e-4), ("float16", 100, 4e-3), ("bfloat16", 9, 4e-2)],
)
def test_layer_norm_is_exact_far_from_zero_too(dtype, offset, tolerance):
    x = np.asarray(ops.cast(numbers(2, 9, 320) + offset, dtype), "float32")
    layer = layer_norm("norm", dtype)
    layer.build(x.shape)
    gamma, beta = (np.asarray(ops.cast(v, "float32")) for v in randomise(layer).variables)
    output = layer(ops.cast(x, dtype))
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    expected = normalise(x.reshape(18, 1, 320), 1, 1e-5).reshape(x.shape) * gamma + beta
    np.testing.assert_allclose(np.asarray(ops.cast(output, "float32")), expected, atol=tolerance)


@pytest.mark.parametrize("norm", [partial(GroupNorm, 1, 1e-6), partial(layer_norm, "norm")])
@pytest.mark.parametrize("value", [0.0, 1000.5, 30000.0])
def test_equal_numbers_are_normalised_without_a_root_of_less_than_nothing(norm, value):
    layer = norm(dtype="float16")
    x = ops.cast(np.full((1, 6, 7, 30), value), "float16")
    assert np.isfinite(np.asarray(layer(x))).all()


@pytest.mark.parametrize("groups", [0, 5, 24])
def test_groups_that_do_not_divide_are_refused(groups):
    with pytest.raises(
        ValueError, match=rf"norm1: `groups` must divide the 12 channels, not be {groups}"
    ):
        GroupNorm(groups, 1e-5, name="norm1").build((1, 4, 4, 12))


def test_upsampling_repeats_pixels_and_crops_to_the_skip():
    layer = Upsample(1)
    layer.build((1, 2, 2, 1))
    kernel = np.zeros((3, 3, 1, 1), "float32")
    kernel[1, 1] = 1
    layer.conv.kernel.assign(kernel)
    x = np.array([[1, 2], [3, 4]], "float32")[None, :, :, None]
    whole = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
    np.testing.assert_array_equal(layer(x), whole)
    np.testing.assert_array_equal(layer(x, np.zeros((1, 3, 4, 9))), whole[:, :3])
    np.testing.assert_array_equal(layer(x, np.zeros((1, 4, 3, 9))), whole[:, :, :3])
    assert layer.compute_output_shape((1, 2, None, 1)) == (1, 4, None, 1)
    assert layer.compute_output_shape((1, 2, 2, 1), (1, 3, None, 9)) == (1, 3, None, 1)


@pytest.mark.parametrize("dtype, most", [("float32", 2e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("int8", [False, True])
def test_upsampling_by_four_convolutions_is_repeating_and_then_convolving(dtype, most, int8):
    layer, x = Upsample(5, dtype=dtype), ops.cast(numbers(2, 3, 4, 7), dtype)
    layer.build(x.shape)
    layer.conv.bias.assign(numbers(5))
    if int8:
        layer.conv.quantize("int8")
    expected = ops.cast(layer.conv(ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)), "float32")
    got = layer(x)
    assert got.dtype == x.dtype and got.shape == (2, 6, 8, 5)
    assert np.abs(ops.cast(got, "float32") - expected).max() < most * np.abs(expected).max()


def test_accelerators_upsample_to_the_same(monkeypatch):
    layer, x = Upsample(5), numbers(2, 3, 4, 7)
    layer.build(x.shape)
    by_parts = layer(x)
    monkeypatch.setattr("kerasdiff.layers.blocks.device", lambda: "gpu")
    monkeypatch.setattr(layer, "_double", None)
    np.testing.assert_allclose(layer(x), by_parts, atol=2e-6)


@pytest.mark.parametrize("padding, expected", [(1, (1, 3, 4, 2)), ((0, 1), (1, 2, 4, 2))])
def test_downsampling_rounds_as_its_padding_says(padding, expected):
    layer = Downsample(2, padding)
    assert layer(numbers(1, 5, 8, 3)).shape == expected
    assert layer.compute_output_shape((1, 5, 8, 3)) == expected


@pytest.mark.parametrize("dtype, step", [("float32", 2e-7), ("float16", 5e-4), ("bfloat16", 4e-3)])
def test_gelu_is_exact_to_its_last_rounding(dtype, step):
    x = ops.cast(np.linspace(-6, 6, 4001), dtype)
    got, x = (np.asarray(ops.cast(array, "float64")) for array in (gelu(x), x))
    expected = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    assert (np.abs(got - expected) <= step * np.abs(x)).all()


def test_geglu_is_the_exact_gelu_of_the_second_half():
    x = numbers(2, 3, 4)
    layer = FeedForward(2)
    layer.build(x.shape)
    randomise(layer)
    inner = np.asarray(layer.inward(x)).astype("float64")
    value, gate = np.split(inner, 2, axis=-1)
    gate = gate * 0.5 * (1 + np.vectorize(math.erf)(gate / math.sqrt(2)))
    kernel, bias = (np.asarray(v.value) for v in layer.outward.variables)
    np.testing.assert_allclose(np.asarray(layer(x)), (value * gate) @ kernel + bias, atol=1e-4)


def attend(layer, x, context, mask):
    """Head by head in float64."""
    project = [np.asarray(part(y)).astype("float64") for part, y in zip(
        (layer.to_q, layer.to_k, layer.to_v), (x, context, context), strict=True)]  # fmt: skip
    split = [np.split(part, layer.heads, axis=-1) for part in project]
    outputs = []
    for query, key, value in zip(*split, strict=True):
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
        scores = np.exp(np.where(mask, scores, -np.inf))
        outputs.append(scores / scores.sum(axis=-1, keepdims=True) @ value)
    kernel, bias = (np.asarray(v.value) for v in layer.to_out.variables)
    return np.concatenate(outputs, axis=-1) @ kernel + bias


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("heads", [1, 4])
def test_attention_to_a_context(heads, use_bias):
    x, context = numbers(2, 5, 8), numbers(2, 3, 6, seed=9)
    layer = Attention(heads, use_bias)
    layer(x, context)
    randomise(layer)
    expected = attend(layer, x, context, True)
    np.testing.assert_allclose(np.asarray(layer(x, context)), expected, atol=1e-5)


def test_causal_attention_sees_nothing_later():
    x = numbers(2, 5, 8)
    layer = Attention(2, causal=True)
    layer(x)
    expected = attend(randomise(layer), x, x, np.tril(np.ones((5, 5), bool)))
    np.testing.assert_allclose(np.asarray(layer(x)), expected, atol=1e-5)


@pytest.mark.parametrize("heads", [0, 3, 16])
def test_heads_that_do_not_divide_are_refused(heads):
    with pytest.raises(
        ValueError, match=rf"attn1: `heads` must divide the 8 channels, not be {heads}"
    ):
        Attention(heads, name="attn1").build((1, 4, 8))
