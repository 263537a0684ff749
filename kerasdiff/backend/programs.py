"""Pure functions, compiled over a model's weights.

Weights are arguments of a compiled program, never constants in it: assign a variable and the next
call sees the new value, without a new trace. On OpenVINO alone, which cannot, with one.
"""

from contextlib import ExitStack

import keras

from kerasdiff.backend.compilers import resolve_jit_compile
from kerasdiff.backend.memory import giving_back_freed_memory
from kerasdiff.backend.product_forms import Forms, faster_forms, forms, with_forms
from kerasdiff.backend.shared_traces import sharing_traces


def programs_hold_weights():
    """Whether programs keep weights of their own beside the models': OpenVINO's do."""
    return keras.backend.backend() == "openvino"


class Program:
    """A function over tensors and a model's weights, compiled once for each set of shapes.

    Args:
        function: takes and returns nested structures of tensors and calls `model`; it must be pure.
        model: the `keras.Model` (or list of models) whose variables `function` reads.
        jit_compile: `True` compiles with XLA, `False` does not (TensorFlow: a graph; JAX: op by
            op), `"auto"` is what is faster on the device in the model's compute dtype: one of both,
            or, unless the program travels, a graph of which XLA compiles parts; OpenVINO has one
            way to compile.
        travels: whether other machines run it too: it is not fitted to this processor then.
        spares: whether memory counts for more than time, see `product_forms`.

    Attributes:
        traces: how many times `function` has been traced; a steady count means that nothing is
            compiled again.
    """

    def __init__(self, function, model, jit_compile="auto", travels=False, spares=False):
        models = model if isinstance(model, list) else [model]
        self.traces, self._compiling = 0, ExitStack()
        self._function, self._travels, self._spares = function, travels, spares
        self._variables = [variable for each in models for variable in each.variables]
        self.dtype = models[0].compute_dtype
        self.jit_compile = resolve_jit_compile(jit_compile, self.dtype)
        self._in_parts = jit_compile == "auto" and not self.jit_compile
        compile_program = _COMPILERS.get(keras.backend.backend(), lambda program: program.trace)
        self._compiled = compile_program(self)

    def __call__(self, *inputs):
        """Runs on nested structures of arrays or tensors; Python numbers become tensors."""
        with self._compiling:
            return self._compiled(*keras.tree.map_structure(keras.ops.convert_to_tensor, inputs))

    def trace(self, *inputs):
        self.traces += 1
        self._compiling.enter_context(giving_back_freed_memory())
        one_by_one = not self.jit_compile and keras.backend.backend() == "jax"
        if self._travels or one_by_one:  # JAX would compile a shared trace
            return self._function(*inputs)
        with with_forms(self._forms()), sharing_traces():
            return self._function(*inputs)

    def _forms(self):
        if self.jit_compile:
            return faster_forms(self._spares)
        return Forms(regional=True, spares=self._spares) if self._in_parts else forms()


def _compile_with_tensorflow(program):
    from kerasdiff.backend.tensorflow_programs import compile_function

    # Captured tf.Variables are resource handles: read anew at each call, never folded in.
    return compile_function(program.trace, program.jit_compile, in_parts=program._in_parts)


def _compile_with_jax(program):
    import jax

    variables = program._variables

    def pure(weights, *inputs):
        values = list(zip(variables, weights, strict=True))
        with keras.StatelessScope(values, initialize_variables=False):
            return program.trace(*inputs)

    compiled = jax.jit(pure) if program.jit_compile else pure
    # `value`, which looks for scopes first, takes SD 1.5's 686 more than a millisecond a call.
    return lambda *inputs: compiled([variable._value for variable in variables], *inputs)


def _compile_with_openvino(program):
    from kerasdiff.backend.openvino_programs import compile_program

    return compile_program(program)


_COMPILERS = {
    "tensorflow": _compile_with_tensorflow,
    "jax": _compile_with_jax,
    "openvino": _compile_with_openvino,
}
