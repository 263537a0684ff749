"""The loop over pieces of an attention problem, forwards and backwards.

A piece is one batch item, one head, one chunk of queries and one chunk of keys (Rabe and Staats,
arXiv 2112.05682). Where all keys fit in one chunk a piece is final; otherwise pieces are joined by
the logarithms of their softmax sums, and these are kept so that the gradient can recompute the
probabilities piece by piece instead of storing them (FlashAttention, arXiv 2205.14135, algorithm
1 and appendix B.4).
"""

from functools import partial
from typing import NamedTuple

import keras
from keras import ops

MASKED = -1e30
"""Score of a pair that does not attend: exp(MASKED - any real score) is exactly 0."""


def chunked(given, sizes):
    """Attention over pieces of at most `sizes` (queries, keys), with its own gradient.

    Args:
        given: dict of `query`, already scaled, `key`, `value` and, optionally, a `mask` of four
            axes, each full or 1.
        sizes: (most queries, most keys) in a piece.
    """
    names = tuple(given)

    @ops.custom_gradient
    def run(*arrays):
        given = dict(zip(names, arrays, strict=True))
        result = _forward(given, sizes)
        result["output"] = ops.cast(result["output"], given["query"].dtype)

        def gradient(*args, upstream=None):
            kept = given | result | {"upstream": args[0] if upstream is None else upstream}
            gradients = _backward(kept, sizes)
            return tuple(gradients.get(name) for name in names)  # none for the mask

        return result["output"], gradient

    return run(*given.values())


def _forward(given, sizes):
    """Output (B, Tq, H, Dv) and, where it takes more than one softmax, its log-sum-exp."""
    query, key, value = given["query"], given["key"], given["value"]
    dtype = sum_dtype(query)
    state = {"output": ops.zeros((*ops.shape(query)[:3], value.shape[-1]), dtype)}
    keys = ops.shape(key)[1]
    if "mask" in given or not isinstance(keys, int) or keys > sizes[1]:
        state["log_sum"] = ops.full((*ops.shape(query)[:3], 1), MASKED, dtype)
    return _visit_pieces(_forward_piece, given, state, sizes)


def _backward(kept, sizes):
    """Gradients of query, key and value, each in the array's own dtype."""
    names = ("query", "key", "value")
    dtype = sum_dtype(kept["query"])
    state = {name: ops.zeros_like(kept[name], dtype=dtype) for name in names}
    state = _visit_pieces(_backward_piece, kept, state, sizes)
    return {name: ops.cast(state[name], kept[name].dtype) for name in names}


def _visit_pieces(visit, given, state, sizes):
    """Folds `visit` over all pieces; the loop's body sees tensors as loop variables only."""

    def unfinished(step, given, state):
        rows, _ = _split(ops.shape(given["query"])[1], sizes[0])
        columns, _ = _split(ops.shape(given["key"])[1], sizes[1])
        batch, _, heads, _ = ops.shape(given["query"])
        return step < batch * heads * rows * columns

    def body(step, given, state):
        return step + 1, given, visit(_locate(step, given, sizes), given, state)

    start = ops.convert_to_tensor(0, "int32")
    return ops.while_loop(unfinished, body, (start, given, state))[2]


def _forward_piece(place, given, state):
    read, write = partial(_read, place, place.rows), partial(_write, place, place.rows)
    scores, probabilities = _softmax(place, given)
    value = _read(place, place.columns, given["value"])  # (k, Dv)
    output = _matmul(probabilities, value)  # (q, Dv)
    if "log_sum" not in state:
        return {"output": write(state["output"], output)}
    log_sum = _log_sum(place, scores, probabilities)
    before = read(state["log_sum"])
    total = ops.logaddexp(before, log_sum)
    output = read(state["output"]) * ops.exp(before - total) + output * _weight(log_sum, total)
    return {"output": write(state["output"], output), "log_sum": write(state["log_sum"], total)}


def _backward_piece(place, kept, state):
    query, upstream, output = (
        _read(place, place.rows, kept[name]) for name in ("query", "upstream", "output")
    )
    key, value = (_read(place, place.columns, kept[name]) for name in ("key", "value"))
    scores, probabilities = _softmax(place, kept)
    upstream = ops.cast(upstream, scores.dtype)
    if "log_sum" in kept:
        log_sum = _log_sum(place, scores, probabilities)
        upstream *= _weight(log_sum, _read(place, place.rows, kept["log_sum"]))
    elif place.rows.fresh is not None:
        upstream *= ops.cast(place.rows.fresh, scores.dtype)
    # Through the softmax: dS = P * (dP - sum(dO * O)), with both terms weighted by way of dO.
    centre = ops.sum(upstream * ops.cast(output, scores.dtype), axis=-1, keepdims=True)
    along = _matmul(upstream, ops.transpose(value)) - centre
    along = probabilities * along  # (q, k)
    steps = {
        "query": (place.rows, _matmul(along, key)),
        "key": (place.columns, _matmul(ops.transpose(along), query)),
        "value": (place.columns, _matmul(ops.transpose(probabilities), upstream, value.dtype)),
    }
    return {
        name: _write(place, span, state[name], _read(place, span, state[name]) + step)
        for name, (span, step) in steps.items()
    }


