"""Writes an exported sampler: the SavedModel, and what a stranger needs to call it."""

import json
from pathlib import Path

import keras
import tensorflow as tf

import kerasdiff
from kerasdiff.backend import resolve_jit_compile
from kerasdiff.checkpoints.files import CheckpointError, whole_folder
from kerasdiff.export import TASKS
from kerasdiff.export.saved_model import Sampler
from kerasdiff.export.signatures import describe, make_signatures
from kerasdiff.export.tables import make_tables
from kerasdiff.options import check_batch_size, check_size

README = """\
A Stable Diffusion sampler as a TensorFlow SavedModel, written by kerasdiff {version}.
It needs TensorFlow alone: Python, C++, Java, Go or TensorFlow Serving.

    import tensorflow as tf
    sampler = tf.saved_model.load(".")
    images = sampler.signatures["text_to_image"](
        tokens=tokens, negative_tokens=empty, seed=tf.constant(1, tf.int64),
        num_steps=tf.constant({steps}), guidance_scale=tf.constant({scale}),
    )["images"]                                   # uint8 (B, height, width, 3)

Inputs and outputs of every signature, by name, are in signature.json.

tokens   int32, {length} to a prompt: {start}, the prompt's ids, {end}, then {pad} to the end.
         The ids are CLIP's: tokenizer/ holds vocabulary and merges, for any CLIP tokenizer.
         negative_tokens are those of what to steer away from; without such a wish, of "".
seed     int64; picture i of a batch is what seed + i gives alone. The noise is that of PyTorch's
         CPU generator, so a seed gives the picture that kerasdiff and diffusers give.
num_steps, guidance_scale   up to {most} steps of {sampler}; a scale of 1 is no guidance.
image    uint8 (1 or B, height, width, 3).
mask     uint8 (1, height, width, 1): below 128 the picture stays, from 128 it is painted anew.
strength above 0, at most 1: how much of the picture is made anew; counts to six decimals.
{more}
Pictures are {size}. Weights are {dtype}, once, in variables/.
"""
SECOND = """\
tokens_2 the same ids, padded with {pad} ({folder}/).
"""
ZEROS = """\
Without a negative prompt begin every row of negative_tokens with -1.
"""


def export_saved_model(
    models, path, *, tasks=TASKS, img_height, img_width, batch_size=1, free_size=False,
    jit_compile="auto", sampler=None, schedule=None, eta=None, max_steps=100,
):  # fmt: skip
    """Writes a SavedModel; see `StableDiffusion.export`."""
    check_backend()
    _check(tasks, free_size, jit_compile, max_steps)
    size = (None, None) if free_size else (img_height, img_width)
    if not free_size:
        check_size(*size, models.config.autoencoder.factor)
        check_batch_size(batch_size)
    jit_compile = not free_size and resolve_jit_compile(jit_compile, models.diffusion_model.dtype)
    with whole_folder(path) as beside:
        tables = make_tables(models.config.schedule, sampler, schedule, eta, max_steps)
        count = None if free_size else batch_size
        module = Sampler(models, tables, size, count, jit_compile)
        signatures = make_signatures(module, tasks)
        try:
            save_module(module, beside, signatures)
        except tf.errors.OpError as error:
            raise CheckpointError(f"{path}: cannot be written: {error.message}") from error
        facts = _facts(models, module, sampler, max_steps)
        facts["tokens"] = write_tokenizers(models, beside)
        table = json.dumps(facts | {"signatures": describe(beside)}, indent=2)
        (beside / "signature.json").write_text(table + "\n")
        (beside / "README.txt").write_text(_readme(models, facts))
    return Path(path)


def save_module(module, folder, signatures):
    """A `tf.Module` as a SavedModel, silently: TensorFlow would name a temporary folder."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        tf.saved_model.save(module, str(folder), signatures)
    finally:
        logger.setLevel(level)


def _check(tasks, free_size, jit_compile, max_steps):
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks or isinstance(tasks, str):
        raise ValueError(f"`tasks` must be some of {', '.join(TASKS)}, not {tasks!r}")
    if free_size and jit_compile is True:
        raise ValueError("XLA compiles a fixed size: `free_size` goes with `jit_compile=False`")
    if not isinstance(max_steps, int) or not 1 <= max_steps <= 1000:
        raise ValueError(f"`max_steps` must be a whole number from 1 to 1000, not {max_steps!r}")


def check_backend():
    """Refuses backends whose models TensorFlow cannot trace."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"TensorFlow exports this, and Keras runs on {keras.backend.backend()}")


def write_tokenizers(models, folder):
    """Writes each text encoder's tokenizer; gives what a packed row looks like, by input."""
    tokens = {}
    for text, suffix in zip(models.config.text_encoders, ("", "_2"), strict=False):
        tokenizer = getattr(models, f"tokenizer{suffix}")
        tokenizer.save(folder / f"tokenizer{suffix}")
        tokens[f"tokens{suffix}"] = {
            "length": text.max_length,
            "start": tokenizer.start_of_text,
            "end": tokenizer.end_of_text,
            "pad": tokenizer.pad_token_id,
        }
    return tokens


def _facts(models, module, sampler, max_steps):
    """What `signature.json` says besides the signatures and tokens."""
    return {
        "kerasdiff": kerasdiff.__version__,
        "family": models.config.family,
        "sampler": sampler or models.config.schedule.sampler,
        "max_steps": max_steps,
        "num_steps": models.config.num_steps,
        "guidance_scale": models.config.guidance_scale,
        "dtype": models.diffusion_model.dtype,
        "height": module.size[0],
        "width": module.size[1],
    }


def _readme(models, facts):
    first, *others = facts["tokens"].values()
    more = "".join(SECOND.format(pad=other["pad"], folder="tokenizer_2") for other in others)
    more += ZEROS if models.config.zero_empty_negative else ""
    size = f"{facts['width']} x {facts['height']} pixels"
    if facts["height"] is None:
        size = f"of any size that is a multiple of {models.config.autoencoder.factor} pixels"
    return README.format(
        version=facts["kerasdiff"], steps=facts["num_steps"], scale=facts["guidance_scale"],
        most=facts["max_steps"], sampler=facts["sampler"], dtype=facts["dtype"], size=size,
        more=more, **first,
    )  # fmt: skip
