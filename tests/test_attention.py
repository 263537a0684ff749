"""Attention equals a plain form in NumPy, forwards and backwards, on every way through it."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from attention_oracle import naive_attention, naive_gradients, problem
from keras import ops

from kerasdiff.attention import attention

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
# (B, Tq, Tk, H, D, Dv), chunk of queries, chunk of keys
CASES = {
    "one key": ((2, 40, 1, 2, 8, 8), 4, 4),
    "one query": ((2, 1, 77, 2, 8, 8), 4, 8),
    "77 keys, one chunk": ((1, 64, 77, 3, 8, 8), 16, 77),
    "77 keys, chunks": ((1, 64, 77, 3, 8, 8), 16, 16),
    "primes, one chunk": ((2, 31, 37, 2, 4, 5), 8, 64),
    "primes, chunks": ((2, 31, 37, 2, 4, 5), 8, 16),
    "whole chunks": ((1, 32, 64, 2, 8, 3), 16, 16),
    "chunks of one": ((1, 5, 7, 1, 4, 4), 1, 1),
    "plain": ((2, 31, 37, 2, 4, 5), 512, 4096),
}
XLA_CASES = ("one query", "77 keys, one chunk", "primes, chunks", "plain")  # slow to compile


def run(arrays, mask, upstream, compile_as="graph", **options):
    """Output and the gradients of query, key and value, as float64."""

    def with_gradients(query, key, value, upstream):
        with tf.GradientTape() as tape:
            tape.watch((query, key, value))
            output = attention(query, key, value, mask, **options)
        return output, tape.gradient(output, (query, key, value), upstream)

    if compile_as != "eager":
        with_gradients = tf.function(
            with_gradients, jit_compile=compile_as == "xla", autograph=False
        )
    tensors = [tf.convert_to_tensor(array) for array in arrays]
    output, gradients = with_gradients(*tensors, tf.cast(upstream, tensors[0].dtype))
    return [np.asarray(each, "float64") for each in (output, *gradients)]


def expected(arrays, mask, upstream, scale=None):
    arrays = [np.asarray(array, "float64") for array in arrays]
    output = naive_attention(*arrays, mask, scale)
    return [output, *naive_gradients(*arrays, mask, np.asarray(upstream, "float64"), scale)]


def assert_agree(got, wanted, tolerance):
    for name, one, other in zip(("output", "query", "key", "value"), got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("masked", [False, True], ids=["all attend", "masked"])
@pytest.mark.parametrize(
    "case, compile_as", [(case, "graph") for case in CASES] + [(case, "xla") for case in XLA_CASES]
)
def test_output_and_gradients_equal_the_plain_form(case, compile_as, masked):
    sizes, query_chunk, key_chunk = CASES[case]
    *arrays, mask, upstream = problem(*sizes)
    mask = mask if masked else None
    options = {"query_chunk_size": query_chunk, "key_chunk_size": key_chunk}
    got = run(arrays, mask, upstream, compile_as, **options)
    assert_agree(got, expected(arrays, mask, upstream), TOLERANCE["float32"])


@pytest.mark.filterwarnings("error:You are using a softmax")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("chunks", [(512, 4096), (2, 8)])
def test_one_key_is_taken_whole_and_without_a_warning(chunks, dtype):
    *arrays, _, upstream = problem(2, 40, 1, 2, 8, 8)
    arrays = [np.array(ops.cast(array, dtype)) for array in arrays]
    sizes = dict(zip(("query_chunk_size", "key_chunk_size"), chunks, strict=True))
    found = run(arrays, None, upstream, **sizes)
    if dtype == "float32":  # 0 for query and key; bfloat16 rounds what cancels
        assert_agree(found, expected(arrays, None, upstream), TOLERANCE[dtype])
    assert (found[0] == np.broadcast_to(arrays[2], found[0].shape)).all()
    arrays[0][0, 0, 0, 0] = np.nan
    output = np.asarray(attention(*arrays, **sizes))
    assert np.isnan(output[0, 0, 0]).all() and np.isfinite(output[1]).all()


def test_only_the_case_that_is_named_so_takes_the_plain_form():
    for name, ((batch, queries, keys, heads, *_), query_chunk, key_chunk) in CASES.items():
        is_short = batch * queries * keys * heads <= query_chunk * key_chunk
        assert is_short == (name == "plain"), name


@pytest.mark.parametrize("key_chunk", [16, 64], ids=["chunks", "one chunk"])
def test_eager_calls_equal_the_plain_form(key_chunk):
    *arrays, mask, upstream = problem(1, 31, 37, 2, 4, 4)
    options = {"query_chunk_size": 4, "key_chunk_size": key_chunk}
    got = run(arrays, mask, upstream, "eager", **options)
    assert_agree(got, expected(arrays, mask, upstream), TOLERANCE["float32"])


@pytest.mark.parametrize("masked", [False, True], ids=["all attend", "masked"])
@pytest.mark.parametrize("chunks", [(16, 16), (16, 128), (512, 4096)], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_each_dtype_is_kept_and_meets_its_tolerance(dtype, chunks, masked):
    *arrays, mask, upstream = problem(2, 61, 77, 2, 40, 40)
    mask = mask if masked else None
    arrays = [np.asarray(ops.cast(array, dtype)) for array in arrays]
    upstream = np.asarray(ops.cast(upstream, dtype))
    options = {"query_chunk_size": chunks[0], "key_chunk_size": chunks[1]}
    got = run(arrays, mask, upstream, **options)
    assert_agree(got, expected(arrays, mask, upstream), TOLERANCE[dtype])
    assert keras.backend.standardize_dtype(attention(*arrays, **options).dtype) == dtype


def test_random_problems_equal_the_plain_form():
    rng = np.random.default_rng(7)
    for seed in range(8):
        sizes = rng.integers([1, 1, 1, 1, 1, 1], [3, 90, 90, 4, 20, 20])
        chunks = [int(chunk) for chunk in rng.integers(1, 40, 2) + 8]
        *arrays, mask, upstream = problem(*sizes, seed=seed)
        options = {"query_chunk_size": chunks[0], "key_chunk_size": chunks[1]}
        got = run(arrays, mask, upstream, **options)
        assert_agree(got, expected(arrays, mask, upstream), TOLERANCE["float32"])


@pytest.mark.parametrize("chunks", [(8, 8), (2, 32), (512, 4096)], ids=str)
@pytest.mark.parametrize("compile_as", ["eager", "graph", "xla"])
def test_a_row_that_attends_to_nothing_gives_zeros_and_no_gradient(compile_as, chunks):
    *arrays, mask, upstream = problem(1, 19, 23, 2, 4, 4)
    mask[:] = True
    mask[0, 1, 5] = False
    options = {"query_chunk_size": chunks[0], "key_chunk_size": chunks[1]}
    output, *gradients = run(arrays, mask, upstream, compile_as, **options)
    assert not output[0, 5, 1].any() and output[0, 5, 0].all()
    assert not gradients[0][0, 5, 1].any()
    nowhere = np.zeros_like(mask)
    for each in run(arrays, nowhere, upstream, compile_as, **options):
        assert not each.any()  # not even NaN


MASKS = {
    "(Tq, Tk)": (19, 23),
    "(B, Tq, Tk)": (2, 19, 23),
    "(B, 1, 1, Tk)": (2, 1, 1, 23),
    "(1, H, Tq, 1)": (1, 3, 19, 1),
    "(1, 1, Tq, Tk)": (1, 1, 19, 23),
}


@pytest.mark.parametrize("chunks", [(8, 8), (4, 64), (512, 4096)], ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_masks_broadcast(name, chunks):
    *arrays, _, upstream = problem(2, 19, 23, 3, 4, 4)
    mask = np.random.default_rng(1).random(MASKS[name]) > 0.4
    full = mask[:, None] if mask.ndim == 3 else mask
    full = np.broadcast_to(full, (2, 3, 19, 23))
    options = {"query_chunk_size": chunks[0], "key_chunk_size": chunks[1]}
    got = run(arrays, mask, upstream, **options)
    assert_agree(got, expected(arrays, full, upstream), TOLERANCE["float32"])


@pytest.mark.parametrize("chunks", [(8, 8), (2, 64), (512, 4096)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_logits_of_ten_thousand_stay_finite(dtype, chunks):
    query = np.where(np.arange(31) % 2, 100.0, -100.0).reshape(1, 31, 1, 1)  # 1147 scores
    key = np.linspace(-100, 100, 37).reshape(1, 37, 1, 1)
    arrays = [np.asarray(ops.cast(array, dtype)) for array in (query, key, key)]
    options = {"query_chunk_size": chunks[0], "key_chunk_size": chunks[1], "scale": 1.0}
    output, *gradients = run(arrays, None, np.ones((1, 31, 1, 1)), **options)
    np.testing.assert_allclose(output, query, rtol=1e-6)  # all the weight on one key
    assert all(np.isfinite(each).all() for each in gradients)


@pytest.mark.parametrize("key_chunk", [8, 32], ids=["chunks", "one chunk"])
def test_the_scale_can_be_set(key_chunk):
    *arrays, mask, upstream = problem(1, 19, 23, 2, 4, 4)
    options = {"query_chunk_size": 2, "key_chunk_size": key_chunk, "scale": 0.3}
    got = run(arrays, mask, upstream, **options)
    assert_agree(got, expected(arrays, mask, upstream, 0.3), TOLERANCE["float32"])


@pytest.mark.parametrize("masked", [False, True], ids=["all attend", "masked"])
def test_batch_and_lengths_may_be_unknown_while_tracing(masked):
    spec = tf.TensorSpec((None, None, 2, 4))
    mask_spec = tf.TensorSpec((None, None, None), "bool")

    @tf.function(input_signature=[spec] * 4 + [mask_spec], autograph=False)
    def with_gradients(query, key, value, upstream, mask):
        with tf.GradientTape() as tape:
            tape.watch((query, key, value))
            output = attention(
                query, key, value, mask if masked else None, query_chunk_size=8, key_chunk_size=16
            )
        return output, tape.gradient(output, (query, key, value), upstream)

    for lengths in ((31, 37), (16, 32), (3, 5)):
        *arrays, mask, upstream = problem(2, *lengths, 2, 4, 4)
        mask = mask[:, 0]
        output, gradients = with_gradients(*arrays, upstream, mask)
        full = np.broadcast_to(mask[:, None], (2, 2, *lengths)) if masked else None
        wanted = expected(arrays, full, upstream)
        assert_agree([output, *gradients], wanted, TOLERANCE["float32"])


def test_no_keys_give_zeros():
    output = attention(np.ones((1, 3, 2, 4)), np.ones((1, 0, 2, 4)), np.ones((1, 0, 2, 5)))
    np.testing.assert_array_equal(output, np.zeros((1, 3, 2, 5)))


@pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed")
def test_jax_gives_the_same():
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parent)])
    result = subprocess.run(
        [sys.executable, "-c", "import attention_oracle as oracle; oracle.check_on_jax()"],
        env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["jax", "8"]


BAD = {
    "rank of query": ({"query": (1, 8, 4)}, "`query` must have shape"),
    "rank of value": ({"value": (8,)}, "`value` must have shape"),
    "batch": ({"key": (2, 9, 2, 4)}, "batches of `key`"),
    "heads": ({"value": (1, 9, 3, 4)}, "heads of `value`"),
    "head size": ({"key": (1, 9, 2, 5)}, "head sizes of `key`"),
    "length": ({"value": (1, 10, 2, 4)}, "lengths of `value`"),
}


@pytest.mark.parametrize("name", BAD)
def test_shapes_that_do_not_fit_are_named(name):
    changed, message = BAD[name]
    shapes = {"query": (1, 8, 2, 4), "key": (1, 9, 2, 4), "value": (1, 9, 2, 4)} | changed
    with pytest.raises(ValueError, match=message):
        attention(**{key: np.ones(shape, "float32") for key, shape in shapes.items()})


@pytest.mark.parametrize("dtypes", [("float32", "float16"), ("int32", "int32")], ids=str)
def test_dtypes_that_do_not_fit_are_named(dtypes):
    first, other = (np.ones((1, 8, 2, 4), dtype) for dtype in dtypes)
    with pytest.raises(ValueError, match=f"floating dtype, not {dtypes[0]}, {dtypes[1]}"):
        attention(first, other, other)


@pytest.mark.parametrize(
    "mask, message",
    [
        (np.ones((8, 8)), "must be boolean"),
        (np.ones((8, 7), bool), "does not fit"),
        (np.ones((2, 8, 8), bool), "does not fit"),
        (np.ones((1, 1, 1, 8, 8), bool), "at most four axes"),
    ],
)
def test_masks_that_do_not_fit_are_named(mask, message):
    with pytest.raises(ValueError, match=message):
        attention(*[np.ones((1, 8, 2, 4), "float32")] * 3, mask)


SIZES = [
    (name, size)
    for name in ("query_chunk_size", "key_chunk_size")
    for size in (0, -1, 2.0, True, "none", None)
    if (name, size) != ("query_chunk_size", None)  # as many as suit the processor
]


@pytest.mark.parametrize("name, size", SIZES, ids=str)
def test_chunk_sizes_that_make_no_sense_are_named(name, size):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        attention(*[np.ones((1, 8, 2, 4), "float32")] * 3, **{name: size})


@pytest.mark.parametrize("sizes", [{}, {"query_chunk_size": 4, "key_chunk_size": 4}], ids=str)
def test_scores_may_leave_float16_s_range(sizes):
    """What diffusers' `upcast_attention` asks for."""
    query = np.full((1, 40, 1, 64), 100, "float16")
    key = query * np.linspace(1, 2, 40, dtype="float16")[None, :, None, None]
    value = np.arange(40, dtype="float16")[None, :, None, None] + np.zeros((1, 1, 1, 8), "float16")
    output = np.asarray(attention(query, key, value, **sizes), "float32")
    np.testing.assert_array_equal(output, np.full((1, 40, 1, 8), 39))  # the largest score's alone
