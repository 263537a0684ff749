"""What commands share: a quiet start of the framework, and how a size is written."""

import argparse
import gc
import os
import sys

from kerasdiff.configs import PREDICTION_TYPES


def import_quietly(finds_device=True, **options):
    """Imports the framework without its start-up log, which helps nobody and hides errors.

    In a process that has not imported Keras before, Python looks for no garbage in what there is.

    Args:
        finds_device: False where processes will be joined: they must not know their devices before.
        **options: of `backend.prepare_compiler`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # it is written past Python, to the file descriptor
    is_first, collects = "keras" not in sys.modules, gc.isenabled()
    gc.disable()  # what is imported stays: looking for garbage in it took an eighth of the time
    try:
        from kerasdiff.backend import device, prepare_compiler

        prepare_compiler(**options)  # before anything else: it is too late once a device is known
        if finds_device:
            device()
        if is_first:  # nor is it looked through later: a quarter of the time of a demo picture
            gc.freeze()
    except ModuleNotFoundError as error:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        raise ValueError(
            f"KERAS_BACKEND={backend} needs a package: pip install {error.name}"
        ) from None
    finally:
        if collects:
            gc.enable()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


FILES = ("vae", "variant", "prediction_type")


def add_files_of(add):
    """Adds the options that say which files of a checkpoint are meant."""
    add.add_argument("--vae", metavar="MODEL", help="another autoencoder: preset, file or folder")
    add.add_argument("--variant", help="of a folder's weight files, such as fp16")
    add.add_argument(
        "--prediction-type", choices=PREDICTION_TYPES, help="of files that do not show theirs"
    )


def files_of(options):
    """Those that were given, as `from_preset` takes them."""
    given = {name: getattr(options, name) for name in FILES}
    return {name: value for name, value in given.items() if value is not None}


def add_model(add):
    """Adds the options that say which model is meant."""
    add.add_argument("--model", default="demo", help="preset, file or folder (%(default)s)")
    add.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    add_files_of(add)


def open_model(options, **arguments):
    """`StableDiffusion.from_preset` of the options of `add_model`, after a quiet start."""
    given = {name: arguments[name] for name in ("memory", "jit_compile") if name in arguments}
    import_quietly(dtype=options.dtype, **given)
    from kerasdiff.stable_diffusion import StableDiffusion

    arguments |= files_of(options)
    return StableDiffusion.from_preset(options.model, dtype=options.dtype, **arguments)


def picture_size(text):
    """ "512x768" to (height, width) = (768, 512), for argparse."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, such as 512x768, not {text!r}")
    return int(height), int(width)
