"""One network as a file of another runtime, from a SavedModel: LiteRT, OpenVINO or Core ML."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import tensorflow as tf

WEIGHTS = {
    "litert": ("float32", "float16", "int8"),
    "onnx": ("float32",),
    "openvino": ("float32", "float16"),
    "coreml": ("float32", "float16"),
}
PACKAGES = {
    "litert": "tensorflow",
    "onnx": "tf2onnx",
    "openvino": "openvino",
    "coreml": "coremltools",
}


HALVES = {
    "litert": ("bfloat16", "float16"),
    "onnx": ("bfloat16",),
    "openvino": ("bfloat16",),
    "coreml": ("bfloat16",),
}
"""Models in these dtypes are beyond a format's converter."""


def check_converter(format, weights, dtype):
    """Refuses weights that a format has not, a model's dtype, and a package not installed."""
    if weights not in WEIGHTS[format]:
        known = ", ".join(WEIGHTS[format])
        is_half = (format, weights) == ("onnx", "float16")
        advice = ": a model that is opened in float16 gives such weights" if is_half else ""
        raise ValueError(f"`weights` of {format} must be one of {known}, not {weights!r}{advice}")
    if dtype in HALVES.get(format, ()):
        halves = '; `weights="float16"` halves the files' if "float16" in WEIGHTS[format] else ""
        raise ValueError(
            f"{format} cannot be written from a model in {dtype}: open it in float32{halves}"
        )
    try:
        import_module(PACKAGES[format])
    except ImportError as error:
        raise ValueError(
            f"{format} needs the package {PACKAGES[format]}: pip install 'kerasdiff[{format}]'"
        ) from error


def convert(format, saved, target, weights):
    """Writes a network in another format than ONNX.

    Args:
        saved: the network as a SavedModel, with the signature "run".
        target: the file to write, without its suffix.
        weights: one of `WEIGHTS[format]`.

    Raises:
        RuntimeError: the converter's own reason.
    """
    _CONVERTERS[format](saved, target, weights)


def convert_apart(*arguments):
    """`convert` in a process of its own: what converters keep goes with it, gigabytes a part.

    Raises:
        RuntimeError: the converter's own reason, or that it was killed.
    """
    code = f"import sys; from {__name__} import convert; convert(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode < 0:
        raise RuntimeError(f"killed by signal {-done.returncode}: was memory short?")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the converter ended with {done.returncode}"]
        raise RuntimeError(lines[-1])


def _litert(saved, target, weights):
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved), signature_keys=["run"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    Path(target).with_suffix(".tflite").write_bytes(converter.convert())


def _openvino(saved, target, weights):
    import openvino

    model = openvino.convert_model(str(saved))
    openvino.save_model(
        model, Path(target).with_suffix(".xml"), compress_to_fp16=weights == "float16"
    )


def _coreml(saved, target, weights):
    import coremltools as ct
    from coremltools.converters.mil import Builder, register_tf_op

    @register_tf_op(tf_alias=["Erfc"], override=True)
    def erfc(context, node):  # Core ML too has erf alone
        erf = Builder.erf(x=context[node.inputs[0]])
        context.add(node.name, Builder.sub(x=np.float32(1.0), y=erf, name=node.name))

    module = tf.saved_model.load(str(saved))  # held: its function's variables die with it
    function = module.signatures["run"]
    half = ct.transform.FP16ComputePrecision(lambda operation: not _needs_range(operation))
    model = ct.convert(
        [function], source="tensorflow", convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=half if weights == "float16" else ct.precision.FLOAT32,
        inputs=[
            ct.TensorType(name, tuple(s.shape), dtype=s.dtype.as_numpy_dtype)
            for name, s in function.structured_input_signature[1].items()
        ],
    )  # fmt: skip
    spec = model.get_spec()
    for name, tensor in zip(sorted(function.structured_outputs), function.outputs, strict=True):
        ct.utils.rename_feature(spec, tensor.op.name, name)
    ct.models.MLModel(spec, weights_dir=model.weights_dir).save(
        str(Path(target).with_suffix(".mlpackage"))
    )


def _needs_range(operation):
    """Whether half precision is too coarse: a timestep's angles, statistics of norms, softmax."""
    children = [child for output in operation.outputs for child in output.child_ops]
    kinds = {each.op_type for each in (operation, *children)} & {"sin", "cos"}
    return bool(kinds) or operation.op_type in {"square", "reduce_mean", "pow", "softmax"}


_CONVERTERS = {"litert": _litert, "openvino": _openvino, "coreml": _coreml}
