"""The public function: checks what it is given and picks the plain form or the loop over pieces."""

import functools
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import keras
from keras import ops

from kerasdiff.attention.dtypes import for_scores, scaled, sum_dtype
from kerasdiff.attention.pieces import MASKED, chunked, softmax
from kerasdiff.attention.spans import chunk_count
from kerasdiff.backend import (
    QUERIES,
    Program,
    call_part,
    forms,
    fused_attention_dtypes,
    loops_in_python,
    matmul,
    widen_factor,
)

MANY = 32
"""From so many pieces on a loop in Python takes longer than one that has to be compiled first."""

ROWS = 256
"""So many queries of all heads meet all keys at once where there shall be no loop."""

_LOOPS = ContextVar("loops", default=True)


@contextmanager
def without_loops():
    """What is traced inside holds no loop: chunks of queries stand one after another.

    For runtimes that know no loop, or none that fills an array piece by piece. Each chunk of
    queries meets all keys at once, and lengths must be known.
    """
    before = _LOOPS.set(False)
    try:
        yield
    finally:
        _LOOPS.reset(before)


def attention(
    query, key, value, mask=None, *, scale=None, query_chunk_size=None, key_chunk_size=4096
):
    """`softmax(scale * query @ key.T) @ value` for each head, exactly.

    Problems of at most `query_chunk_size * key_chunk_size` scores (by default 32 MiB in float32)
    take the plain form; longer ones, and ones of unknown size in a traced graph, loop over chunks,
    backwards too.
    Without a mask a fused kernel of linear memory runs instead, through Keras, where there is one:
    cuDNN's FlashAttention (arXiv 2205.14135) on JAX and NVIDIA's GPUs in 16 bits, and OpenVINO's.
    Matrix products are in the inputs' dtype, but the scores' of float16 in float32, and all of 16
    bits' where XLA compiles for a processor, unless that computes in bfloat16: then forward ones
    are of bfloat16, added up in float32. Softmax, its sums and all accumulation over chunks are in
    float32 (float64 for float64).

    Args:
        query: (B, Tq, H, D) floating point. All lengths are allowed, but for no queries where
            their number is unknown while tracing.
        key: (B, Tk, H, D), of the same dtype.
        value: (B, Tk, H, Dv), of the same dtype.
        mask: optional boolean, True where a query may attend to a key: (B, Tq, Tk), the same for
            all heads, or anything of another rank that broadcasts to (B, H, Tq, Tk). Dimensions
            of Tq and Tk that are unknown while tracing are taken to be full. A query that may
            attend to nothing gives zeros and has no gradient.
        scale: of the scores, a Python number; 1 / sqrt(D) by default.
        query_chunk_size, key_chunk_size: the most queries and keys whose scores exist at once. The
            gradient takes an eighth of the keys, or half of the queries. Where nobody says, queries
            are 2048, or fewer that suit the processor's cache in programs for it.

    Returns:
        (B, Tq, H, Dv) in the dtype of `query`.

    Raises:
        ValueError: on chunk sizes below 1, and on shapes or dtypes that do not fit together.
    """
    check_chunk_sizes(query_chunk_size=query_chunk_size, key_chunk_size=key_chunk_size)
    query, key, value = (ops.convert_to_tensor(array) for array in (query, key, value))
    check_shapes(query=tuple(query.shape), key=tuple(key.shape), value=tuple(value.shape))
    _check_dtypes(query, key, value)
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    given = {"query": query, "key": key, "value": value}
    if mask is not None:
        given["mask"] = _four_axes(ops.convert_to_tensor(mask), query, key)
    if mask is None and _is_fused(query, key, value):
        return ops.dot_product_attention(query, key, value, scale=scale, flash_attention=True)
    sizes = (query_chunk_size or QUERIES, key_chunk_size)
    if _is_short(query, key, sizes):
        return _plain(**given, scale=scale)
    if not _LOOPS.get():
        return _in_rows(given, scale, min(sizes[0], ROWS))
    how = scale, (query_chunk_size, key_chunk_size)
    if loops_in_python() and _count_pieces(query, key, sizes) >= MANY:
        return _program(*how, keras.backend.standardize_dtype(query.dtype))(given)
    return call_part(partial(_in_chunks, *how), given)


def _is_fused(query, key, value):
    dtype, size = keras.backend.standardize_dtype(query.dtype), query.shape[-1]
    # What the kernel takes.
    fits = size == value.shape[-1] and size % 8 == 0 and size <= 128 and key.shape[1] != 0
    return fits and dtype in fused_attention_dtypes()


