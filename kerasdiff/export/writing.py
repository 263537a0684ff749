"""Writes an exported sampler: the SavedModel, and what a stranger needs to call it."""

import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import kerasdiff
from kerasdiff.backend import resolve_jit_compile
from kerasdiff.checkpoints.files import CheckpointError
from kerasdiff.export import TASKS
from kerasdiff.export.failures import new_folder, reason
from kerasdiff.export.noise import FEWEST
from kerasdiff.export.readme import readme
from kerasdiff.export.saved_model import Sampler
from kerasdiff.export.signatures import describe, make_signatures
from kerasdiff.export.tables import make_tables
from kerasdiff.options import check_batch_size
from kerasdiff.samplers import as_read


def export_saved_model(
    models, path, *, tasks=None, img_height, img_width, batch_size=1, free_size=False,
    jit_compile="auto", sampler=None, schedule=None, eta=None, max_steps=100,
):  # fmt: skip
    """Writes a SavedModel; see `StableDiffusion.export`."""
    check_backend()
    check_max_steps(max_steps)
    tasks = _checked_tasks(models.config, tasks)
    if free_size and jit_compile is True:
        raise ValueError("XLA compiles a fixed size: `free_size` goes with `jit_compile=False`")
    size = (None, None) if free_size else (img_height, img_width)
    if free_size and models.token_merging:
        raise ValueError("tokens are merged in pictures of a known size: leave out `free_size`")
    if not free_size:
        _check_size(models, *size)
        check_batch_size(batch_size)
    jit_compile = not free_size and resolve_jit_compile(jit_compile, models.diffusion_model.dtype)
    with new_folder(path) as beside:
        late = set(tasks) != {"text_to_image"}
        tables = make_tables(models.config.schedule, sampler, schedule, eta, max_steps, late)
        count = None if free_size else batch_size
        module = Sampler(models, tables, size, count, jit_compile)
        signatures = make_signatures(module, tasks)
        try:
            save_module(module, beside, signatures)
        except Exception as error:  # TensorFlow's, protobuf's and the system's have no other base
            raise CheckpointError(f"{path}: cannot be written: {reason(error)}") from error
        noise = models.config.schedule
        noise = as_read(noise, sampler or noise.sampler, schedule)
        schedule = schedule or noise.sigma_spacing or noise.spacing
        facts = _facts(models, module, sampler)
        facts |= {"schedule": schedule, "eta": eta, "jit_compile": jit_compile}
        facts["tokens"] = write_tokenizers(models, beside)
        facts["signatures"] = describe(beside)
        (beside / "signature.json").write_text(json.dumps(facts, indent=2) + "\n")
        (beside / "README.txt").write_text(readme(models, facts))
    return Path(path)


def save_module(module, folder, signatures):
    """A `tf.Module` as a SavedModel, silently: TensorFlow would name a temporary folder."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        # Gradients of our own, SiLU's say, take long to trace and are for training.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, str(folder), signatures, options)
    finally:
        logger.setLevel(level)


def _checked_tasks(config, tasks):
    """The given tasks, or all that the network can do."""
    if tasks is None:
        return ("inpaint",) if config.paints else TASKS
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks or isinstance(tasks, str):
        raise ValueError(f"`tasks` must be some of {', '.join(TASKS)}, not {tasks!r}")
    if config.paints and set(tasks) != {"inpaint"}:
        raise ValueError(
            f'this checkpoint is for inpainting: `tasks` can be ["inpaint"], not {tasks!r}'
        )
    return tasks


def _check_size(models, height, width):
    models.check_size(height, width)
    autoencoder = models.config.autoencoder
    numbers = height * width // autoencoder.factor**2 * autoencoder.latent_channels
    if numbers < FEWEST:
        raise ValueError(
            f"latents of {width}x{height} pixels have {numbers} numbers, and noise of a seed "
            f"needs {FEWEST}: make the picture larger"
        )


def check_max_steps(max_steps):
    """Refuses anything but a whole number from 1 to 1000."""
    whole = isinstance(max_steps, (int, np.integer)) and not isinstance(max_steps, bool)
    if not whole or not 1 <= max_steps <= 1000:
        raise ValueError(f"`max_steps` must be a whole number from 1 to 1000, not {max_steps!r}")


def check_backend():
    """Refuses backends whose models TensorFlow cannot trace."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"TensorFlow exports this, and Keras runs on {keras.backend.backend()}")


def write_tokenizers(models, folder):
    """Writes each text encoder's tokenizer; gives what a packed row looks like, by input."""
    tokens = {}
    for suffix in models.config.text_suffixes:
        tokenizer = getattr(models, f"tokenizer{suffix}")
        tokenizer.save(folder / f"tokenizer{suffix}")
        tokens[f"tokens{suffix}"] = {
            "length": tokenizer.max_length,
            "start": tokenizer.start_of_text,
            "end": tokenizer.end_of_text,
            "pad": tokenizer.pad_token_id,
        }
    return tokens


def _facts(models, module, sampler):
    """What `signature.json` says besides schedule, signatures and tokens."""
    config = models.config
    possible = np.flatnonzero(module.tables.pure_noise)
    fewer = possible[possible <= config.num_steps]
    return {
        "kerasdiff": kerasdiff.__version__,
        "family": config.family,
        "sampler": sampler or config.schedule.sampler,
        "max_steps": int(possible[-1]),
        "num_steps": int(fewer[-1] if len(fewer) else possible[0]),
        "guidance_scale": config.guidance_scale,
        "dtype": " and ".join(sorted({weight.dtype.name for weight in module.weights})),
        "height": module.size[0],
        "width": module.size[1],
        "batch_size": module.batch_size,
    }
