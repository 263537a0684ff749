"""Strict loading: every variable gets a tensor, every tensor is accounted for, or nothing changes.

Names and shapes are compared first. A number that is not finite shows only on the way, when some
variables have their new values: such a model is of no use.
Each tensor is cast and turned on the way into the memory that it stays in, a few at a time, so that
memory stays near the size of the weights in the variables' dtype.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kerasdiff.backend import hand_over, new_array, process_count
from kerasdiff.checkpoints.names import is_skipped
from kerasdiff.checkpoints.tensors import (
    FLOATS,
    CheckpointError,
    LazyTensor,
    Tensors,
    cast,
    require_finite,
)
from kerasdiff.layers import rounded, tensor_name, to_torch_axes

THREADS = min(4, os.cpu_count() or 1)  # that read, cast and assign
ROWS = 64  # of a tensor that are cast at once: 128 or 32 are no faster
SHOWN = 5  # names of each kind that an error lists


@dataclass(frozen=True)
class Report:
    """What loading did with each name.

    Attributes:
        used: tensors that went into variables.
        skipped: tensors that are known to be no weights of this model.
        missing: variables for which there was no tensor.
        unexpected: tensors for which there was no variable.
        misshapen: (name, shape in the file, shape of the variable), both in PyTorch's order.
    """

    used: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()

    @property
    def fault(self):
        """A sentence about what does not fit, or an empty string."""
        shapes = [f"{name} {have} instead of {want}" for name, have, want in self.misshapen]
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "misshapen": shapes}
        return "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)}"
            for kind, names in kinds.items()
            if names
        )


class MismatchError(CheckpointError):
    """Tensors and variables do not fit one to one; `report` says which."""

    def __init__(self, source, model, report):
        super().__init__(f"{source}: does not fit {model}: {report.fault}")
        self.report = report


def load(model, tensors):
    """Assign every variable of a model from tensors under canonical names.

    Args:
        model: a Keras model of this package; kernels that are int8 are rounded on the way.
        tensors: mapping of canonical names to arrays in PyTorch's axis order, such as a part of a
            `Checkpoint`.

    Returns:
        `Report`, with neither missing nor unexpected nor misshapen names.

    Raises:
        MismatchError: before anything is assigned, if names or shapes do not fit.
        CheckpointError: if a tensor holds NaN or infinity in the variable's dtype; others may have
            been assigned.
    """
    tensors = Tensors.of(tensors)
    scales = {_layer(v): v for v in model.variables if v.path.endswith("/scale")}
    variables = {tensor_name(v): v for v in model.variables if not v.path.endswith("/scale")}
    report = check_fit(tensors, {n: torch_shape(v) for n, v in variables.items()}, model.name)

    def assign(name):
        variable = variables[name]
        if variable.dtype == "int8":
            kernel = new_array(variable.shape, "int8")
            scale = rounded(_read(variable, tensors, name, "float32"), kernel)
            hand_over(scale, scales[_layer(variable)])
        else:
            kernel = _read(variable, tensors, name, variable.dtype)
        hand_over(kernel, variable)

    count = THREADS if process_count() == 1 else 1  # several must assign in the same order
    with ThreadPoolExecutor(count) as threads:  # NumPy's loops let others run
        for _ in threads.map(assign, report.used):
            pass  # but raise what was raised there
    return report


def _layer(variable):
    return variable.path.rpartition("/")[0]


def _read(variable, tensors, name, dtype):
    """A tensor as a new array that has its variable's shape."""
    array = new_array(variable.shape, FLOATS[dtype])
    with np.errstate(over="ignore"):
        copy_turned(tensors[name], array, to_torch_axes(variable))
    require_finite(array, name, tensors.source)
    return array


def copy_turned(tensor, array, axes):
    """Casts a tensor into an array whose `axes`, in this order, are the tensor's.

    Some rows at a time, cast and then turned, mostly within the processor's cache: NumPy does both
    at once number by number, which took up to twice as long.
    """
    # As whole numbers: NumPy turns those sooner than bfloat16.
    bits = np.dtype(f"u{array.itemsize}")
    turned = array.view(bits).transpose(axes)  # HWIO -> OIHW, IO -> OI
    for start in range(0, len(tensor), ROWS):
        rows = slice(start, start + ROWS)
        turned[rows] = cast(tensor[rows], array.dtype).view(bits)


def check_fit(tensors, want, model):
    """The `Report` on `Tensors` and a table of names and shapes, without a fault.

    Raises:
        MismatchError: if there is one; `model` is what they are for.
    """
    report = compare(tensors.shapes, want)
    if report.fault:
        raise MismatchError(tensors.source, model, report)
    return report


def compare(have, want):
    """The `Report` on two tables of names and shapes."""
    common = [name for name in want if name in have]
    rest = [name for name in have if name not in want]
    bad = [(n, tuple(have[n]), tuple(want[n])) for n in common if tuple(have[n]) != tuple(want[n])]
    return Report(
        used=tuple(common),
        skipped=tuple(name for name in rest if is_skipped(name)),
        missing=tuple(name for name in want if name not in have),
        unexpected=tuple(name for name in rest if not is_skipped(name)),
        misshapen=tuple(bad),
    )


def state(model):
    """A model's variables as `Tensors` under canonical names, in PyTorch's axis order.

    Raises:
        ValueError: if kernels are int8, which no checkpoint has.
    """
    if any(variable.dtype == "int8" for variable in model.variables):
        raise ValueError(f"{model.name} is int8, which no checkpoint has: write it, then quantize")
    return Tensors(model.name, {tensor_name(v): _lazy(v) for v in model.variables})


def _lazy(variable):
    def read():
        return np.asarray(variable.value).transpose(to_torch_axes(variable))

    return LazyTensor(torch_shape(variable), FLOATS[variable.dtype], read)


def torch_shape(variable):
    """A variable's shape in PyTorch's axis order."""
    return tuple(variable.shape[axis] for axis in to_torch_axes(variable))
