"""A network as an ONNX file, whose weights never enter the converter's graph.

As constants in it they take fifty times their size: CLIP's text encoder, 0.5 GB, ran out of 20 GB.
So they are inputs while tf2onnx converts, and become initializers afterwards.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def write_onnx(part, target):
    """Writes a `Part` with the weights in their own dtype.

    Args:
        target: the file to write, without its suffix.

    Raises:
        RuntimeError: the converter's own reason.
    """
    import onnx
    import tf2onnx

    names = {f"weight_{i}": variable for i, variable in enumerate(part.variables)}

    def run(*given):
        inputs, weights = given[: len(part.inputs)], given[len(part.inputs) :]
        values = list(zip(part.variables, weights, strict=True))
        with keras.StatelessScope(values, initialize_variables=False):
            return part.function(**dict(zip(part.inputs, inputs, strict=True)))

    specs = [tf.TensorSpec(s.shape, s.dtype, name) for name, s in part.inputs.items()]
    specs += [tf.TensorSpec(v.shape, v.dtype, name) for name, v in names.items()]
    model, _ = tf2onnx.convert.from_function(
        tf.function(run, autograph=False), specs, opset=18, custom_op_handlers={"Erfc": (_erfc, [])}
    )
    graph, kept = model.graph, []
    for given in graph.input:
        if given.name in names:
            array = np.asarray(names[given.name].value)
            graph.initializer.append(onnx.numpy_helper.from_array(array, given.name))
        else:
            kept.append(given)
    del graph.input[:]
    graph.input.extend(kept)
    onnx.save(model, Path(target).with_suffix(".onnx"))


def _erfc(graph, node, *_):
    """ONNX has erf alone: erfc = 1 - erf."""
    from tf2onnx.utils import map_onnx_to_numpy_type

    (given,), (output,) = node.input, node.output
    shape, dtype = graph.get_shape(output), graph.get_dtype(output)
    graph.remove_node(node.name)
    one = graph.make_const(f"{node.name}_one", np.ones((), map_onnx_to_numpy_type(dtype)))
    erf = graph.make_node("Erf", [given], shapes=[shape], dtypes=[dtype])
    return graph.make_node("Sub", [one.output[0], erf.output[0]], name=node.name,
                           outputs=[output], shapes=[shape], dtypes=[dtype])  # fmt: skip
