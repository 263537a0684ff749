"""Text encoder, network and decoder as files of their own; the loop is left to the caller.

LiteRT (phones), ONNX and OpenVINO. The sampler goes along as a table of numbers, which makes the
caller's loop a weighted sum a row; see examples/litert.
"""

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kerasdiff.checkpoints.files import whole_folder
from kerasdiff.diffusion_model import timestep_embedding
from kerasdiff.export.writing import check_backend, write_tokenizers
from kerasdiff.options import check_size
from kerasdiff.samplers import COLUMNS, make_table

WEIGHTS = {"litert": ("float32", "float16", "int8"), "onnx": ("float32",)}
WEIGHTS["openvino"] = ("float32", "float16")
PACKAGES = {"litert": "tensorflow", "onnx": "tf2onnx", "openvino": "openvino"}


class Part(NamedTuple):
    """One file: a function of named tensors that gives a dict of them.

    Attributes:
        model: whose weights it holds.
        inputs: name to `tf.TensorSpec`.
    """

    name: str
    model: object
    function: Callable
    inputs: dict


def make_parts(models, height, width):
    """The parts of a `CompiledModels`, one picture of a size at a time."""
    config, network = models.config, models.config.diffusion_model
    factor, channels = config.autoencoder.factor, config.autoencoder.latent_channels
    latent = (1, height // factor, width // factor)
    names = ["text_encoder", "text_encoder_2"][: len(config.text_encoders)]
    for name, text in zip(names, config.text_encoders, strict=True):
        tokens = {"tokens": tf.TensorSpec((1, text.max_length), tf.int32)}
        yield Part(name, getattr(models, name), _encode(getattr(models, name)), tokens)
    inputs = {
        "latent": tf.TensorSpec((*latent, network.in_channels)),
        "timestep": tf.TensorSpec((1,)),
        "context": tf.TensorSpec((1, config.text_encoders[0].max_length, network.context_dim)),
    }
    if network.added_embed_dim:
        inputs["added_embedding"] = tf.TensorSpec((1, network.added_embed_dim))
    if network.time_cond_dim:
        inputs["guidance_embedding"] = tf.TensorSpec((1, network.time_cond_dim))
    yield Part("diffusion_model", models.diffusion_model, _predict(models.diffusion_model), inputs)
    latents = {"latents": tf.TensorSpec((*latent, channels))}
    yield Part("decoder", models.decoder, _decode(models.decoder), latents)


def _encode(model):
    def encode(tokens):
        positions = np.arange(tokens.shape[1], dtype="int32")[None]
        output = model({"tokens": tokens, "positions": positions})
        output = output if isinstance(output, dict) else {"context": output}
        return {name: tf.cast(value, "float32") for name, value in output.items()}

    return encode


def _predict(model):
    config = model.config

    def predict(timestep, **inputs):
        rule = config.channels[0], config.flip_sin_to_cos, config.freq_shift
        inputs["timestep_embedding"] = timestep_embedding(timestep, *rule)
        return {"prediction": tf.cast(model(inputs, training=False), "float32")}

    return predict


def _decode(model):
    def decode(latents):
        unit = tf.clip_by_value(tf.cast(model(latents), "float32") * 0.5 + 0.5, 0.0, 1.0)
        return {"images": tf.round(unit * 255.0)}  # whole numbers; uint8 is not for every runtime

    return decode


def export_parts(
    models, path, format, *, img_height, img_width, weights="float32", sampler=None,
    schedule=None, max_steps=50,
):  # fmt: skip
    """Writes a folder of parts; see `StableDiffusion.export`."""
    check_backend()
    check_size(img_height, img_width, models.config.autoencoder.factor)
    if weights not in WEIGHTS[format]:
        raise ValueError(
            f"`weights` of {format} must be one of {', '.join(WEIGHTS[format])}, not {weights!r}"
        )
    try:
        import_module(PACKAGES[format])
    except ImportError as error:
        raise ValueError(
            f"{format} needs the package {PACKAGES[format]}: pip install 'kerasdiff[{format}]'"
        ) from error
    with whole_folder(path) as beside:
        tables = _tables(models.config.schedule, sampler, schedule, max_steps)
        for part in make_parts(models, img_height, img_width):
            scratch = beside / "scratch"
            _save(part, scratch)
            _WRITERS[format](part, scratch, beside / part.name, weights)
            shutil.rmtree(scratch)
        facts = {"columns": COLUMNS, "tokens": write_tokenizers(models, beside), "steps": tables}
        factor = models.config.autoencoder.factor
        channels = models.config.autoencoder.latent_channels
        facts["latents"] = channels, img_height // factor, img_width // factor
        (beside / "sampler.json").write_text(json.dumps(facts))
    return Path(path)


def _tables(config, sampler, schedule, max_steps):
    """A table from noise for each number of steps."""
    tables = {}
    for steps in range(1, max_steps + 1):
        table = make_table(config, steps, sampler=sampler, schedule=schedule)
        tables[steps] = {
            "initial_noise": table.initial_noise,
            "final_scale": table.final_scale,
            "noise_slots": table.noise_slots,
            "rows": table.rows.tolist(),
        }
    return tables


def _save(part, folder):
    """A part as a SavedModel, whence every runtime converts."""
    module = tf.Module()
    module.weights = [variable.value for variable in part.model.variables]
    inputs = {name: tf.TensorSpec(s.shape, s.dtype, name) for name, s in part.inputs.items()}
    function = tf.function(part.function, autograph=False).get_concrete_function(**inputs)
    tf.saved_model.save(module, str(folder), {"run": function})


def _write_litert(part, saved, target, weights):
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved), signature_keys=["run"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    target.with_suffix(".tflite").write_bytes(converter.convert())


def _write_onnx(part, saved, target, weights):
    import tf2onnx

    def run(*given):
        return part.function(**dict(zip(part.inputs, given, strict=True)))

    specs = [tf.TensorSpec(s.shape, s.dtype, name) for name, s in part.inputs.items()]
    tf2onnx.convert.from_function(
        tf.function(run), specs, opset=18, custom_op_handlers={"Erfc": (_erfc, [])},
        output_path=str(target.with_suffix(".onnx")),
    )  # fmt: skip


def _erfc(graph, node, *_):
    """ONNX has erf alone: erfc = 1 - erf."""
    (given,), (output,) = node.input, node.output
    shape, dtype = graph.get_shape(output), graph.get_dtype(output)
    graph.remove_node(node.name)
    one = graph.make_const(f"{node.name}_one", np.float32(1.0))
    erf = graph.make_node("Erf", [given], shapes=[shape], dtypes=[dtype])
    return graph.make_node("Sub", [one.output[0], erf.output[0]], name=node.name,
                           outputs=[output], shapes=[shape], dtypes=[dtype])  # fmt: skip


def _write_openvino(part, saved, target, weights):
    import openvino

    model = openvino.convert_model(str(saved))
    openvino.save_model(model, target.with_suffix(".xml"), compress_to_fp16=weights == "float16")


_WRITERS = {"litert": _write_litert, "onnx": _write_onnx, "openvino": _write_openvino}
