"""Loops over an array's chunks: what each visits, how it is cut out and put back."""

from typing import NamedTuple

from keras import ops

from kerasdiff.backend import next_index


def repeat(count, visit, given, state):
    """Folds `visit(index, given, state)` over range(count); all tensors are loop variables."""

    def body(index, count, given, state):
        state = visit(index, given, state)
        return next_index(index, state.values()), count, given, state

    start = (ops.convert_to_tensor(0, "int32"), ops.convert_to_tensor(count, "int32"), given, state)
    return ops.while_loop(lambda index, count, *_: index < count, body, start)[3]


class Span(NamedTuple):
    """A chunk of queries or keys. Chunks are of one size, so the last may overlap the one before.

    `fresh`, (size, 1), is False at positions that were visited already; None if there are none.
    """

    start: object
    size: object
    fresh: object


def chunk_count(length, chunk_size):
    """How many chunks cover a length: whole numbers, or tensors where it is not known."""
    return -(-length // chunk_size)


def chunk_span(index, length, chunk_size):
    """Chunk number `index`, of the smallest size with which that many chunks cover the length."""
    count = chunk_count(length, chunk_size)
    size = chunk_count(length, count)
    if isinstance(length, int) and length % count == 0:
        return Span(index * size, size, None)
    start = ops.minimum(index * size, length - size)
    fresh = start + ops.arange(size, dtype="int32") >= index * size
    return Span(start, size, ops.expand_dims(fresh, -1))


def cut(array, span, axis=0):
    """The span of an array of two axes; a mask's axis of 1 serves every span."""
    if array.shape[axis] == 1:
        return array
    start, size = [0, 0], list(ops.shape(array))
    start[axis], size[axis] = span.start, span.size
    return ops.slice(array, tuple(start), tuple(size))


def cut_head(array, place, span):
    """The span (q, D) of the head at `place` (number in the batch, head) of (B, T, H, D)."""
    batch, head = place
    corner, size = (batch, span.start, head, 0), (1, span.size, 1, array.shape[-1])
    return ops.slice(array, corner, size)[0, :, 0]


def paste(array, chunk, span):
    """The array of two axes with a chunk where `cut` takes one."""
    return ops.slice_update(array, (span.start, 0), ops.cast(chunk, array.dtype))
