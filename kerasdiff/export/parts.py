"""Text encoder, network and decoder as files of their own; the loop is left to the caller.

LiteRT and Core ML (phones), ONNX and OpenVINO. The sampler goes along as a table of numbers, which
makes the caller's loop a weighted sum a row; see examples/litert.
"""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kerasdiff.attention import without_loops
from kerasdiff.checkpoints.files import CheckpointError
from kerasdiff.export.converters import check_converter, convert, convert_apart
from kerasdiff.export.failures import new_folder, reason
from kerasdiff.export.onnx_file import write_onnx
from kerasdiff.export.pieces import cut
from kerasdiff.export.saved_model import text_lengths
from kerasdiff.export.tables import from_noise
from kerasdiff.export.writing import (
    check_backend,
    check_max_steps,
    save_module,
    write_tokenizers,
)
from kerasdiff.samplers import COLUMNS

# of one file: LiteRT and ONNX files end at 2 GB, and converters take some seven times a file
MOST_WEIGHTS = 250_000_000
MOST_BYTES = 2**31 - 1  # of one file of LiteRT or ONNX; text encoders and decoders are not cut
LARGE = 50_000_000  # weights; parts with more are converted in processes of their own


class Part(NamedTuple):
    """One file: a function of named tensors that gives a dict of them.

    Attributes:
        inputs: name to `tf.TensorSpec`.
        variables: that the function reads.
    """

    name: str
    function: Callable
    inputs: dict
    variables: list


def make_parts(models, height, width):
    """The parts of a `CompiledModels`, one picture of a size at a time."""
    config, network = models.config, models.config.diffusion_model
    factor, channels = config.autoencoder.factor, config.autoencoder.latent_channels
    latent = (1, height // factor, width // factor)
    lengths = text_lengths(models)
    for suffix, length in zip(config.text_suffixes, lengths, strict=True):
        name, tokens = f"text_encoder{suffix}", {"tokens": tf.TensorSpec((1, length), tf.int32)}
        model = getattr(models, name)
        yield Part(name, _encode(model), tokens, model.variables)
    inputs = {
        "latent": tf.TensorSpec((*latent, network.in_channels)),
        "timestep": tf.TensorSpec((1,)),
        "context": tf.TensorSpec((1, lengths[0], network.context_dim)),
    }
    if network.added_embed_dim:
        inputs["added_embedding"] = tf.TensorSpec((1, network.added_embed_dim))
    if network.time_cond_dim:
        inputs["guidance_embedding"] = tf.TensorSpec((1, network.time_cond_dim))
    yield from _network(models.diffusion_model, inputs)
    latents = {"latents": tf.TensorSpec((*latent, channels))}
    yield Part("decoder", _decode(models.decoder), latents, models.decoder.variables)


def _network(model, inputs):
    """The UNet as one part, or as several where its weights are many."""
    pieces = cut(model, -(-model.count_params() // MOST_WEIGHTS))
    tensors = dict(inputs)
    for i, piece in enumerate(pieces):
        name = f"diffusion_model_{i}" if len(pieces) > 1 else "diffusion_model"
        given = {key: tensors[key] for key in piece.inputs}
        yield Part(name, piece.run, given, piece.variables)
        if len(pieces) > 1:
            traced = tf.function(piece.run, autograph=False).get_concrete_function(**given)
            tensors |= {key: tf.TensorSpec(t.shape) for key, t in traced.structured_outputs.items()}


def _encode(model):
    def encode(tokens):
        positions = np.arange(tokens.shape[1], dtype="int32")[None]
        output = model({"tokens": tokens, "positions": positions})
        output = output if isinstance(output, dict) else {"context": output}
        return {name: tf.cast(value, "float32") for name, value in output.items()}

    return encode


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
    models.check_size(img_height, img_width)
    check_max_steps(max_steps)
    check_converter(format, weights, models.diffusion_model.compute_dtype)
    config = models.config
    tables = from_noise(config.schedule, max_steps, sampler=sampler, schedule=schedule)
    steps, network = {count: _described(table) for count, table in tables.items()}, {}
    with new_folder(path) as beside, without_loops():
        for part in make_parts(models, img_height, img_width):
            try:
                _write(part, format, beside, weights)
            except Exception as error:  # converters' errors have no other base in common
                text = f"{path}: {part.name} cannot be written: {reason(error)}"
                raise CheckpointError(text) from error
            if part.name.startswith("diffusion_model"):
                network[part.name] = list(part.inputs)
        facts = {"columns": COLUMNS, "tokens": write_tokenizers(models, beside), "steps": steps}
        facts |= {"network": network, "in_channels": config.diffusion_model.in_channels}
        factor, channels = config.autoencoder.factor, config.autoencoder.latent_channels
        facts["latents"] = channels, img_height // factor, img_width // factor
        (beside / "sampler.json").write_text(json.dumps(facts))
    return Path(path)


def _write(part, format, folder, weights):
    size = sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in part.variables)
    if format in ("litert", "onnx") and weights == "float32" and size > MOST_BYTES:
        raise ValueError(
            f"it has {size / 1e9:.1f} GB, and files of {format} end at {MOST_BYTES / 1e9:.1f} GB; "
            'litert with `weights="float16"`, or openvino, can hold it'
        )
    if format == "onnx":
        write_onnx(part, folder / part.name)
        return
    _save(part, folder / "scratch")
    large = sum(math.prod(v.shape) for v in part.variables) > LARGE
    run = convert_apart if large else convert
    run(format, folder / "scratch", folder / part.name, weights)
    shutil.rmtree(folder / "scratch")


def _described(table):
    """What `sampler.json` says of a table."""
    return {
        "initial_noise": table.initial_noise,
        "noise_slots": table.noise_slots,
        "rows": table.rows.tolist(),
    }


def _save(part, folder):
    """A part as a SavedModel, whence most runtimes convert."""
    module = tf.Module()
    module.weights = [variable.value for variable in part.variables]
    inputs = {name: tf.TensorSpec(s.shape, s.dtype, name) for name, s in part.inputs.items()}
    function = tf.function(part.function, autograph=False).get_concrete_function(**inputs)
    save_module(module, folder, {"run": function})
