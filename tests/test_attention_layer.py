"""The attention layer: heads, masks, saving, training and refusals."""

import keras
import numpy as np
import pytest
from attention_oracle import naive_attention, problem

from kerasdiff.attention import MemoryEfficientAttention


def small_layer(**options):
    return MemoryEfficientAttention(2, query_chunk_size=8, key_chunk_size=8, **options)


def test_the_layer_splits_widths_into_heads():
    query, key, value, _, _ = problem(2, 19, 23, 2, 4, 5)
    joined = [np.reshape(array, (*array.shape[:2], -1)) for array in (query, key, value)]
    wanted = naive_attention(query, key, value).reshape(2, 19, 10)
    np.testing.assert_allclose(small_layer()(*joined), wanted, atol=1e-5)
    both = small_layer()(joined[0], joined[1])
    wanted = naive_attention(query, key, key).reshape(2, 19, 8)
    np.testing.assert_allclose(both, wanted, atol=1e-5)
    wanted = naive_attention(query, query, query).reshape(2, 19, 8)
    np.testing.assert_allclose(small_layer()(joined[0]), wanted, atol=1e-5)


def test_the_layer_takes_padding_masks():
    query, key, value, _, _ = problem(2, 19, 23, 2, 4, 5)
    joined = [np.reshape(array, (*array.shape[:2], -1)) for array in (query, key, value)]
    mask = np.arange(23) < [[20], [4]]
    full = np.broadcast_to(mask[:, None, None], (2, 2, 19, 23))
    wanted = naive_attention(query, key, value, full).reshape(2, 19, 10)
    np.testing.assert_allclose(small_layer()(*joined, mask=mask), wanted, atol=1e-5)


def test_the_layer_uses_and_hands_on_keras_masks_of_tokens():
    tokens = np.array([[3, 5, 2, 0], [1, 0, 0, 0]])
    embedded = keras.layers.Embedding(9, 8, mask_zero=True)(tokens)
    output = small_layer()(embedded)
    np.testing.assert_array_equal(output._keras_mask, tokens != 0)
    wanted = small_layer()(np.asarray(embedded), mask=tokens != 0)
    np.testing.assert_allclose(output, wanted, atol=1e-6)


def test_the_layer_uses_keras_masks_of_keys():
    tokens = np.array([[3, 5, 2, 0], [1, 0, 0, 0]])
    context = keras.layers.Embedding(9, 8, mask_zero=True)(tokens)
    query = np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32")
    plain, padding = np.asarray(context), (tokens != 0)[:, None]
    wanted = small_layer()(query, plain, plain, mask=np.repeat(padding, 6, axis=1))
    np.testing.assert_allclose(small_layer()(query, context, context), wanted, atol=1e-6)
    narrow = np.arange(4) != 1
    wanted = small_layer()(query, plain, plain, mask=np.repeat(padding & narrow, 6, axis=1))
    given = small_layer()(query, context, context, mask=np.broadcast_to(narrow, (2, 6, 4)))
    np.testing.assert_allclose(given, wanted, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed_float16"])
def test_a_model_with_the_layer_is_saved_and_trained(dtype, tmp_path):
    inputs = [keras.Input((None, 8), name="query"), keras.Input((None, 6), name="context")]
    key, value = (keras.layers.Dense(8, dtype=dtype)(inputs[1]) for _ in range(2))
    output = small_layer(dtype=dtype, name="attention")(inputs[0], key, value)
    assert output.shape == (None, None, 8)
    model = keras.Model(inputs, output)
    rng = np.random.default_rng(0)
    data = [rng.normal(size=shape).astype("float32") for shape in ((2, 19, 8), (2, 23, 6))]
    before = np.asarray(model(data), "float32")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(again(data), "float32"), before)
    again.compile("sgd", "mse", jit_compile=False)
    losses = again.fit(data, np.ones((2, 19, 8)), epochs=3, verbose=0).history["loss"]
    assert losses[2] < losses[0]


def test_the_config_round_trips():
    layer = MemoryEfficientAttention(4, query_chunk_size=64, key_chunk_size=128, name="a")
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert config["registered_name"] == "kerasdiff>MemoryEfficientAttention"
    assert isinstance(again, MemoryEfficientAttention)
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("symbolic", [False, True], ids=["called", "in a graph"])
@pytest.mark.parametrize(
    "shapes, message",
    [
        (((1, 8, 7),), "divisible by num_heads=2"),
        (((1, 8),), "`query` must have shape"),
        (((1, 8, 4), (1, 9, 2, 2)), "`key` must have shape"),
        (((1, 8, 4), (1, 9, 4), (1, 10, 4)), "lengths of `value`"),
        (((1, 8, 4), (1, 9, 6)), "head sizes of `key`"),
    ],
)
def test_the_layer_refuses_shapes_that_do_not_fit(shapes, message, symbolic):
    make = keras.KerasTensor if symbolic else np.ones
    with pytest.raises(ValueError, match=message):
        small_layer()(*[make(shape) for shape in shapes])


SIZES = [
    (name, size)
    for name in ("num_heads", "query_chunk_size", "key_chunk_size")
    for size in (0, -2, 1.5, True, "none", None)
    if (name, size) != ("query_chunk_size", None)  # as many as suit the processor
]


@pytest.mark.parametrize("name, size", SIZES, ids=str)
def test_numbers_that_make_no_sense_are_named(name, size):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        MemoryEfficientAttention(**{"num_heads": 2, name: size})
