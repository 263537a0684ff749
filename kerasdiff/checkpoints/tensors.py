"""Tensors by name, read one at a time: what every container and every layout is seen as.

A `Tensors` knows each tensor's shape and dtype without reading it, so that names and shapes are
settled before memory is taken, and weights of any size pass through one tensor at a time.
"""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ml_dtypes
import numpy as np

FLOATS = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
TO_FLOAT32 = np.float32(2.0**112)  # float16's bits, read as float32's, are too small by this


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, written or understood; names the file and the fault."""


@contextmanager
def naming(source):
    """Errors about what a config says begin with the file or folder that it comes from."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    except RecursionError as error:  # what could be parsed, but is too deep to be shown
        raise CheckpointError(f"{source}: a value of its config is nested too deeply") from error


@dataclass(frozen=True)
class LazyTensor:
    """A tensor not read yet: `read()` returns an array of exactly this shape and dtype."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @classmethod
    def of(cls, array):
        """Wrap an array that is in memory already."""
        array = np.asarray(array)
        return cls(array.shape, array.dtype, lambda: array)

    def map(self, function, shape):
        """The tensor that `function` makes of this one, without changing its dtype."""
        return LazyTensor(tuple(shape), self.dtype, lambda: function(self.read()))


class Tensors(Mapping):
    """A mapping from names to arrays, each read when asked for and not kept.

    Args:
        source: the path or description that errors name.
        entries: dict of name to `LazyTensor`.
        metadata: dict of strings carried along with the tensors.
        on_close: called by `close`, to let go of an open file.

    Arrays may be read-only views of a mapped file.
    """

    def __init__(self, source, entries, metadata=None, on_close=None):
        self.source = str(source)
        self.entries = dict(entries)
        self.metadata = dict(metadata or {})
        self._on_close = on_close

    @classmethod
    def of(cls, arrays, source="arrays in memory"):
        """See a mapping from names to arrays, or a `Tensors`, as a `Tensors`."""
        if isinstance(arrays, Tensors):
            return arrays
        return cls(source, {name: LazyTensor.of(array) for name, array in arrays.items()})

    def __getitem__(self, name):
        return self.entries[name].read()

    def __iter__(self):
        return iter(self.entries)

    def __len__(self):
        return len(self.entries)

    def __repr__(self):
        return f"Tensors({self.source!r}, {len(self)} tensors)"

    def shape(self, name):
        """Shape of one tensor, without reading it."""
        return self.entries[name].shape

    def dtype(self, name):
        """NumPy dtype of one tensor, without reading it."""
        return self.entries[name].dtype

    @property
    def shapes(self):
        """Every tensor's shape by name."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def with_entries(self, entries):
        """The same source, seen under other entries."""
        return Tensors(self.source, entries, self.metadata, self._on_close)

    def cast(self, dtype=None):
        """Floating tensors in `dtype` ("float32", "float16" or "bfloat16"), the others as stored.

        None keeps each one's own. Raises CheckpointError when read, if a weight is not finite.
        """
        if dtype not in (None, *FLOATS):
            raise ValueError(f"`dtype` must be one of {', '.join(FLOATS)}, not {dtype!r}")
        return self.with_entries(
            {
                name: self._cast(name, entry, FLOATS.get(dtype, entry.dtype))
                for name, entry in self.entries.items()
            }
        )

    def _cast(self, name, entry, dtype):
        if entry.dtype not in (*FLOATS.values(), np.float64):
            return entry

        def read():
            with np.errstate(over="ignore"):
                array = cast(entry.read(), dtype)
            require_finite(array, name, self.source)
            return array

        return LazyTensor(entry.shape, dtype, read)

    def close(self):
        """Let go of the file; arrays already handed out stay valid."""
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def cast(array, dtype):
    """The array in another dtype, as `astype` has it; itself, if it has that dtype.

    NumPy widens float16 number by number; by their bits, as whole numbers, takes a fifth as long.
    """
    if array.dtype != np.float16 or dtype == np.float16 or not _can_widen(array):
        return array.astype(dtype, copy=False)
    bits = array.view(np.int16).astype(np.int32)
    bits <<= 13  # to where float32 has them; its exponents are larger by 112
    bits &= ~0x70000000  # three more copies of the sign
    numbers = bits.view(np.float32)
    numbers *= TO_FLOAT32
    return numbers.astype(dtype, copy=False)


def _can_widen(array):
    """Not infinity nor NaN, which only look like more; nor where this thread takes tiny for zero.

    A library may have told the processor so. float16's least lies among float32's subnormals first.
    """
    return _is_finite(array) and np.float32(2.0**-136) * TO_FLOAT32 == np.float32(2.0**-24)


def require_finite(array, name, source):
    """Raise CheckpointError naming the tensor if it holds NaN or infinity."""
    if array.dtype == np.bool_ or np.issubdtype(array.dtype, np.integer):
        return
    if _is_finite(array):
        return
    with np.errstate(invalid="ignore"):  # NumPy would warn of some kinds of NaN
        places = int((~np.isfinite(array)).sum())
    raise CheckpointError(
        f"{source}: the tensor {name!r} holds NaN or infinity as {array.dtype}, "
        f"in {places} of {array.size} places"
    )


def _is_finite(array):
    """By bits, which grow with the number: infinity's come next to the largest, then NaN's."""
    order, size = array.dtype.byteorder, array.itemsize
    infinity = np.array(np.inf, array.dtype).view(f"{order}u{size}")
    positive, negative = array.view(f"{order}i{size}"), array.view(f"{order}u{size}")
    lowest = np.array(-np.inf, array.dtype).view(f"{order}u{size}")
    return positive.max(initial=0) < infinity and negative.max(initial=0) < lowest
