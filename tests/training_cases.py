"""The smallest networks, pictures and settings that a training run can have."""

import json
import tomllib
from dataclasses import replace

import keras
import numpy as np
from drawn_checkpoint import write_checkpoint
from PIL import Image

from kerasdiff.checkpoints.checkpoint import open_checkpoint
from kerasdiff.configs import TINY
from kerasdiff.decoder import Decoder
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.image_encoder import ImageEncoder
from kerasdiff.text_encoder import TextEncoder
from kerasdiff.training.runs import run
from kerasdiff.training.runs.settings import make_settings

_TINY = TINY["sd1"]
CONFIG = replace(
    _TINY,
    text_encoders=(
        replace(_TINY.text_encoders[0], width=8, depth=1, heads=2, mlp_width=16, max_length=12),
    ),
    autoencoder=replace(
        _TINY.autoencoder, channels=(4, 8), norm_groups=4, mid_attention=False
    ),
    diffusion_model=replace(
        _TINY.diffusion_model, channels=(8,), layers_per_block=(1,), depth=(1,), up_depth=(1,),
        mid_depth=None, heads=(2,), context_dim=8, norm_groups=4,
    ),
    schedule=replace(_TINY.schedule, sampler="ddim"),
    image_size=(16, 16),
)  # fmt: skip

TOML = """
kind = "diffusion"
model = "{model}"
output = "{output}"
steps = 6
batch_size = 2
train = ["unet", "text_encoder"]

[data]
folder = "{pictures}"
size = 16

[optimizer]
rate = 0.01
warmup = 2
ema = 0.5

[checkpoints]
every = 2
"""


def write_model(folder):
    """A checkpoint of `CONFIG` in the layout of diffusers; returns its path."""
    write_checkpoint(folder, CONFIG)
    return folder


def write_pictures(folder, count=6, size=(16, 16)):
    """Pictures of noise, with captions; returns the folder."""
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (*size, 3), dtype="uint8")
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture {i}")
    return folder


def table(tmp_path, **changes):
    """The table of `TOML`, with a model and pictures in `tmp_path`, made if they are missing.

    `optimizer__rate=1.0` changes the key `rate` of the section.
    """
    model, pictures = tmp_path / "model", tmp_path / "pictures"
    if not model.exists():
        write_model(model)
    if not pictures.exists():
        write_pictures(pictures)
    text = TOML.format(model=model, pictures=pictures, output=tmp_path / "result")
    result = tomllib.loads(text)
    for key, value in changes.items():
        *sections, name = key.split("__")
        place = result
        for section in sections:
            place = place.setdefault(section, {})
        if value is None:
            del place[name]
        else:
            place[name] = value
    return result


def settings(tmp_path, **changes):
    """The `Settings` of `table`."""
    return make_settings(table(tmp_path, **changes))


def run_eagerly(monkeypatch):
    """Steps are not compiled: for runs of few steps that is quicker."""
    compile_trainer = keras.Model.compile
    monkeypatch.setattr(
        keras.Model, "compile",
        lambda self, **options: compile_trainer(
            self, **{**options, "jit_compile": False, "run_eagerly": True}
        ),
    )  # fmt: skip


def trained(given, **options):
    """Runs a training; returns the checkpoint that it leaves, None for an autoencoder's."""
    run.train(run.prepare(given), progress=False, **options)
    return open_checkpoint(given.output) if given.kind == "diffusion" else None


def tensors(part):
    """The tensors of a part of a checkpoint, by name."""
    return {name: np.array(part[name]) for name in part}


def networks(seed=0, **options):
    """UNet, text encoder, image encoder and decoder of `CONFIG`, drawn anew."""
    keras.utils.set_random_seed(seed)
    return (
        DiffusionModel(CONFIG.diffusion_model, **options),
        TextEncoder(CONFIG.text_encoders[0], **options),
        ImageEncoder(CONFIG.autoencoder, **options),
        Decoder(CONFIG.autoencoder, **options),
    )


def diffusion_batch(count=4, size=(8, 8), seed=0):
    """A batch for `DiffusionTrainer`, latents ready."""
    rng = np.random.default_rng(seed)
    shape = (count, *size, CONFIG.autoencoder.latent_channels)
    return {
        "latents": rng.standard_normal(shape, "float32"),
        "noise": rng.standard_normal(shape, "float32"),
        "timesteps": rng.integers(0, 1000, count).astype("int32"),
        "tokens": rng.integers(0, 100, (count, 12)).astype("int32"),
    }


def autoencoder_batch(count=2, side=8, seed=0):
    """A batch for `AutoencoderTrainer`."""
    rng = np.random.default_rng(seed)
    factor, channels = CONFIG.autoencoder.factor, CONFIG.autoencoder.latent_channels
    return {
        "pictures": rng.uniform(-1, 1, (count, side, side, 3)).astype("float32"),
        "noise": rng.standard_normal((count, side // factor, side // factor, channels), "float32"),
    }


def write_toml(path, content):
    """A table of tables as TOML."""
    lines, sections = [], {}
    for key, value in content.items():
        if isinstance(value, dict):
            sections[key] = value
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    for name, section in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())]
    path.write_text("\n".join(lines) + "\n")
    return path
