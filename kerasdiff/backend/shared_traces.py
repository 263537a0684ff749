"""Layers of one kind and size, traced once for a program and called with their own weights.

SDXL's UNet holds 70 transformer blocks of two sizes.
"""

from contextlib import contextmanager
from contextvars import ContextVar

import keras

_TRACES = ContextVar("traces", default=None)


@contextmanager
def sharing_traces():
    """Layers that `call_shared` calls within this context share their traces."""
    before = _TRACES.set({} if keras.backend.backend() in _ONCE else None)
    try:
        yield
    finally:
        _TRACES.reset(before)


def call_shared(layer, call, *tensors, **settings):
    """`call(*tensors, **settings)`, traced once for all layers like this one.

    Args:
        layer: whose weights `call` reads, and no other's.
        call: a pure function, the same for layers that are alike.
        *tensors: or None.
        **settings: of the trace; where there is a tensor among them, it is not shared.
    """
    traces = _TRACES.get()
    if traces is None or any(keras.ops.is_tensor(value) for value in settings.values()):
        return call(*tensors, **settings)
    variables = layer.variables
    kind = (_kind(layer), repr(settings))
    if kind not in traces:

        def traced(weights, *tensors):
            values = list(zip(variables, weights, strict=True))
            with keras.StatelessScope(values, initialize_variables=False):
                return call(*tensors, **settings)

        traces[kind] = _ONCE[keras.backend.backend()](traced)
    return traces[kind]([variable.value for variable in variables], *tensors)


def call_once(function, *arrays):
    """`function(*arrays)`, traced once for arrays of these shapes.

    Args:
        function: a pure one, of a module: of what it is called with and nothing else.
        *arrays: tensors or variables.
    """
    traces = _TRACES.get()
    arrays = [array.value if isinstance(array, keras.Variable) else array for array in arrays]
    if traces is None:
        return function(*arrays)
    if function not in traces:
        # JAX knows a function again, for good: in every program it shall be another.
        traces[function] = _ONCE[keras.backend.backend()](lambda *arrays: function(*arrays))
    return traces[function](*arrays)


def _kind(layer):
    """What tells a layer from others, within it too, but for names and the values of weights."""
    configs = ((type(each), each.get_config()) for each in layer._flatten_layers())
    settings = (repr((each, {**config, "name": None})) for each, config in configs)
    return (*settings, *((tuple(each.shape), each.dtype) for each in layer.variables))


def _once_by_tensorflow(function):
    import tensorflow as tf

    return tf.function(function, autograph=False)


def _once_by_jax(function):
    import jax

    return jax.jit(function)


_ONCE = {"tensorflow": _once_by_tensorflow, "jax": _once_by_jax}
