"""Attention's other ways: a device's fused kernel, and graphs without loops."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from attention_oracle import naive_attention, problem
from keras import ops

from kerasdiff.attention import attention, function, pieces, without_loops
from kerasdiff.backend import Program, forms, product_forms, training_forms
from kerasdiff.backend.tensorflow_programs import compile_function


@pytest.mark.parametrize("sizes", ((1, 64, 77, 3, 8, 8), (2, 31, 37, 2, 4, 5)), ids=str)
@pytest.mark.parametrize("masked", (False, True))
def test_without_loops_the_graph_has_none_and_gives_the_same(sizes, masked):
    *arrays, mask, _ = problem(*sizes)
    mask = mask if masked else None
    tensors = [tf.constant(array) for array in arrays]

    def trace():
        run = tf.function(
            lambda *given: attention(*given, mask, query_chunk_size=16, key_chunk_size=16),
            autograph=False,
        )
        traced = run.get_concrete_function(*tensors)
        return traced, any("While" in node.type for node in traced.graph.get_operations())

    assert trace()[1]
    with without_loops():
        traced, loops = trace()
    assert not loops
    wanted = naive_attention(*arrays, mask)
    np.testing.assert_allclose(traced(*tensors), wanted, atol=1e-5)
    assert trace()[1]


@pytest.fixture
def fused(monkeypatch):
    """A device with a fused kernel, whose place Keras' plain form takes; a list of its calls."""
    calls, plain = [], ops.dot_product_attention

    def kernel(*arrays, flash_attention, **options):
        assert flash_attention is True  # or Keras might fall back to all scores at once
        calls.append(arrays[0].shape)
        exact = plain(*(ops.cast(array, "float64") for array in arrays), **options)
        return ops.cast(exact, arrays[0].dtype)

    monkeypatch.setattr(function, "fused_attention_dtypes", lambda: ("float16", "bfloat16"))
    monkeypatch.setattr(function.ops, "dot_product_attention", kernel)
    return calls


@pytest.mark.parametrize("scale", (None, 0.3))
def test_a_fused_kernel_is_handed_the_same_problem(fused, scale):
    *arrays, _, _ = problem(2, 61, 77, 2, 40, 40)
    arrays = [np.asarray(ops.cast(array, "bfloat16")) for array in arrays]
    got = attention(*arrays, scale=scale)
    wanted = naive_attention(*(array.astype("float64") for array in arrays), None, scale)
    np.testing.assert_allclose(np.asarray(got, "float64"), wanted, atol=2e-2)
    assert len(fused) == 1


def test_what_a_fused_kernel_cannot_do_is_done_without(fused):
    def run_on(sizes, dtype, masked=False):
        *arrays, mask, _ = problem(*sizes)
        attention(*(ops.cast(array, dtype) for array in arrays), mask if masked else None)

    run_on((1, 8, 9, 2, 8, 8), "bfloat16", masked=True)
    run_on((1, 8, 9, 2, 8, 8), "float32")
    run_on((1, 8, 9, 2, 12, 12), "float16")
    run_on((1, 8, 9, 2, 136, 136), "float16")
    run_on((1, 8, 9, 2, 8, 16), "float16")
    assert not fused


