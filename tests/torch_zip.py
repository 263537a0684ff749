"""Write PyTorch's zip format by hand, so that tests of reading it need no PyTorch."""

import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np

STORAGE = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
}


class Global:
    """Pickled as the bare global `module.name`, which need not exist."""

    def __init__(self, module, name):
        self.path = (module, name)


class Call:
    """Pickled as a call of `function` with `arguments`, and a state if there is one."""

    def __init__(self, function, *arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state


class Storage:
    """The elements of one storage of the file."""

    def __init__(self, key, array):
        self.key, self.array = key, np.ascontiguousarray(array).reshape(-1)


def view(storage, shape, stride, offset=0):
    """A tensor: `shape` and `stride` in elements, from `offset` of a `Storage`."""
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, tuple(shape), tuple(stride), False, OrderedDict())


def tensor(key, array):
    """A contiguous tensor with a storage of its own."""
    array = np.asarray(array)
    stride = tuple(step // array.itemsize for step in np.asarray(array, order="C").strides)
    return view(Storage(key, array), array.shape, stride)


class _Pickler(pickle._Pickler):  # the Python one, whose opcodes can be emitted one by one
    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        name = STORAGE.get(obj.array.dtype, "FloatStorage")
        size = getattr(obj, "claimed", obj.array.size)
        return ("storage", Global("torch", name), obj.key, "cpu", size)

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + "{}\n{}\n".format(*obj.path).encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(tuple(obj.arguments))
            self.write(pickle.REDUCE)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


def write_torch_zip(path, top, storages, compression=zipfile.ZIP_STORED, extra=()):
    """Write `top` (containers, numbers, `tensor`, `view`, `Call`) with its list of `Storage`."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        with archive.open("archive/data.pkl", "w") as file:
            _Pickler(file, 2).dump(top)
        archive.writestr("archive/byteorder", "little")
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())
        for name, text in extra:
            archive.writestr(name, text)


def write_state_dict(path, arrays, wrap=lambda state: state, **options):
    """Write a whole checkpoint of arrays; `wrap` puts the state dict into something larger."""
    tensors = {name: tensor(str(key), array) for key, (name, array) in enumerate(arrays.items())}
    storages = [call.arguments[0] for call in tensors.values()]
    write_torch_zip(path, wrap(OrderedDict(tensors)), storages, **options)
