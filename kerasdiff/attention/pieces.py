"""The loop over pieces of an attention problem, forwards and backwards.

A piece is one head of one batch item, one chunk of queries and one chunk of keys (Rabe and Staats,
arXiv 2112.05682). Pieces are joined by the logarithms of their softmax sums, and these are kept so
that the gradient can recompute the probabilities piece by piece instead of storing them
(FlashAttention, arXiv 2205.14135, algorithm 1 and appendix B.4). Loops are nested, batch and heads
outermost, so that what an inner loop carries is small: TensorFlow copies a loop variable whenever a
part of it is replaced.
"""

from functools import partial

import keras
from keras import ops

from kerasdiff.attention.dtypes import for_scores, scaled, sum_dtype
from kerasdiff.attention.spans import chunk_count, chunk_span, cut, cut_head, paste, repeat
from kerasdiff.backend import (
    HALF,
    forms,
    in_bfloat16,
    is_native,
    matmul,
    widen,
    widen_factor,
    with_forms,
)

MASKED = -1e30
"""Score of a pair that does not attend: exp(MASKED - any real score) is exactly 0."""


def chunked(given, scale, sizes):
    """Attention over pieces, with its own gradient.

    Args:
        given: dict of `query`, `key`, `value` and, optionally, a `mask` of four axes, each full
            or 1.
        scale: a Python number.
        sizes: (most queries, most keys) in a piece; see `_backward` for the gradient's.
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

        return result["output"], with_forms(forms())(gradient)  # it is traced later, elsewhere

    return run(*given.values())


def _forward(given, scale, sizes):
    """Output (B, Tq, H, Dv) and, unless pieces are one softmax each, its log-sum-exp."""
    query, value = given["query"], given["value"]
    outer = ops.shape(query)[:3]
    state = {"output": ops.zeros((*outer, value.shape[-1]), query.dtype)}
    if not _is_one_softmax(given, sizes):
        state["log_sum"] = ops.zeros((*outer, 1), sum_dtype(query))
    return _over_heads(partial(_forward_head, sizes, scale), given, state)


def _is_one_softmax(given, sizes):
    """Whether a piece is final and its sums are not kept: where 16 bits are not widened.

    TensorFlow runs bfloat16 without XLA where the processor computes in it, and its softmax is
    quicker than its exponential. By XLA neither is, and the sums help the gradient.
    """
    keys = ops.shape(given["key"])[1]
    is_half = keras.backend.standardize_dtype(given["query"].dtype) in HALF
    stays = is_half and not forms().widened
    return "mask" not in given and stays and isinstance(keys, int) and keys <= sizes[1]


def _forward_head(sizes, scale, place, given, widths):
    # Queries are cut out of all heads' a chunk at a time: a whole head's would add to the peak.
    head = _take_head(place, {name: given[name] for name in given if name != "query"}, widen_factor)
    head["key_across"] = ops.transpose(head.pop("key"))
    if is_native(head["value"]):  # (Tk, Dv) -> (Tk, Dv + 1), see `_mixed`
        head["value"] = ops.concatenate([head["value"], ops.ones_like(head["value"][:, :1])], -1)
    head |= {"all_queries": given["query"], "place": place}
    length, dtype = ops.shape(given["query"])[1], sum_dtype(given["query"])
    found = {name: ops.zeros((length, width), dtype) for name, width in widths.items()}
    return repeat(chunk_count(length, sizes[0]), partial(_forward_rows, sizes, scale), head, found)


def _forward_rows(sizes, scale, index, head, state):
    rows = chunk_span(index, ops.shape(head["all_queries"])[1], sizes[0])
    query = widen_factor(cut_head(head["all_queries"], head["place"], rows))
    given = {name: head[name] for name in ("key_across", "value")}
    given["query"] = scaled(query, scale)
    if "mask" in head:
        given["mask"] = cut(head["mask"], rows)
    count = chunk_count(ops.shape(head["value"])[0], sizes[1])
    if "log_sum" not in state:
        found = {"output": _matmul(softmax(_scores(given)), given["value"])}
    elif isinstance(count, int) and count == 1 and "mask" not in given:
        # Nothing to join; masked, joining is what makes zeros of rows that attend to nothing.
        found = _forward_piece(sizes, 0, given)
    else:
        dtype = sum_dtype(given["query"])
        found = {
            "output": ops.zeros((rows.size, state["output"].shape[-1]), dtype),
            "log_sum": ops.full((rows.size, 1), MASKED, dtype),
        }
        found = repeat(count, partial(_join_piece, sizes), given, found)
    return {name: paste(array, found[name], rows) for name, array in state.items()}


def _join_piece(sizes, index, given, state):
    found = _forward_piece(sizes, index, given)
    (before, now), total = _joined(state["log_sum"], found["log_sum"])
    return {"output": state["output"] * before + found["output"] * now, "log_sum": total}


def _forward_piece(sizes, index, given):
    columns = chunk_span(index, ops.shape(given["value"])[0], sizes[1])
    given = _take_columns(columns, given)
    scores = _scores(given, columns.fresh)
    highest = ops.max(scores, axis=-1, keepdims=True)
    output, sums = _mixed(ops.exp(scores - highest), given["value"])
    return {"output": output, "log_sum": highest + ops.log(sums)}


def _mixed(shares, value):
    """`(shares / sums) @ value`, divided where that is less work and in the dtype's range; sums."""
    if is_native(value):
        # Values end in ones: else sums would need the shares in float32 beside.
        both = _matmul(in_bfloat16(shares), value)
        return both[:, :-1] / both[:, -1:], both[:, -1:]
    sums = ops.sum(shares, axis=-1, keepdims=True)
    if keras.backend.standardize_dtype(value.dtype) == "float16":
        return _matmul(shares / sums, value), sums
    return _matmul(shares, value) / sums, sums


