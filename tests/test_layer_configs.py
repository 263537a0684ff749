"""Layers come back from their configs, foretell outputs, keep dtypes, and name variables."""

import keras
import numpy as np
import pytest
from layer_cases import numbers, randomise

from kerasdiff.layers import (
    Attention,
    AttentionBlock,
    Dense,
    Downsample,
    FeedForward,
    GroupNorm,
    MeanLatents,
    PaddedConv2D,
    ResBlock,
    SpatialTransformer,
    TimeEmbedding,
    Upsample,
    tensor_name,
    to_torch_axes,
    uninitialized,
    without_memory,
)

MAP, VECTOR, TEXT = (2, 4, 6, 8), (2, 5), (2, 3, 7)
LAYERS = {
    "dense": (Dense(4, use_bias=False), [MAP]),
    "conv": (PaddedConv2D(4, 3, (0, 1), 2), [MAP]),
    "norm": (GroupNorm(2, 1e-3), [MAP]),
    "time": (TimeEmbedding(6), [VECTOR]),
    "guided": (TimeEmbedding(6), [VECTOR, (2, 9)]),
    "res": (ResBlock(4, 2, 1e-3), [MAP]),
    "timed": (ResBlock(8, 2, 1e-3), [MAP, VECTOR]),
    "down": (Downsample(4, (0, 1)), [MAP]),
    "up": (Upsample(4), [MAP, (2, 7, 11, 3)]),
    "attention": (Attention(2, True, True), [(2, 5, 8)]),
    "ff": (FeedForward(3), [(2, 5, 8)]),
    "transformer": (SpatialTransformer(2, 2, 4, 1e-3), [MAP, TEXT]),
    "linear": (SpatialTransformer(4, 1, 2, 1e-3, True), [MAP, TEXT]),
    "block": (AttentionBlock(2, 1e-3), [MAP]),
    "mean": (MeanLatents(0.5, 0.25), [MAP]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_comes_back_from_its_config(name):
    layer, shapes = LAYERS[name]
    inputs = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    output = layer(*inputs)
    randomise(layer)
    output = layer(*inputs)
    spec = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(spec)
    again(*inputs)
    assert [v.path for v in again.variables] == [v.path for v in layer.variables]
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(*inputs), output)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_foretells_its_output(name):
    layer, shapes = LAYERS[name]
    symbols = [keras.KerasTensor((None, *shape[1:])) for shape in shapes]
    output = layer(*(numbers(*shape) for shape in shapes))
    foretold = layer.compute_output_spec(*symbols)
    assert foretold.shape[1:] == tuple(output.shape[1:])
    assert foretold.dtype == keras.backend.standardize_dtype(output.dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", LAYERS)
def test_parts_have_the_dtype_of_the_whole(name, dtype):
    layer, shapes = LAYERS[name]
    layer = type(layer).from_config({**layer.get_config(), "dtype": dtype})
    output = layer(*(numbers(*shape) for shape in shapes))
    policy = keras.dtype_policies.get(dtype)
    assert keras.backend.standardize_dtype(output.dtype) == policy.compute_dtype
    assert {variable.dtype for variable in layer.variables} <= {policy.variable_dtype}


def test_names_are_full_whatever_lies_around():
    transformer = SpatialTransformer(2, 1, 4, 1e-6, name="mid_block.attentions.0")
    x, text = keras.Input((None, None, 8)), keras.Input((None, 7))
    inner = keras.Model([x, text], transformer(x, text), name="inner")
    outer = keras.Model([x, text], inner([x, text]), name="outer")
    names = {tensor_name(variable) for variable in outer.variables}
    block = "mid_block.attentions.0.transformer_blocks.0"
    assert {f"{block}.attn2.to_out.0.bias", f"{block}.ff.net.0.proj.weight"} <= names
    assert {"mid_block.attentions.0.norm.weight", "mid_block.attentions.0.proj_in.bias"} <= names
    assert len(names) == len(outer.variables) == 26
    embedding = keras.layers.Embedding(5, 2, name="text_model.embeddings.token_embedding")
    embedding.build()
    assert tensor_name(embedding.variables[0]) == "embeddings.token_embedding.weight"


@pytest.mark.parametrize("path", ["adam/learning_rate", "kernel", "adam/conv_in_kernel_momentum"])
def test_variables_of_no_layer_have_no_tensor(path):
    class Stranger:
        pass

    Stranger.path = path
    with pytest.raises(ValueError, match=f"must be a layer's weight or bias, not '{path}'"):
        tensor_name(Stranger)


def test_axes_are_pytorch_s():
    conv, dense, norm = PaddedConv2D(4, 3), Dense(5), GroupNorm(1, 1.0)
    for layer in (conv, dense, norm):
        layer.build((1, 8, 8, 2))
    axes = {v.path.split("/")[-1]: to_torch_axes(v) for v in (*dense.variables, *norm.variables)}
    assert axes == {"kernel": (1, 0), "bias": (0,), "gamma": (0,), "beta": (0,)}
    assert to_torch_axes(conv.kernel) == (3, 2, 0, 1)
    embedding = keras.layers.Embedding(5, 2)
    embedding.build()
    assert to_torch_axes(embedding.variables[0]) == (0, 1)


def test_variables_start_at_random_except_where_loading_follows(monkeypatch):
    calls, scaled = [], keras.initializers.VarianceScaling.__call__

    def counted(*args, **options):
        calls.append(args)
        return scaled(*args, **options)

    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", counted)

    def drawn():
        calls.clear()
        layer = ResBlock(4, 2, 1e-5)
        layer.build((1, 4, 4, 2))
        return len(calls), sum(v.path.endswith("kernel") for v in layer.variables)

    drawn_kernels, kernels = drawn()
    assert drawn_kernels == kernels > 0
    with uninitialized():
        with uninitialized():
            assert drawn() == (0, kernels)
        assert drawn() == (0, kernels)
    with pytest.raises(RuntimeError), uninitialized():
        raise RuntimeError
    assert drawn() == (kernels, kernels)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX's have no names")
def test_variables_that_a_checkpoint_fills_are_named_by_keras_alone():
    def layer():
        model = keras.Sequential([keras.Input((4, 4, 2)), ResBlock(4, 2, 1e-5, name="res")])
        return [(variable.path, variable.value.name) for variable in model.variables]

    with uninitialized():
        filled = layer()
    others = layer()
    paths = [[path.split("/", 1)[1] for path, _ in each] for each in (filled, others)]
    assert paths[0] == paths[1]
    assert {name for _, name in filled} == {"gamma:0", "beta:0", "kernel:0", "bias:0"}
    assert all("/" in name for _, name in others)


def test_variables_without_memory_never_take_any():
    def build():
        layer = Dense(4)
        layer.build((1, 3))
        return layer

    layer = without_memory(build)
    with keras.StatelessScope():  # at its end Keras fills what it has not filled yet
        pass
    assert [(tuple(v.shape), v._value) for v in layer.variables] == [((3, 4), None), ((4,), None)]