def _softmax(place, given):
    """Scores of a piece and the probabilities among its keys alone, both (q, k) in float32."""
    query = _read(place, place.rows, given["query"])
    key = _read(place, place.columns, given["key"])
    scores = _matmul(query, ops.transpose(key))
    if place.columns.fresh is not None:
        scores = ops.where(ops.transpose(place.columns.fresh), scores, MASKED)
    if "mask" in given:
        scores = ops.where(_read_mask(place, given["mask"]), scores, MASKED)
    return scores, ops.softmax(scores)


def _log_sum(place, scores, probabilities):
    """log sum exp of each row's scores, (q, 1); `MASKED` for rows that a piece before has done.

    Where the score is largest the probability is 1 / sum, which saves a second exponential.
    """
    highest = ops.max(scores, axis=-1, keepdims=True)
    log_sum = highest - ops.log(ops.max(probabilities, axis=-1, keepdims=True))
    return log_sum if place.rows.fresh is None else ops.where(place.rows.fresh, log_sum, MASKED)


def _weight(log_sum, total):
    """What share of the whole row's probability lies in a piece; 0 where nothing attends."""
    return ops.where(log_sum > MASKED / 2, ops.exp(log_sum - total), 0.0)


class _Span(NamedTuple):
    """A chunk of queries or keys. Chunks are of one size, so the last may overlap the one before.

    `fresh`, (size, 1), is False at positions that were visited already; None if there are none.
    """

    start: object
    size: object
    fresh: object


class _Place(NamedTuple):
    """One piece of the problem."""

    batch: object
    head: object
    rows: _Span
    columns: _Span


def _locate(step, given, sizes):
    _, queries, heads, _ = ops.shape(given["query"])
    keys = ops.shape(given["key"])[1]
    column_count, _ = _split(keys, sizes[1])
    row_count, _ = _split(queries, sizes[0])
    outer, column = step // column_count, step % column_count
    outer, row = outer // row_count, outer % row_count
    rows, columns = _span(row, queries, sizes[0]), _span(column, keys, sizes[1])
    return _Place(outer // heads, outer % heads, rows, columns)


def _split(length, chunk_size):
    """The smallest number of chunks, and the smallest size with which they cover the length."""
    count = -(-length // chunk_size)
    return count, -(-length // count)


def _span(index, length, chunk_size):
    count, size = _split(length, chunk_size)
    if isinstance(length, int) and length % count == 0:
        return _Span(index * size, size, None)
    start = ops.minimum(index * size, length - size)
    fresh = start + ops.arange(size, dtype="int32") >= index * size
    return _Span(start, size, ops.expand_dims(fresh, -1))


def _read(place, span, array):
    """(size, D) out of (B, T, H, D)."""
    width = array.shape[-1]
    start = (place.batch, span.start, place.head, 0)
    return ops.reshape(ops.slice(array, start, (1, span.size, 1, width)), (span.size, width))


def _write(place, span, array, chunk):
    """(B, T, H, D) with (size, D) put where `_read` reads."""
    chunk = ops.reshape(chunk, (1, span.size, 1, array.shape[-1]))
    return ops.slice_update(array, (place.batch, span.start, place.head, 0), chunk)


def _read_mask(place, mask):
    """(q or 1, k or 1) out of a mask with four axes, each full or 1."""
    wanted = ((place.batch, 1), (place.head, 1), place.rows[:2], place.columns[:2])
    spans = [(0, 1) if full == 1 else span for full, span in zip(mask.shape, wanted, strict=True)]
    # A batch or a number of heads that is unknown while tracing may turn out to be 1.
    for axis in (0, 1):
        if mask.shape[axis] is None:
            spans[axis] = (ops.minimum(spans[axis][0], ops.shape(mask)[axis] - 1), 1)
    starts, sizes = zip(*spans, strict=True)
    return ops.reshape(ops.slice(mask, starts, sizes), sizes[2:])


def _matmul(left, right, dtype=None):
    """A product in the dtype of the right side (or `dtype`), returned for summing in float32."""
    dtype = dtype or right.dtype
    return ops.cast(ops.matmul(ops.cast(left, dtype), ops.cast(right, dtype)), sum_dtype(right))


def sum_dtype(array):
    """Of softmax, its sums and everything that is added up over pieces."""
    return "float64" if keras.backend.standardize_dtype(array.dtype) == "float64" else "float32"
