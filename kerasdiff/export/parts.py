"""Text encoder, network and decoder as files of their own; the loop is left to the caller.

LiteRT and Core ML (phones), ONNX and OpenVINO. The sampler goes along as a table of numbers, which
makes the caller's loop a weighted sum a row; see examples/litert.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kerasdiff.checkpoints.files import CheckpointError, whole_folder
from kerasdiff.diffusion_model import timestep_embedding
from kerasdiff.export.converters import check_converter, convert
from kerasdiff.export.writing import check_backend, save_module, write_tokenizers
from kerasdiff.options import check_size
from kerasdiff.samplers import COLUMNS, make_table


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
    check_converter(format, weights)
    with whole_folder(path) as beside:
        tables = _tables(models.config.schedule, sampler, schedule, max_steps)
        for part in make_parts(models, img_height, img_width):
            try:
                _save(part, beside / "scratch")
                convert(format, part, beside / "scratch", beside / part.name, weights)
            except (RuntimeError, tf.errors.OpError) as error:
                reason = getattr(error, "message", error)
                raise CheckpointError(f"{path}: {part.name} cannot be written: {reason}") from error
            shutil.rmtree(beside / "scratch")
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
    save_module(module, folder, {"run": function})
