"""Names, axes and first values of the networks' variables."""

from contextlib import contextmanager
from contextvars import ContextVar

import keras

from kerasdiff.backend import empty, unscoped_names

_LEAVES = {
    "kernel": "weight",
    "gamma": "weight",
    "embeddings": "weight",
    "beta": "bias",
    "bias": "bias",
}
_initialized = ContextVar("initialized", default=True)


def tensor_name(variable):
    """The name of a variable's tensor in the diffusers layout, such as `"conv_in.weight"`.

    It is the name of the layer that owns the variable, which is the last but one part of the path
    whatever models and layers lie around it, and "weight" for a kernel, gamma or embeddings,
    "bias" for a bias or beta. Text encoders leave out the leading `text_model.`, which
    transformers 4 writes and transformers 5 does not.

    Raises:
        ValueError: if the variable belongs to no layer of this package, such as an optimizer's.
    """
    *_, layer, leaf = ["", *variable.path.split("/")]
    if not layer or leaf not in _LEAVES:
        raise ValueError(f"`variable` must be a layer's weight or bias, not {variable.path!r}")
    return f"{layer.removeprefix('text_model.')}.{_LEAVES[leaf]}"


def to_torch_axes(variable):
    """The order of a variable's axes that makes it a tensor as PyTorch stores it.

    Convolutions (H, W, I, O) become (O, I, H, W), matrices (I, O) become (O, I); vectors and
    embeddings stay.
    """
    axes = tuple(range(len(variable.shape)))
    if variable.path.split("/")[-1] != "kernel":
        return axes
    return (3, 2, 0, 1) if len(axes) == 4 else axes[::-1]


@contextmanager
def uninitialized():
    """Within this context, kernels and embeddings start as whatever lies in memory.

    For models whose every variable a checkpoint will overwrite.
    """
    token = _initialized.set(False)
    try:
        with unscoped_names():
            yield
    finally:
        _initialized.reset(token)


def is_initialized():
    """Whether what is made here has values, not within `uninitialized()`."""
    return _initialized.get()


def without_memory(build):
    """What `build()` makes: a model whose variables have names and shapes, and no memory."""
    with keras.StatelessScope(initialize_variables=False):
        model = build()
    for variable in model.variables:
        # Keras remembers it, and would fill it at the end of any later scope, of anybody's.
        variable._deferred_initialize = lambda: None
    return model


def initializer(name):
    """The initializer `name`, or none to speak of within `uninitialized()`."""
    return name if is_initialized() else empty
