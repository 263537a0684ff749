"""Programs of Keras' OpenVINO backend, which compiles only a model's `predict` by itself."""

from threading import Lock

import keras
import openvino as ov
from keras.src.backend.openvino.core import OpenVINOKerasTensor
from openvino import opset16


def compile_program(program):
    """A `backend.Program`'s function as it is called, on processors.

    OpenVINO folds weights in: where a variable was assigned, the next call compiles anew. Threads
    take turns: a compiled model has one request, which fails while it is busy.
    """
    if program.dtype == "float16":  # its kernels come as whole numbers out of Keras' variables
        raise ValueError('on OpenVINO `dtype` must be "float32" or "bfloat16", not "float16"')
    made, turn = {}, Lock()

    def compile_anew(inputs, arrays):
        kinds = [ov.Type(array.dtype) for array in arrays]
        nodes = [
            opset16.parameter(array.shape, kind) for array, kind in zip(arrays, kinds, strict=True)
        ]
        given = [OpenVINOKerasTensor(node.output(0)) for node in nodes]
        outputs = program.trace(*keras.tree.pack_sequence_as(inputs, given))
        outputs = keras.tree.map_structure(_at_least_float32, outputs)
        results = [opset16.result(each.output) for each in keras.tree.flatten(outputs)]
        # Else processors with instructions for bfloat16 would compute in it, whatever is asked.
        precise = {"INFERENCE_PRECISION_HINT": "bf16" if program.dtype == "bfloat16" else "f32"}
        return ov.compile_model(ov.Model(results, nodes), "CPU", precise), outputs

    def run(*inputs):
        arrays = [keras.ops.convert_to_numpy(each) for each in keras.tree.flatten(inputs)]
        key = tuple((array.shape, array.dtype.name) for array in arrays)
        weights = [variable.value for variable in program._variables]
        with turn:
            old = made.get(key)
            if old is None or any(a is not b for a, b in zip(old[0], weights, strict=True)):
                made[key] = old = (weights, *compile_anew(inputs, arrays))
            _, compiled, structure = old
            return keras.tree.pack_sequence_as(structure, [*compiled(arrays).to_tuple()])

    return run


def _at_least_float32(tensor):
    """A tensor that NumPy can hold: it knows no bfloat16."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return keras.ops.cast(tensor, "float32") if dtype in ("bfloat16", "float16") else tensor
