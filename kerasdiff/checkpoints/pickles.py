"""PyTorch's zip files (`.ckpt`, `.bin`, `.pt`) without PyTorch, and without running their pickle.

Such a file is a zip with one pickle, `data.pkl`, that describes tensors as views of storages, and
one entry of raw bytes per storage. The pickle is read by `unpickler.py`, which runs none of it.
"""

import math
import pickle
import zipfile
from pathlib import Path

import numpy as np

from kerasdiff.checkpoints.steady_file import SteadyFile
from kerasdiff.checkpoints.tensors import CheckpointError, LazyTensor, Tensors
from kerasdiff.checkpoints.unpickler import ParameterDict, View, unpickle

MAX_PICKLE = 10_000_000  # bytes; a checkpoint of SD 1.x needs a third of a million


def read_pickle(path):
    """Open a PyTorch zip file; a nested `state_dict` is taken, what lies beside it left out.

    Returns:
        `Tensors`; storages that the zip holds uncompressed (PyTorch always does so) are read from
        a memory map.

    Raises:
        CheckpointError: if the file is damaged, would run code, or holds no tensors.
    """
    path = Path(path)
    try:
        steady, archive = SteadyFile(path), zipfile.ZipFile(path)
        infos = {info.filename: info for info in archive.infolist()}
        if len(infos) != len(archive.infolist()):
            raise zipfile.BadZipFile("two entries have the same name")
        prefix = _prefix(path, infos)
        if prefix + "byteorder" in infos:
            with _open(archive, infos[prefix + "byteorder"]) as file:
                if file.read(3) == b"big":
                    raise CheckpointError(f"{path}: written on a big-endian machine: not supported")
        top = _unpickle(archive, infos[prefix + "data.pkl"])
        views = _state_dict(path, top)
        entries = {
            name: _entry(steady, archive, infos, prefix, name, view) for name, view in views.items()
        }
    except CheckpointError:
        raise
    except Exception as error:  # hostile bytes can make zipfile and pickle raise anything
        raise CheckpointError(f"{path}: not loaded: {error or type(error).__name__}") from error
    return Tensors(path, entries, on_close=archive.close)


def _prefix(path, infos):
    if any(name.endswith("constants.pkl") for name in infos):
        raise CheckpointError(f"{path}: a TorchScript program, not a checkpoint")
    names = [name for name in infos if name.split("/")[-1] == "data.pkl" and name.count("/") < 2]
    if len(names) != 1:
        raise CheckpointError(f"{path}: a zip file, not a checkpoint written by torch.save")
    return names[0][: -len("data.pkl")]


def _open(archive, info):
    """An entry to be read by a number of bytes, which then bounds the memory taken.

    The size that a zip gives for an entry is a claim. Of the ways of packing, deflate alone stops
    unpacking where it is told to, and what reads all there is does not tell it.
    """
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{info.filename!r} is packed in a way that PyTorch never uses")
    return archive.open(info)


def _unpickle(archive, info):
    if info.file_size > MAX_PICKLE:
        raise pickle.UnpicklingError(f"its pickle takes {info.file_size} bytes")
    with _open(archive, info) as file:
        text = file.read(info.file_size)
    if len(text) != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename!r} is shorter than the zip says")
    return unpickle(text)


def _state_dict(path, top):
    for _ in range(2):  # a table may hold itself
        if isinstance(top, dict) and isinstance(top.get("state_dict"), dict):
            top = top["state_dict"]
    if isinstance(top, dict) and "string_to_param" in top:
        top = _embedding(path, top)
    if not isinstance(top, dict):
        raise CheckpointError(f"{path}: holds {type(top).__name__}, not a table of tensors")
    for name, value in top.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: a name is {type(name).__name__}, not text")
        if not isinstance(value, View):
            raise CheckpointError(
                f"{path}: the entry {name!r} is {type(value).__name__}, not a tensor"
            )
    return top


def _embedding(path, top):
    """A textual inversion: one tensor under its placeholder, such as "*", and its name beside.

    Web UIs write it so; the original implementation has a PyTorch module in place of the dict.
    """
    found = top["string_to_param"]
    found = found.parameters if isinstance(found, ParameterDict) else found
    if not isinstance(found, dict) or len(found) != 1:
        what = f"{len(found)} tensors" if isinstance(found, dict) else type(found).__name__
        raise CheckpointError(f"{path}: string_to_param holds {what}, not one tensor")
    ((token, value),) = found.items()
    name = top.get("name")  # of anything but text, a hostile file's, no text is made
    return {name if isinstance(name, str) and name else token: value}


def _entry(steady, archive, infos, prefix, name, view):
    """The lazy tensor of one view, its storage checked against the zip."""
    path, storage = steady.path, view.storage
    info = infos.get(f"{prefix}data/{storage.key}")
    need = storage.size * storage.dtype.itemsize
    if info is None or info.file_size != need:
        have = "is missing" if info is None else f"has {info.file_size} bytes instead of {need}"
        raise CheckpointError(f"{path}: the storage of {name!r} {have}")
    if info.flag_bits & 1:
        raise CheckpointError(f"{path}: the storage of {name!r} is encrypted")

    def read():
        if not math.prod(view.shape):
            return np.empty(view.shape, storage.dtype)
        strides = [step * storage.dtype.itemsize for step in view.stride]
        span = sum((size - 1) * step for size, step in zip(view.shape, strides, strict=True))
        span += storage.dtype.itemsize
        begin = view.offset * storage.dtype.itemsize
        data = _read_storage(steady, archive, info, begin, span)
        return np.ndarray(view.shape, storage.dtype, data, strides=strides)

    return LazyTensor(view.shape, storage.dtype, read)


def _read_storage(steady, archive, info, begin, length):
    """Bytes of a storage, and no others: it may be larger than memory."""
    path = steady.path
    if info.compress_type == zipfile.ZIP_STORED:
        with steady.open() as file:
            file.seek(info.header_offset)
            head = file.read(30)  # the local header: lengths of name and extra field at its end
        at = info.header_offset + 30 + sum(np.frombuffer(head[26:30], "<u2").tolist())
        if head[:4] != b"PK\3\4" or at + info.file_size > steady.size:
            raise CheckpointError(f"{path}: damaged or truncated at {info.filename!r}")
        return steady.map(at + begin, length)
    try:
        with _open(archive, info) as file:
            file.seek(begin)
            data = file.read(length)
    except (zipfile.BadZipFile, zipfile.zlib.error, EOFError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: damaged at {info.filename!r}: {error}") from error
    if len(data) != length:
        raise CheckpointError(f"{path}: truncated at {info.filename!r}")
    return np.frombuffer(data, np.uint8)
