"""What a pickle of PyTorch's describes, without PyTorch, and without running anything.

A pickle may name any function to be called on loading, so the unpickler here knows four things:
`OrderedDict`, PyTorch's functions that rebuild a tensor, its storage types, and nothing else.
Training tools leave objects of their own beside the weights (callbacks, settings): names from those
tools become inert placeholders, which ignore whatever is done to them and are thrown away, and
which are an error in the place of a weight. Every other name is an error. No name is ever imported.

Nor may a small pickle take much: what it makes is built once, and never copied, compared or hashed
by its contents, which by holding each other twice can unfold to any size.
"""

import io
import math
import pickle
from dataclasses import dataclass

import ml_dtypes
import numpy as np

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
PARAMETER_DICT = "torch.nn.modules.container.ParameterDict"
MAX_AXES = 64  # of a tensor, as in NumPy


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
class View(_Sealed):
    """A tensor of the pickle: `shape` and `stride` in elements from `offset` into a storage."""

    storage: _Storage
    offset: int
    shape: tuple
    stride: tuple


class _Placeholder:
    """Stands for an object that is not loaded: takes anything, does nothing."""

    __slots__ = ()

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return self

    append = extend = add = __setitem__ = __setstate__ = __call__


class ParameterDict(_Placeholder):
    """PyTorch's module of this name, of which the table of `parameters` is kept, if it has one."""

    parameters = None

    def __setstate__(self, state):
        self.parameters = state.get("_parameters")


class _Tuple(tuple):
    """A tuple that hashes and compares as itself, not by what it holds."""

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__


class _Table(dict):
    """An `OrderedDict`, whose attributes, such as the versions of PyTorch's modules, go nowhere."""

    def __init__(self, pairs=()):
        super().__init__(pairs)
        if pairs:  # as Python 2 lists them; given to table after table they would take any memory
            pairs.clear()

    def __setstate__(self, state):
        pass


def _rebuild_tensor(storage, offset, shape, stride, *_):
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    numbers = (offset, *shape, *stride)
    whole = all(type(n) is int and 0 <= n < 2**63 for n in numbers)
    if not whole or len(shape) != len(stride) or len(shape) > MAX_AXES:
        raise pickle.UnpicklingError("a tensor whose shape or strides are no whole numbers")
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    # an expanded view could claim any size: what a tensor takes must be in the file
    if math.prod(shape) and max(offset + last + 1, math.prod(shape)) > storage.size:
        raise pickle.UnpicklingError(f"a tensor of shape {shape} in {storage.size} elements")
    return View(storage, offset, tuple(shape), tuple(stride))


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


class _Unpickler(pickle._Unpickler):  # the Python one, whose opcodes can be replaced
    def __init__(self, text):
        super().__init__(io.BytesIO(text), encoding="utf-8")
        self._placeholders = {}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return _Table
        if (module, name) in KNOWN:
            return _Function(KNOWN[module, name])
        if module in ("torch", "torch.storage", "torch.cuda") and name in STORAGES:
            return _StorageType(np.dtype(STORAGES[name]))
        if name.lower().startswith("float8"):
            raise pickle.UnpicklingError(f"8-bit floats ({module}.{name}) are not supported")
        if module.split(".")[0] in INERT_MODULES or (module, name) in INERT_NAMES:
            return self._placeholder(f"{module}.{name}")
        raise pickle.UnpicklingError(
            f"it calls {module}.{name}, which no checkpoint needs; nothing was run. "
            "Do not open this file with other programs"
        )

    def _placeholder(self, path):
        if path not in self._placeholders:
            kind = ParameterDict if path == PARAMETER_DICT else _Placeholder
            self._placeholders[path] = type(path, (kind,), {"__slots__": ()})
        return self._placeholders[path]

    def persistent_load(self, pid):
        kind, storage, key, _, size = pid
        if kind != "storage" or not isinstance(storage, _StorageType):
            return _Placeholder()
        if not isinstance(key, str) or type(size) is not int or size < 0:
            raise pickle.UnpicklingError("a storage without a name or a number of elements")
        return _Storage(storage.dtype, key, size)

    def _load_tuple(self):
        items = self.pop_mark()  # which changes `append`
        self.append(_Tuple(items))

    def _load_tuple_of(count):
        def load(self):
            self.stack[-count:] = [_Tuple(self.stack[-count:])]

        return load

    def _load_set(self):
        self.append(_Placeholder())

    def _load_frozenset(self):
        self.pop_mark()
        self.append(_Placeholder())

    def _load_unknown(self):
        raise pickle.UnpicklingError("its pickle is damaged")

    dispatch = (
        dict.fromkeys(range(256), _load_unknown)
        | pickle._Unpickler.dispatch
        | {
            pickle.TUPLE[0]: _load_tuple,
            pickle.TUPLE1[0]: _load_tuple_of(1),
            pickle.TUPLE2[0]: _load_tuple_of(2),
            pickle.TUPLE3[0]: _load_tuple_of(3),
            pickle.EMPTY_SET[0]: _load_set,
            pickle.FROZENSET[0]: _load_frozenset,
            pickle.BYTEARRAY8[0]: _load_unknown,  # which takes memory by a claim
        }
    )


def unpickle(text):
    """What a pickle holds: containers, numbers, text, and objects of the classes above.

    Raises:
        pickle.UnpicklingError: if it would run code or describes no possible tensor.
        Exception: of any other kind, where the pickle is damaged.
    """
    return _Unpickler(text).load()
