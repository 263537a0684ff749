"""The loop over pieces of an attention problem, forwards and backwards.

A piece is one head of one batch item, one chunk of queries and one chunk of keys (Rabe and Staats,
arXiv 2112.05682). Where all keys fit in one chunk a piece is final; otherwise pieces are joined by
the logarithms of their softmax sums, and these are kept so that the gradient can recompute the
probabilities piece by piece instead of storing them (FlashAttention, arXiv 2205.14135, algorithm
1 and appendix B.4). Loops are nested, batch and heads outermost, so that what an inner loop carries
is small: TensorFlow copies a loop variable whenever a part of it is replaced.
"""

from functools import partial
from typing import NamedTuple

import keras
from keras import ops

MASKED = -1e30
"""Score of a pair that does not attend: exp(MASKED - any real score) is exactly 0."""


def chunked(given, scale, sizes):
    """Attention over pieces of at most `sizes` (queries, keys), with its own gradient.

    Args:
        given: dict of `query`, `key`, `value` and, optionally, a `mask` of four axes, each full
            or 1.
        scale: a Python number.
        sizes: (most queries, most keys) in a piece.
    """
    names = tuple(given)

    @ops.custom_gradient
    def run(*arrays):
        given = dict(zip(names, arrays, strict=True))
        result = _forward(given, scale, sizes)

        def gradient(*args, upstream=None):
            kept = given | result | {"upstream": args[0] if upstream is None else upstream}
            gradients = _backward(kept, scale, sizes)
            return tuple(gradients.get(name) for name in names)  # none for the mask

        return result["output"], gradient

    return run(*given.values())


def _forward(given, scale, sizes):
    """Output (B, Tq, H, Dv) and, where it takes more than one softmax, its log-sum-exp."""
    query, value, keys = given["query"], given["value"], ops.shape(given["key"])[1]
    outer = ops.shape(query)[:3]
    state = {"output": ops.zeros((*outer, value.shape[-1]), query.dtype)}
    if "mask" in given or not isinstance(keys, int) or keys > sizes[1]:
        state["log_sum"] = ops.zeros((*outer, 1), sum_dtype(query))
    return _repeat(outer[0] * outer[2], partial(_forward_head, scale, sizes), given, state)


def _forward_head(scale, sizes, index, given, state):
    head = _take_head(index, given, scale)
    queries = ops.shape(head["query"])[0]
    found = {
        name: ops.zeros((queries, array.shape[-1]), array.dtype) for name, array in state.items()
    }
    found = _repeat(_count(queries, sizes[0]), partial(_forward_rows, sizes), head, found)
    return _put_head(index, state, found)


def _forward_rows(sizes, index, head, state):
    rows = _span(index, ops.shape(head["query"])[0], sizes[0])
    given = head | {name: _cut(head[name], rows) for name in ("query", "mask") if name in head}
    if "log_sum" in state:
        dtype = sum_dtype(given["query"])
        found = {
            "output": ops.zeros((rows.size, given["value"].shape[-1]), dtype),
            "log_sum": ops.full((rows.size, 1), MASKED, dtype),
        }
        count = _count(ops.shape(head["key"])[0], sizes[1])
        found = _repeat(count, partial(_forward_piece, sizes), given, found)
    else:
        probabilities = softmax(_scores(given["query"], given["key"]))
        found = {"output": _matmul(probabilities, given["value"])}
    return {name: _paste(array, found[name], rows) for name, array in state.items()}


def _forward_piece(sizes, index, given, state):
    columns = _span(index, ops.shape(given["key"])[0], sizes[1])
    given = _take_columns(columns, given)
    scores = _scores(given["query"], given["key"], given.get("mask"), columns.fresh)
    probabilities = softmax(scores)
    log_sum = _log_sum(scores, probabilities)
    total = ops.logaddexp(state["log_sum"], log_sum)
    before = state["output"] * ops.exp(state["log_sum"] - total)
    output = _matmul(probabilities, given["value"]) * _weight(log_sum, total)
    return {"output": before + output, "log_sum": total}


def _backward(kept, scale, sizes):
    """Gradients of query, key and value, each in the array's own shape and dtype."""
    state = {name: ops.zeros_like(kept[name]) for name in ("query", "key", "value")}
    batch, _, heads, _ = ops.shape(kept["query"])
    return _repeat(batch * heads, partial(_backward_head, scale, sizes), kept, state)


def _backward_head(scale, sizes, index, kept, state):
    head = _take_head(index, kept, scale)
    found = {name: ops.zeros_like(head[name], dtype=sum_dtype(head[name])) for name in state}
    count = _count(ops.shape(head["key"])[0], sizes[1])
    found = _repeat(count, partial(_backward_columns, sizes), head, found)
    found["query"] = found["query"] * scale
    return _put_head(index, state, found)


def _backward_columns(sizes, index, head, state):
    columns = _span(index, ops.shape(head["key"])[0], sizes[1])
    given = _take_columns(columns, head)
    if columns.fresh is not None:
        given["fresh"] = columns.fresh
    found = {
        name: ops.zeros_like(given[name], dtype=state[name].dtype) for name in ("key", "value")
    }
    found["query"] = state["query"]
    count = _count(ops.shape(head["query"])[0], sizes[0])
    found = _repeat(count, partial(_backward_piece, sizes), given, found)
    sums = {name: _cut(state[name], columns) + found[name] for name in ("key", "value")}
    return {"query": found["query"]} | {
        name: _paste(state[name], chunk, columns) for name, chunk in sums.items()
    }


