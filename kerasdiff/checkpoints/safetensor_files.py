"""The safetensors container, read from a memory map and written as a stream.

A file is eight bytes of header length, a JSON header of dtypes, shapes and offsets, and the
tensors' bytes in little-endian order without gaps. Files come from strangers: everything in the
header is checked against the size of the file before anything is read by it.
"""

import json
import math
from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np

from kerasdiff.checkpoints.steady_file import SteadyFile
from kerasdiff.checkpoints.tensors import CheckpointError, LazyTensor, Tensors
from kerasdiff.files import whole_file

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": ml_dtypes.bfloat16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
DTYPES = {name: np.dtype(dtype) for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000  # the format's own limit


def read_safetensors(path):
    """Open a safetensors file.

    Returns:
        `Tensors` whose arrays are read-only views of the mapped file.

    Raises:
        CheckpointError: if the header or the offsets do not fit the file, or a dtype is 8-bit.
    """
    path = Path(path)
    steady = SteadyFile(path)
    size = steady.size
    with steady.open() as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise CheckpointError(
                f"{path}: the header claims {length} bytes, the file has {size}: "
                "truncated, or not a safetensors file"
            )
        header = _parse_header(path, file.read(length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ is not a table of strings")
    spans = {name: _span(path, name, entry) for name, entry in header.items()}
    _check_layout(path, spans, size - 8 - length)
    entries = {
        name: LazyTensor(shape, dtype, _reader(steady, 8 + length + begin, dtype, shape))
        for name, (begin, _, dtype, shape) in spans.items()
    }
    return Tensors(path, entries, metadata)


def _reader(steady, offset, dtype, shape):
    def read():
        size = math.prod(shape) * dtype.itemsize
        if not size:  # an empty map is refused by the system
            return np.empty(shape, dtype)
        # a map for each tensor, so that its pages go when it goes
        return np.asarray(steady.map(offset, size)).view(dtype).reshape(shape)

    return read


def _parse_header(path, text):
    def unique(pairs):
        table = dict(pairs)
        if len(table) != len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise CheckpointError(f"{path}: the header names {twice!r} twice")
        return table

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is not a table of tensors")
    return header


def _span(path, name, entry):
    """(begin, end, dtype, shape) of one header entry, consistent with itself."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{path}: {name!r} lacks a dtype, a shape or offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if isinstance(dtype, str) and dtype.startswith("F8_"):
        raise CheckpointError(
            f"{path}: {name!r} is stored as 8-bit floats ({dtype}), which are not supported; "
            "use a float16, bfloat16 or float32 version of the checkpoint"
        )
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{path}: {name!r} has the unknown dtype {dtype!r}")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{path}: {name!r} has shape {shape!r} and offsets {offsets!r}")
    begin, end = offsets
    dtype = DTYPES[dtype]
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"{path}: {name!r} of shape {shape} and dtype {dtype} needs "
            f"{math.prod(shape) * dtype.itemsize} bytes; its offsets give {end - begin}"
        )
    return begin, end, dtype, tuple(shape)


def _sizes(values):
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _check_layout(path, spans, size):
    """Tensors must follow one another without gap or overlap up to the end of the file."""
    at = 0
    for name, (begin, end, *_) in sorted(spans.items(), key=lambda item: item[1][:2]):
        if begin != at:
            fault = "overlaps the tensor before it" if begin < at else "leaves a gap before it"
            raise CheckpointError(f"{path}: {name!r} at byte {begin} {fault} (expected {at})")
        at = end
    if at != size:
        fault = "truncated" if at > size else "longer than its tensors"
        raise CheckpointError(f"{path}: {fault}: tensors take {at} bytes, the file has {size}")


def write_safetensors(path, tensors, metadata=None):
    """Write a safetensors file whole or not at all, one tensor at a time.

    Args:
        path: the file to write; an existing one is replaced once the new one is complete.
        tensors: mapping of names to arrays, or a `Tensors`, whose arrays are read in turn.
        metadata: dict of strings for the header.

    Raises:
        CheckpointError: if a dtype has no place in the format or the file cannot be written.
    """
    tensors = Tensors.of(tensors)
    names = {dtype: name for name, dtype in DTYPES.items()}
    for name, entry in tensors.entries.items():
        if entry.dtype not in names:
            raise CheckpointError(f"{path}: {name!r} has dtype {entry.dtype}, which has no place")
    # wide dtypes first, so that every tensor is aligned
    order = sorted(tensors, key=lambda name: (-tensors.dtype(name).itemsize, name))
    header = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name in order:
        shape, dtype = tensors.shape(name), tensors.dtype(name)
        end = at + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    try:
        with whole_file(path) as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                array = np.asarray(tensors[name], order="C")
                if array.shape != tensors.shape(name) or array.dtype != tensors.dtype(name):
                    raise CheckpointError(f"{path}: {name!r} is not what it was announced to be")
                file.write(array.reshape(-1).view(np.uint8).data)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from error
