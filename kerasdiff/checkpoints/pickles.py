"""PyTorch's zip files (`.ckpt`, `.bin`, `.pt`) without PyTorch, and without running their pickle.

Such a file is a zip with one pickle, `data.pkl`, that describes tensors as views of storages, and
one entry of raw bytes per storage. A pickle may name any function to be called on loading, so the
unpickler here knows four things: `OrderedDict`, PyTorch's functions that rebuild a tensor, its
storage types, and nothing else. Training tools leave objects of their own beside the weights
(callbacks, settings): names from those tools become inert placeholders, which ignore whatever is
done to them and are thrown away, and which are an error in the place of a weight. Every other
name is an error. No name is ever imported.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from kerasdiff.checkpoints.tensors import CheckpointError, LazyTensor, Tensors

STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
INERT_MODULES = (
    "torch", "numpy", "pytorch_lightning", "lightning", "lightning_fabric", "omegaconf", "typing",
    "ldm", "sgm", "taming", "__main__", "main",
)  # fmt: skip
INERT_NAMES = {
    (module, name)
    for module in ("builtins", "__builtin__")
    for name in "int float complex bool str bytes list tuple dict set frozenset object".split()
} | {("collections", "defaultdict"), ("collections", "Counter"), ("_codecs", "encode")}
MAX_PICKLE = 100_000_000  # bytes; a checkpoint of SD 1.x needs a third of a million


class _Sealed:
    """What a pickle made and may not change afterwards, past the checks."""

    def __setstate__(self, state):
        raise pickle.UnpicklingError("the state of a tensor, storage or function is set")


@dataclass(frozen=True)
class _StorageType(_Sealed):
    dtype: np.dtype


@dataclass(frozen=True)
class _Storage(_Sealed):
    dtype: np.dtype
    key: str
    size: int


@dataclass(frozen=True)
class _View(_Sealed):
    """A tensor of the pickle: `shape` and `stride` in elements from `offset` into a storage."""

    storage: _Storage
    offset: int
    shape: tuple
    stride: tuple


class _Placeholder:
    """Stands for an object that is not loaded: takes anything, does nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return self

    append = extend = add = __setitem__ = __setstate__ = __call__


def _rebuild_tensor(storage, offset, shape, stride, *_):
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    numbers = (offset, *shape, *stride)
    if not all(type(n) is int and n >= 0 for n in numbers) or len(shape) != len(stride):
        raise pickle.UnpicklingError("a tensor whose shape or strides are no whole numbers")
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    # an expanded view could claim any size: what a tensor takes must be in the file
    if math.prod(shape) and max(offset + last + 1, math.prod(shape)) > storage.size:
        raise pickle.UnpicklingError(f"a tensor of shape {shape} in {storage.size} elements")
    return _View(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(data, *_):
    return data


class _Function(_Sealed):
    """A function that a pickle may call, without attributes that a pickle could set."""

    def __init__(self, function):
        self._function = function

    def __call__(self, *args):
        return self._function(*args)


KNOWN = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in KNOWN:
            return _Function(KNOWN[module, name])
        if module in ("torch", "torch.storage", "torch.cuda") and name in STORAGES:
            return _StorageType(np.dtype(STORAGES[name]))
        if name.lower().startswith("float8"):
            raise pickle.UnpicklingError(f"8-bit floats ({module}.{name}) are not supported")
        if module.split(".")[0] in INERT_MODULES or (module, name) in INERT_NAMES:
            return type(f"{module}.{name}", (_Placeholder,), {})
        raise pickle.UnpicklingError(
            f"it calls {module}.{name}, which no checkpoint needs; nothing was run. "
            "Do not open this file with other programs"
        )

    def persistent_load(self, pid):
        kind, storage, key, _, size = pid
        if kind != "storage" or not isinstance(storage, _StorageType):
            return _Placeholder()
        if not isinstance(key, str) or type(size) is not int or size < 0:
            raise pickle.UnpicklingError("a storage without a name or a number of elements")
        return _Storage(storage.dtype, key, size)


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
        archive = zipfile.ZipFile(path)
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
            name: _entry(path, archive, infos, prefix, name, view) for name, view in views.items()
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
    # a memo index far beyond the file's length would make the unpickler take all memory
    for opcode, argument, _ in pickletools.genops(text):
        if "PUT" in opcode.name and int(argument) > len(text):
            raise pickle.UnpicklingError("its pickle is damaged")
    return _Unpickler(io.BytesIO(text), encoding="utf-8").load()


def _state_dict(path, top):
    for _ in range(2):  # a table may hold itself
        if isinstance(top, dict) and isinstance(top.get("state_dict"), dict):
            top = top["state_dict"]
    if isinstance(top, dict) and isinstance(top.get("string_to_param"), dict):
        # a web UI's embedding: one tensor under "*", and its name beside
        top = {str(top.get("name") or key): value for key, value in top["string_to_param"].items()}
    if not isinstance(top, dict):
        raise CheckpointError(f"{path}: holds {type(top).__name__}, not a table of tensors")
    for name, value in top.items():
        if not isinstance(name, str):  # of anything else, a hostile file's, no text is made
            raise CheckpointError(f"{path}: a name is {type(name).__name__}, not text")
        if not isinstance(value, _View):
            raise CheckpointError(
                f"{path}: the entry {name!r} is {type(value).__name__}, not a tensor"
            )
    return top


def _entry(path, archive, infos, prefix, name, view):
    """The lazy tensor of one view, its storage checked against the zip."""
    storage = view.storage
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
        data = _read_storage(path, archive, info, begin, span)
        return np.ndarray(view.shape, storage.dtype, data, strides=strides)

    return LazyTensor(view.shape, storage.dtype, read)


def _read_storage(path, archive, info, begin, length):
    """Bytes of a storage, and no others: it may be larger than memory."""
    if info.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as file:
            file.seek(info.header_offset)
            head = file.read(30)  # the local header: lengths of name and extra field at its end
        at = info.header_offset + 30 + sum(np.frombuffer(head[26:30], "<u2").tolist())
        size = path.stat().st_size
        if head[:4] != b"PK\3\4" or at + info.file_size > size:
            raise CheckpointError(f"{path}: damaged or truncated at {info.filename!r}")
        return np.memmap(path, np.uint8, mode="r", offset=at + begin, shape=(length,))
    try:
        with _open(archive, info) as file:
            file.seek(begin)
            data = file.read(length)
    except (zipfile.BadZipFile, zipfile.zlib.error, EOFError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: damaged at {info.filename!r}: {error}") from error
    if len(data) != length:
        raise CheckpointError(f"{path}: truncated at {info.filename!r}")
    return np.frombuffer(data, np.uint8)
