"""What commands share: a quiet start of the framework, and how a size is written."""

import argparse
import os
import sys


def import_quietly():
    """Imports the framework without its start-up log, which helps nobody and hides errors."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # it is written past Python, to the file descriptor
    try:
        from kerasdiff.backend import device, keep_programs

        keep_programs()  # before anything else: it is too late once a device is known
        device()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def open_model(preset, **arguments):
    """`StableDiffusion.from_preset`, after a quiet start."""
    import_quietly()
    from kerasdiff.stable_diffusion import StableDiffusion

    return StableDiffusion.from_preset(preset, **arguments)


def picture_size(text):
    """ "512x768" to (height, width) = (768, 512), for argparse."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, such as 512x768, not {text!r}")
    return int(height), int(width)