def _is_short(query, key, sizes):
    lengths = (*ops.shape(query)[:3], ops.shape(key)[1])
    if not all(isinstance(length, int) for length in lengths):
        return False
    batch, queries, heads, keys = lengths
    return batch * heads * queries * keys <= sizes[0] * sizes[1]


def _count_pieces(query, key, sizes):
    batch, queries, heads, _ = query.shape
    return batch * heads * chunk_count(queries, sizes[0]) * chunk_count(key.shape[1], sizes[1])


def _in_chunks(scale, sizes, given):
    return chunked(given, scale, (sizes[0] or forms().queries, sizes[1]))


@functools.cache
def _program(scale, sizes, dtype):
    """`chunked`, compiled by XLA for each set of shapes that it is called with."""
    function = partial(_in_chunks, scale, sizes)
    return Program(function, keras.layers.Identity(dtype=dtype), jit_compile=True)


def _plain(query, key, value, scale, mask=None):
    dtype = query.dtype
    query, key, value = (
        ops.transpose(widen_factor(array), (0, 2, 1, 3)) for array in (query, key, value)
    )
    query, key = for_scores(scaled(query, scale)), for_scores(key)
    scores = matmul(query, ops.swapaxes(key, -1, -2))  # (B, H, Tq, Tk)
    scores = ops.cast(scores, sum_dtype(query))
    if mask is not None:
        scores = ops.where(mask, scores, MASKED)
    output = matmul(ops.cast(softmax(scores), value.dtype), value)
    if mask is not None:
        output = ops.where(ops.any(mask, axis=-1, keepdims=True), output, 0)
    return ops.cast(ops.transpose(output, (0, 2, 1, 3)), dtype)  # (B, Tq, H, Dv)


def _in_rows(given, scale, size):
    """The plain form for `size` queries after another."""
    parts = []
    for begin in range(0, given["query"].shape[1], size):
        part = given | {"query": given["query"][:, begin : begin + size]}
        if "mask" in given and given["mask"].shape[2] != 1:
            part["mask"] = given["mask"][:, :, begin : begin + size]
        parts.append(_plain(**part, scale=scale))
    return ops.concatenate(parts, axis=1)


def check_chunk_sizes(**sizes):
    """ValueError unless every named size is a whole number from 1 up; queries may be None."""
    for name, size in sizes.items():
        if name == "query_chunk_size" and size is None:
            continue
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"`{name}` must be a whole number from 1 up, not {size!r}")


def check_shapes(**shapes):
    """ValueError unless shapes of query, key and value, (B, T, H, D) or with None, fit together."""
    for name, shape in shapes.items():
        if len(shape) != 4:
            raise ValueError(f"`{name}` must have shape (batch, length, heads, size), not {shape}")
    axes = [("batches", 0, "query"), ("heads", 2, "query"), ("lengths", 1, "key")]
    pairs = [(name, *axis) for name in ("key", "value") for axis in axes]
    for name, what, axis, other in [*pairs, ("key", "head sizes", 3, "query")]:
        if _differ(shapes[name][axis], shapes[other][axis]):
            raise ValueError(
                f"{what} of `{name}` {shapes[name]} and `{other}` {shapes[other]} differ"
            )


def _check_dtypes(*arrays):
    dtypes = [keras.backend.standardize_dtype(array.dtype) for array in arrays]
    if "float" not in dtypes[0] or len(set(dtypes)) > 1:
        raise ValueError(
            f"`query`, `key` and `value` must share one floating dtype, not {', '.join(dtypes)}"
        )


def _differ(size, other):
    return size is not None and other is not None and size != other


def _four_axes(mask, query, key):
    """The mask with axes (B, H, Tq, Tk), each full or 1."""
    shape = tuple(mask.shape)
    if keras.backend.standardize_dtype(mask.dtype) != "bool":
        raise ValueError(f"`mask` must be boolean, True where a query attends, not {mask.dtype}")
    if len(shape) > 4:
        raise ValueError(f"`mask` must have at most four axes, not shape {shape}")
    mask = ops.expand_dims(mask, 1) if len(shape) == 3 else mask
    while len(mask.shape) < 4:
        mask = ops.expand_dims(mask, 0)
    full = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
    for size, wanted in zip(mask.shape, full, strict=True):
        if size != 1 and _differ(size, wanted):
            raise ValueError(
                f"`mask` of shape {shape} does not fit (batch, heads, queries, keys) {full}"
            )
    return mask