def _backward_piece(sizes, index, given, state):
    rows = _span(index, ops.shape(given["query"])[0], sizes[0])
    along_rows = ("query", "mask", "upstream", "output", "log_sum")
    given = given | {name: _cut(given[name], rows) for name in along_rows if name in given}
    query, key, value = given["query"], given["key"], given["value"]
    scores = _scores(query, key, given.get("mask"), given.get("fresh"))
    probabilities = softmax(scores)
    upstream = ops.cast(given["upstream"], scores.dtype)
    if "log_sum" in given:
        upstream *= _weight(_log_sum(scores, probabilities), given["log_sum"])
    if rows.fresh is not None:
        upstream *= ops.cast(rows.fresh, scores.dtype)
    # Through the softmax, dS = P * (dP - sum(dO * O)); the weights of rows go with dO.
    centre = ops.sum(upstream * ops.cast(given["output"], scores.dtype), axis=-1, keepdims=True)
    slope = probabilities * (_matmul(upstream, ops.transpose(value)) - centre)  # (q, k)
    to_query = _cut(state["query"], rows) + _matmul(slope, key)
    return {
        "query": _paste(state["query"], to_query, rows),
        "key": state["key"] + _matmul(ops.transpose(slope), query),
        "value": state["value"]
        + _matmul(ops.transpose(probabilities), ops.cast(upstream, value.dtype)),
    }


def _repeat(count, visit, given, state):
    """Folds `visit(index, given, state)` over range(count); all tensors are loop variables."""

    def body(index, count, given, state):
        state = visit(index, given, state)
        # Nothing exceeds infinity, so this adds 0. But it is known only when the visit is over:
        # else TensorFlow begins ten visits at once, and holds the scores of all.
        corners = sum(ops.cast(ops.ravel(array)[0], "float32") for array in state.values())
        return index + 1 + ops.cast(corners > float("inf"), "int32"), count, given, state

    start = (ops.convert_to_tensor(0, "int32"), ops.convert_to_tensor(count, "int32"), given, state)
    return ops.while_loop(lambda index, count, *_: index < count, body, start)[3]


def _scores(query, key, mask=None, fresh=None):
    """(q, k) in float32, `MASKED` where `mask` (q or 1, k or 1) or `fresh` (k, 1) is False."""
    scores = _matmul(query, ops.transpose(key))
    if fresh is not None:
        scores = ops.where(ops.transpose(fresh), scores, MASKED)
    return scores if mask is None else ops.where(mask, scores, MASKED)


def _log_sum(scores, probabilities):
    """log sum exp of each row's scores, (q, 1).

    Where the score is largest the probability is 1 / sum, which saves a second exponential.
    """
    highest = ops.max(scores, axis=-1, keepdims=True)
    return highest - ops.log(ops.max(probabilities, axis=-1, keepdims=True))


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


def _count(length, chunk_size):
    return -(-length // chunk_size)


def _span(index, length, chunk_size):
    """Chunk number `index`, of the smallest size with which that many chunks cover the length."""
    count = _count(length, chunk_size)
    size = _count(length, count)
    if isinstance(length, int) and length % count == 0:
        return _Span(index * size, size, None)
    start = ops.minimum(index * size, length - size)
    fresh = start + ops.arange(size, dtype="int32") >= index * size
    return _Span(start, size, ops.expand_dims(fresh, -1))


def _cut(array, span, axis=0):
    """The span of an array of two axes; a mask's axis of 1 serves every span."""
    if array.shape[axis] == 1:
        return array
    start, size = [0, 0], list(ops.shape(array))
    start[axis], size[axis] = span.start, span.size
    return ops.slice(array, tuple(start), tuple(size))


def _paste(array, chunk, span):
    return ops.slice_update(array, (span.start, 0), ops.cast(chunk, array.dtype))


def _take_columns(columns, given):
    cuts = {name: _cut(given[name], columns) for name in ("key", "value")}
    if "mask" in given:
        cuts["mask"] = _cut(given["mask"], columns, axis=1)
    return given | cuts


def _take_head(index, given, scale):
    """One head: (T, D) out of (B, T, H, D), the query scaled; masks (Tq or 1, Tk or 1)."""
    batch, head = _unravel(index, given["query"])
    taken = {name: array[batch, :, head] for name, array in given.items() if name != "mask"}
    taken["query"] = scaled(taken["query"], scale)
    if "mask" in given:
        mask_batch, mask_heads = ops.shape(given["mask"])[:2]
        first = ops.minimum(batch, mask_batch - 1), ops.minimum(head, mask_heads - 1)
        taken["mask"] = given["mask"][first[0], first[1]]
    return taken


def _put_head(index, state, found):
    """The arrays (B, T, H, D) of `state` with (T, D) of `found` put where `_take_head` takes."""
    batch, head = _unravel(index, next(iter(state.values())))
    return {
        name: ops.slice_update(
            array, (batch, 0, head, 0), ops.cast(found[name], array.dtype)[None, :, None]
        )
        for name, array in state.items()
    }


def _unravel(index, array):
    heads = ops.shape(array)[2]
    return index // heads, index % heads


def _matmul(left, right):
    """A product in the dtype of the right side, handed on for sums in float32."""
    return ops.cast(ops.matmul(ops.cast(left, right.dtype), right), sum_dtype(right))


def softmax(scores):
    """Over the last axis. Of one score it is 1, of which Keras would warn; NaN stays NaN."""
    return ops.softmax(scores) if scores.shape[-1] != 1 else ops.exp(scores - scores)


def scaled(query, scale):
    """The query times a number that is not rounded to the query's dtype first."""
    return ops.cast(ops.cast(query, sum_dtype(query)) * scale, query.dtype)


def sum_dtype(array):
    """Of softmax, its sums and everything that is added up over pieces."""
    return "float64" if keras.backend.standardize_dtype(array.dtype) == "float64" else "float32"
