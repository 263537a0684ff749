"""What a program does often, traced once and called with each layer's own weights.

SDXL's UNet holds 70 transformer blocks of two sizes.
"""

from contextlib import contextmanager
from contextvars import ContextVar

import keras

from kerasdiff.backend.product_forms import faster_forms, forms, with_forms

_TRACES = ContextVar("traces", default=None)
_OF_LAYERS = ContextVar("of_layers", default=True)


class Described:
    """A layer of which its fields, its dtype and the layers in it tell all but weights.

    Attributes:
        FIELDS: names of the constructor's arguments, which are also attributes.
    """

    FIELDS = ()

    def fields(self):
        """The settings, by their names."""
        return {name: getattr(self, name) for name in self.FIELDS}

    def get_config(self):
        return {**super().get_config(), **self.fields()}


@contextmanager
def sharing_traces(of_layers=True):
    """What `call_once` and `call_part` call within this context shares its traces.

    Args:
        of_layers: whether what `call_shared` calls does, too.
    """
    before = _TRACES.set({} if keras.backend.backend() in _ONCE else None)
    before_of_layers = _OF_LAYERS.set(of_layers)
    try:
        yield
    finally:
        _TRACES.reset(before)
        _OF_LAYERS.reset(before_of_layers)


def call_shared(layer, call, *tensors, suits_xla=True, **settings):
    """`call(*tensors, **settings)`, traced once for all layers like this one.

    Args:
        layer: whose weights `call` reads, and no other's.
        call: a pure function, the same for layers that are alike.
        *tensors: or None.
        suits_xla: whether XLA compiles it by itself, where forms are `regional`.
        **settings: of the trace; where there is a tensor among them, it is not shared.
    """
    shares = _TRACES.get() is not None and _OF_LAYERS.get()
    if not shares or any(keras.ops.is_tensor(value) for value in settings.values()):
        return call(*tensors, **settings)
    variables = layer.variables
    by_xla = suits_xla and forms().regional

    def traced(weights, *tensors):
        allowed = faster_forms(forms().spares) if by_xla else forms()
        values = list(zip(variables, weights, strict=True))
        with with_forms(allowed), keras.StatelessScope(values, initialize_variables=False):
            return call(*tensors, **settings)

    trace = _trace((_kind(layer), by_xla, repr(settings)), traced, by_xla)
    return trace(_values(variables), *tensors)


def call_once(function, *arrays):
    """`function(*arrays)`, traced once for arrays of these shapes and dtypes.

    Args:
        function: a pure one, of a module.
        *arrays: tensors or variables.
    """
    arrays = _values(arrays)
    if _TRACES.get() is None:
        return function(*arrays)
    # Not the function itself, whose traces JAX would keep for as long as its module.
    return _trace(function, lambda *arrays: function(*arrays))(*arrays)


def call_part(function, given):
    """`function(given)`, which XLA compiles by itself where forms are `regional`.

    Args:
        function: a pure one, with what tells it from others' as arguments that are given already:
            a `functools.partial`.
        given: a dict of tensors; where a size is unknown, all stays one program.
    """
    is_known = all(None not in array.shape for array in given.values())
    if _TRACES.get() is None or not forms().regional or not is_known:
        return function(given)

    def traced(given):
        with with_forms(faster_forms(forms().spares)):
            return function(given)

    return _trace((function.func, *function.args), traced, by_xla=True)(given)


def _values(arrays):
    """Tensors: to TensorFlow, a mirrored variable is the same argument as any other of its shape.

    `convert_to_tensor` leaves TensorFlow's variables as they are.
    """
    return [keras.ops.cast(array, array.dtype) for array in arrays]


def _trace(kind, function, by_xla=False):
    """What the first `function` of this kind has become, to be traced at its first call."""
    traces = _TRACES.get()
    if kind not in traces:
        traces[kind] = _ONCE[keras.backend.backend()](function, by_xla)
    return traces[kind]


def _kind(layer):
    """What tells a layer from others, within it too, but for names and the values of weights.

    Its own `call` counts, where somebody hooked in.
    """
    settings = (
        repr((type(each), vars(each).get("call"), _settings(each)))
        for each in layer._flatten_layers()
    )
    return (*settings, *((tuple(each.shape), each.dtype) for each in layer.variables))


def _settings(layer):
    """A layer's config without its name; by Keras only where no fields tell all of it.

    What serializes for Keras asks of each object whether it is TensorFlow's, and imports all of
    TensorFlow for that, on JAX too: 2 s.
    """
    if type(layer).get_config is not Described.get_config:
        return {**layer.get_config(), "name": None}
    policy, regularizer = layer.dtype_policy.get_config(), layer.activity_regularizer
    return layer.fields(), policy, layer.trainable, regularizer


def _once_by_tensorflow(function, by_xla):
    import tensorflow as tf

    return tf.function(function, autograph=False, jit_compile=True if by_xla else None)


def _once_by_jax(function, _):
    import jax

    return jax.jit(function)


_ONCE = {"tensorflow": _once_by_tensorflow, "jax": _once_by_jax}