def _backward(kept, scale, sizes):
    """Gradients of query, key and value, each in the array's own shape and dtype."""
    if "log_sum" in kept:
        # An eighth as many scores at once: quicker on a processor, and the forward pass takes more.
        sizes = (sizes[0], max(1, sizes[1] // 8))
    else:  # each piece a softmax over all keys
        sizes = (max(1, sizes[0] // 2), sizes[1])
    state = {name: ops.zeros_like(kept[name]) for name in ("query", "key", "value")}
    return _over_heads(partial(_backward_head, sizes, scale), kept, state)


def _backward_head(sizes, scale, place, kept, widths):
    head = _take_head(place, kept, widen)
    head["query"] = scaled(head["query"], scale)
    dtype = sum_dtype(head["query"])
    found = {name: ops.zeros_like(head[name], dtype=dtype) for name in widths}
    upstream, output = (ops.cast(x, dtype) for x in (head["upstream"], head.pop("output")))
    head["centre"] = ops.sum(upstream * output, axis=-1, keepdims=True)  # (Tq, 1)
    for name in ("key", "value"):
        head[f"{name}_across"] = ops.transpose(head[name])  # (D, Tk)
    count = chunk_count(ops.shape(head["key"])[0], sizes[1])
    found = repeat(count, partial(_backward_columns, sizes), head, found)
    return found | {"query": found["query"] * scale}


def _backward_columns(sizes, index, head, state):
    columns = chunk_span(index, ops.shape(head["key"])[0], sizes[1])
    given = _take_columns(columns, head)
    if columns.fresh is not None:
        given["fresh"] = columns.fresh
    found = {
        name: ops.zeros_like(given[f"{name}_across"], dtype=state[name].dtype)
        for name in ("key", "value")
    }
    found["query"] = state["query"]
    count = chunk_count(ops.shape(head["query"])[0], sizes[0])
    found = repeat(count, partial(_backward_piece, sizes), given, found)
    sums = {
        name: cut(state[name], columns) + ops.transpose(found[name]) for name in ("key", "value")
    }
    return {"query": found["query"]} | {
        name: paste(state[name], chunk, columns) for name, chunk in sums.items()
    }


def _backward_piece(sizes, index, given, state):
    rows = chunk_span(index, ops.shape(given["query"])[0], sizes[0])
    along_rows = ("query", "mask", "upstream", "centre", "log_sum")
    given = given | {name: cut(given[name], rows) for name in along_rows if name in given}
    query, key, value = given["query"], given["key"], given["value"]
    probabilities = _probabilities(given)
    upstream, centre = given["upstream"], given["centre"]
    if rows.fresh is not None:
        upstream, centre = (x * ops.cast(rows.fresh, x.dtype) for x in (upstream, centre))
    # Through the softmax, dS = P * (dP - sum(dO * O)).
    slope = probabilities * (_matmul(upstream, given["value_across"]) - centre)  # (q, k)
    to_query = cut(state["query"], rows) + _matmul(slope, key)
    # Sums for keys stand across, (D, k): a product with a long transposed left side takes twice
    # as long on a processor.
    slope, probabilities = ops.cast(slope, query.dtype), ops.cast(probabilities, value.dtype)
    return {
        "query": paste(state["query"], to_query, rows),
        "key": state["key"] + _matmul(ops.transpose(query), slope),
        "value": state["value"] + _matmul(ops.transpose(upstream), probabilities),
    }


def _probabilities(given):
    """(q, k) in float32, by the whole row's log-sum-exp where it is kept."""
    scores = _scores(given, given.get("fresh"))
    if "log_sum" not in given:
        return softmax(scores)
    log_sum = given["log_sum"]
    return ops.exp(scores - ops.where(log_sum < MASKED / 2, 0.0, log_sum))  # 0 for no keys


def _scores(given, fresh=None):
    """(q, k) in float32, `MASKED` where the mask (q or 1, k or 1) or `fresh` (k, 1) is False."""
    scores = _matmul(for_scores(given["query"]), for_scores(given["key_across"]))
    if fresh is not None:
        scores = ops.where(ops.transpose(fresh), scores, MASKED)
    return ops.where(given["mask"], scores, MASKED) if "mask" in given else scores


def _joined(*log_sums):
    """What share of two pieces' probability lies in each, 0 where nothing attends; their log-sum.

    `logaddexp` alone is seven operations, some of which TensorFlow lowers slowly for XLA.
    """
    top = ops.maximum(*log_sums)
    sums = [ops.exp(log_sum - top) for log_sum in log_sums]
    both = sums[0] + sums[1]
    shares = [
        ops.where(log_sum > MASKED / 2, part / both, 0.0)
        for log_sum, part in zip(log_sums, sums, strict=True)
    ]
    return shares, top + ops.log(both)


def _take_columns(columns, given):
    axes = {"key": 0, "value": 0, "key_across": 1, "value_across": 1, "mask": 1}
    return given | {
        name: cut(given[name], columns, axis) for name, axis in axes.items() if name in given
    }


def _over_heads(visit, given, state):
    """Fills the arrays (B, T, H, D) of `state` with what is found for each head.

    Args:
        visit: takes a head's place (number in the batch, head), `given` and the last sizes of
            `state`; returns arrays (T, D).
    """
    widths = {name: array.shape[-1] for name, array in state.items()}
    batch, _, count, _ = ops.shape(given["query"])

    def visit_head(index, given, state):
        heads = ops.shape(given["query"])[2]
        place = index // heads, index % heads
        found = visit(place, given, widths)
        return {name: _put_head(place, state[name], found[name]) for name in state}

    return repeat(batch * count, visit_head, given, state)


def _take_head(place, given, convert):
    """Arrays (T, D) of one head, each converted, and masks (Tq or 1, Tk or 1)."""
    batch, head = place
    arrays = {name: array[batch, :, head] for name, array in given.items() if name != "mask"}
    taken = {name: convert(array) for name, array in arrays.items()}
    if "mask" in given:
        mask_batch, mask_heads = ops.shape(given["mask"])[:2]
        first = ops.minimum(batch, mask_batch - 1), ops.minimum(head, mask_heads - 1)
        taken["mask"] = given["mask"][first[0], first[1]]
    return taken


def _put_head(place, array, found):
    batch, head = place
    found = ops.cast(found, array.dtype)[None, :, None]  # (T, D) -> (1, T, 1, D)
    return ops.slice_update(array, (batch, 0, head, 0), found)


def _matmul(left, right):
    """A product in the dtype of the right side, handed on for sums in float32."""
    return ops.cast(matmul(ops.cast(left, right.dtype), right), sum_dtype(right))


def softmax(scores):
    """Over the last axis. Of one score it is 1, of which Keras would warn; NaN stays NaN."""
    return ops.softmax(scores) if scores.shape[-1] != 1 else ops.exp(scores - scores)
