"""A tiny checkpoint, its orchestrator, and options that make a picture quickly."""

from drawn_checkpoint import write_checkpoint

from kerasdiff import StableDiffusion
from kerasdiff.configs import TINY

FEW = {"num_steps": 3, "sampler": "ddim", "seed": 1}


def tiny_checkpoint(tmp_path_factory):
    """A drawn checkpoint's folder, in the layout of diffusers."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_checkpoint(path, TINY["sd1"])
    return path


def tiny_model(folder):
    """The orchestrator of `tiny_checkpoint`, not compiled."""
    return StableDiffusion.from_preset(folder, jit_compile=False)