@pytest.mark.parametrize("masked", (False, True))
def test_many_pieces_outside_of_a_program_are_one(masked, monkeypatch):
    *arrays, mask, _ = problem(2, 33, 20, 2, 8, 5)
    given = [tf.constant(array) for array in arrays]
    sizes = {"query_chunk_size": 4, "key_chunk_size": 16}
    runs = []

    def note(scale, sizes, dtype):
        return lambda given: runs.append(dtype) or program(scale, sizes, dtype)(given)

    program = function._program
    monkeypatch.setattr(function, "_program", note)
    with tf.GradientTape() as tape:
        tape.watch(given)
        output = attention(*given, mask if masked else None, **sizes)
        total = tf.reduce_sum(output * tf.cos(tf.range(5.0)))
    gradients = tape.gradient(total, given)
    assert runs == ["float32"]  # 2 x 2 heads, 9 x 2 chunks
    attention(*given, query_chunk_size=16, key_chunk_size=16)
    tf.function(lambda *given: attention(*given, **sizes), autograph=False)(*given)
    assert runs == ["float32"]  # few pieces; in a program already

    np.testing.assert_allclose(
        output, naive_attention(*arrays, mask if masked else None), atol=1e-5
    )
    monkeypatch.setattr(function, "MANY", 10**9)
    with tf.GradientTape() as tape:
        tape.watch(given)
        total = attention(*given, mask if masked else None, **sizes) * tf.cos(tf.range(5.0))
    for got, expected in zip(gradients, tape.gradient(total, given), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ("bfloat16", "float16"))
@pytest.mark.parametrize("chunks", ((1024, 4096), (4, 16), (4, 64)), ids=str)
@pytest.mark.parametrize("masked", (False, True))
def test_by_xla_sixteen_bits_are_rounded_at_the_end_alone(dtype, chunks, masked, monkeypatch):
    """Where XLA would compute their products in float32 anyway: on processors."""
    monkeypatch.setattr(product_forms, "computes_in_bfloat16", lambda: False)
    *arrays, mask, _ = problem(2, 33, 40, 2, 8, 8)
    arrays = [ops.cast(array, dtype) for array in arrays]
    sizes = dict(zip(("query_chunk_size", "key_chunk_size"), chunks, strict=True))

    def run(*given):
        return attention(*given, mask if masked else None, **sizes)

    got = Program(run, keras.layers.Identity(dtype=dtype), True)(*arrays)
    assert keras.backend.standardize_dtype(got.dtype) == dtype
    exact = (ops.convert_to_numpy(ops.cast(array, "float64")) for array in arrays)
    wanted = naive_attention(*exact, mask if masked else None)
    last_bit = {"bfloat16": 2**-7, "float16": 2**-10}[dtype]
    got = ops.convert_to_numpy(ops.cast(got, "float64"))
    np.testing.assert_allclose(got, wanted, rtol=0.51 * last_bit, atol=1e-6)


CHUNKS = ((1024, 4096), (4, 16), (4, 64))


def natively(arrays, chunks, mask=None):
    """Attention of float32 arrays in bfloat16, by XLA where the processor computes in it."""
    arrays = [ops.cast(array, "bfloat16") for array in arrays]
    sizes = dict(zip(("query_chunk_size", "key_chunk_size"), chunks, strict=True))
    program = Program(
        lambda *given: attention(*given, mask, **sizes),
        keras.layers.Identity(dtype="bfloat16"),
        True,
    )
    got = ops.convert_to_numpy(ops.cast(program(*arrays), "float64"))
    return got, [ops.convert_to_numpy(ops.cast(array, "float64")) for array in arrays]


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("masked", (False, True))
def test_native_bfloat16_rounds_queries_shares_and_outputs_alone(chunks, masked, monkeypatch):
    monkeypatch.setattr(product_forms, "computes_in_bfloat16", lambda: True)
    *arrays, mask, _ = problem(2, 33, 40, 2, 8, 8)
    got, exact = natively(arrays, chunks, mask if masked else None)
    wanted = naive_attention(*exact, mask if masked else None)
    np.testing.assert_allclose(got, wanted, rtol=2**-7, atol=2**-7)
    assert np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2)) < 2**-8
    assert not masked or not got[0, 0, 0].any()  # it attends to nothing


@pytest.mark.parametrize("chunks", CHUNKS[1:], ids=str)
def test_native_shares_add_up_to_one_as_they_are_rounded(chunks, monkeypatch):
    """So that values that are all alike come out as they are."""
    monkeypatch.setattr(product_forms, "computes_in_bfloat16", lambda: True)
    query, key, value, *_ = problem(2, 33, 40, 2, 8, 8)
    got, _ = natively([query, key, np.full_like(value, 0.71875)], chunks)
    np.testing.assert_array_equal(got, np.full_like(got, 0.71875))


