"""Tensors between the original layout's single file and the canonical parts, both ways."""

import re

import numpy as np

from kerasdiff.checkpoints.names import OriginalNames, is_skipped, parts_of
from kerasdiff.checkpoints.tensors import CheckpointError, LazyTensor

SHOWN = 5  # names that an error lists


def split(tensors, config, given=()):
    """The parts of a single file.

    Args:
        tensors: `Tensors` of the file.
        config: the `StableDiffusionConfig` it was found to have.
        given: parts that come from elsewhere and may be missing here.

    Returns:
        dict of part to `Tensors` under canonical names, and a tuple of the names skipped.

    Raises:
        CheckpointError: if a part is missing, or a tensor belongs to none.
    """
    parts, left = {}, []
    rest = dict(tensors.entries)
    maps = {part: OriginalNames(part, config) for part in parts_of(config)}
    for part, names in maps.items():
        mine = {name: rest.pop(name) for name in list(rest) if name.startswith(names.root)}
        if not mine and part in given:
            continue
        if not mine:
            raise CheckpointError(f"{tensors.source}: has no {part} (no {names.prefix}*)")
        parts[part], unknown = take(tensors.with_entries(mine), names)
        left += unknown
    left += rest
    unused = (name for name in left if any(names.is_unused(name) for names in maps.values()))
    skipped = dict.fromkeys(unused)  # which is searched at once, however many there are
    unexpected = [name for name in left if name not in skipped]
    if unexpected:
        raise CheckpointError(
            f"{tensors.source}: {len(unexpected)} tensors belong to no part of a "
            f"{config.family} checkpoint: {', '.join(unexpected[:SHOWN])}"
        )
    return parts, tuple(skipped)


def take(tensors, names):
    """One part under canonical names.

    Args:
        tensors: `Tensors` of the part, with or without its prefix.
        names: the part's `OriginalNames`.

    Returns:
        `Tensors`, and a list of the names that the map does not know.

    Raises:
        CheckpointError: if a tensor is there under two names, with and without `text_model.`.
    """
    entries, unknown = {}, []
    for full, entry in tensors.entries.items():
        name = full.removeprefix(names.root).removeprefix("text_model.")
        found = {} if is_skipped(full) else names.canonical(name)
        if twice := found.keys() & entries:
            raise CheckpointError(f"{tensors.source}: {min(twice)!r} is there under two names")
        entries |= {name: _taken(entry, how) for name, how in found.items()}
        if not found:
            unknown.append(full)
    return tensors.with_entries(entries), unknown


def put(tensors, names):
    """One part's canonical tensors as a single file holds them: a dict of name to `LazyTensor`."""
    thirds, entries = {}, {}
    for name, entry in tensors.entries.items():
        route = names.original(name)
        if route is None:
            raise CheckpointError(
                f"{tensors.source}: {name!r} of the {names.part} has no place in the original "
                "layout; save a folder instead"
            )
        if route.how.startswith("third"):
            thirds.setdefault(route.original, {})[route.how] = entry
        else:
            entries[names.prefix + route.original] = _put(entry, route.how)
    for original, found in thirds.items():
        entries[names.prefix + original] = _fused([found[f"third {i}"] for i in range(3)])
    return entries


def is_original_vae(tensors):
    """Whether a file of an autoencoder alone has the original layout's names."""
    return any(re.match(r"(first_stage_model\.)?decoder\.(up|mid)\.", name) for name in tensors)


def _taken(entry, how):
    """A canonical tensor out of the original one; of another shape, the loader refuses it."""
    shape = entry.shape
    if how == "transposed":
        return entry.map(np.transpose, shape[::-1])
    if how == "squeezed":
        return squeezed(entry)
    if how.startswith("third") and shape and shape[0] % 3 == 0:  # (3 O, ...) -> (O, ...)
        rows, which = shape[0] // 3, int(how[-1])
        span = slice(which * rows, (which + 1) * rows)
        return entry.map(lambda array: array[span], (rows, *shape[1:]))
    return entry


def squeezed(entry):
    """A 1x1 convolution as a matrix, and anything else as it is."""
    if entry.shape[2:] != (1, 1):
        return entry
    shape = entry.shape[:2]  # (O, I, 1, 1) -> (O, I)
    return entry.map(lambda array: array.reshape(shape), shape)


def _put(entry, how):
    """The original tensor out of a canonical one."""
    if how == "transposed":
        return entry.map(np.transpose, entry.shape[::-1])
    if how == "squeezed":  # (O, I) -> (O, I, 1, 1)
        shape = (*entry.shape, 1, 1)
        return entry.map(lambda array: array.reshape(shape), shape)
    return entry


def _fused(thirds):
    """One tensor of three, one above the other: (O, ...) each -> (3 O, ...)."""
    shape = (sum(entry.shape[0] for entry in thirds), *thirds[0].shape[1:])
    return LazyTensor(
        shape, thirds[0].dtype, lambda: np.concatenate([entry.read() for entry in thirds])
    )