@pytest.mark.parametrize("by_xla", (False, True))
def test_training_has_xla_compile_attention(by_xla):
    *arrays, _, _ = problem(2, 33, 40, 2, 8, 8)
    given = [tf.constant(array) for array in arrays]

    def gradients(*given):
        with tf.GradientTape() as tape:
            tape.watch(given)
            output = attention(*given, query_chunk_size=4, key_chunk_size=16)
            total = tf.reduce_sum(output * tf.cos(tf.range(8.0)))
        return tape.gradient(total, given)

    def train(*given):
        with training_forms():
            return gradients(*given)

    step = tf.function(train, jit_compile=by_xla, autograph=False)
    for got, expected in zip(step(*given), gradients(*given), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    graph = step.get_concrete_function(*given).graph.as_graph_def()
    assert any(each.attr["_XlaMustCompile"].b for each in graph.library.function)


@pytest.mark.parametrize("backwards", (False, True))
def test_training_that_is_let_go_of_leaves_attention_to_others_and_keeps_nothing(backwards):
    *arrays, _, _ = problem(2, 33, 40, 2, 8, 8, seed=1)
    given = [tf.constant(array) for array in arrays]

    def mixed(*given):
        with training_forms():
            return attention(*given, query_chunk_size=4, key_chunk_size=16)

    def first():
        weight, function = tf.Variable(2.0), gradients if backwards else mixed
        run = compile_function(lambda *given: function(weight * given[0], *given[1:]), False)
        run(*given)
        return weakref.ref(weight)

    def gradients(*given):
        with tf.GradientTape() as tape:
            tape.watch(given)
            total = tf.reduce_sum(mixed(*given) ** 2)
        return tape.gradient(total, given)

    weight = first()
    gc.collect()
    assert weight() is None
    got = compile_function(gradients, False)(*given)
    for one, expected in zip(got, gradients(*given), strict=True):  # operation by operation
        np.testing.assert_allclose(one, expected, atol=1e-5)


def test_gradients_take_the_forms_of_the_forward_pass(monkeypatch):
    """They are traced after it, where other forms may be allowed."""
    monkeypatch.setattr(product_forms, "computes_in_bfloat16", lambda: True)
    found, backward = [], pieces._backward

    def note(*arguments):
        found.append(forms())
        return backward(*arguments)

    monkeypatch.setattr(pieces, "_backward", note)
    *arrays, _, _ = problem(2, 33, 40, 2, 8, 8)

    def train(*given):
        with training_forms(), tf.GradientTape() as tape:
            tape.watch(given)
            output = attention(*given, query_chunk_size=4, key_chunk_size=16)
            return tape.gradient(output, given)

    compile_function(train, False)(*(tf.cast(array, "bfloat16") for array in arrays))
    assert found and all(each.widened and each.native for each in found)


@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "float16"))
def test_training_takes_sizes_that_are_unknown_while_tracing(dtype, monkeypatch):
    monkeypatch.setattr(product_forms, "computes_in_bfloat16", lambda: True)

    def train(x):
        with training_forms(), tf.GradientTape() as tape:
            tape.watch(x)
            output = attention(x, x, x, query_chunk_size=4, key_chunk_size=8)
            return tape.gradient(output, x)

    shape = tf.TensorSpec((None, None, 2, 4), dtype)
    step = tf.function(train, input_signature=[shape], autograph=False)
    array = tf.cast(problem(2, 30, 30, 2, 4, 4)[0], dtype)
    got, known = (tf.cast(run(array), "float32") for run in (step, compile_function(train, False)))
    last_bit = {"float32": 2**-20, "bfloat16": 2**-7, "float16": 2**-10}[dtype]
    assert tf.norm(got - known) < last_bit * tf.norm(known)
    assert step(array[:1, :17]).shape == (1, 17, 2, 4)
