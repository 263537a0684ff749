"""The networks of a run: opened or drawn anew, and which of their variables train."""

import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import keras

from kerasdiff.block_plan import autoencoder_plan, diffusion_model_plan
from kerasdiff.checkpoints.checkpoint import Checkpoint, find_and_open, with_vae
from kerasdiff.checkpoints.models import Models
from kerasdiff.checkpoints.names import PART_OF, parts_of
from kerasdiff.checkpoints.presets import find
from kerasdiff.configs import FAMILIES
from kerasdiff.layers import tensor_name, without_memory

TRAINED = {
    "diffusion": ("diffusion_model", "text_encoder"),
    "autoencoder": ("image_encoder", "decoder"),
}
"""The networks that a run of each kind can train."""


def open_model(settings):
    """The `Checkpoint` that a run starts from; an architecture has no parts.

    Raises:
        ValueError: if it cannot be opened, or not be trained in this way.
    """
    if settings.from_nothing:
        checkpoint = Checkpoint(Path(settings.model), FAMILIES[settings.model], {})
        if settings.vae:
            checkpoint = with_vae(checkpoint, find(settings.vae), settings.variant)
    else:
        given = {name: getattr(settings, name) for name in ("vae", "variant", "prediction_type")}
        checkpoint = find_and_open(settings.model, **given)
        checkpoint.check_there(*PART_OF)  # the result has to be whole
    config, data = checkpoint.config, settings.data
    for key in ("size", *(["bucket_multiple"] if data.buckets else [])):
        if getattr(data, key) % config.autoencoder.factor:
            raise ValueError(
                f"`data.{key}` must be a multiple of {config.autoencoder.factor} for "
                f"{settings.model}, not {getattr(data, key)}"
            )
    if settings.kind == "diffusion":
        _check_diffusion(settings, checkpoint)
    return checkpoint


def _check_diffusion(settings, checkpoint):
    network = checkpoint.config.diffusion_model
    if checkpoint.config.paints:
        raise ValueError(f"{settings.model}: inpainting networks cannot be trained")
    if len(checkpoint.config.text_encoders) > 1 or network.added_embed_dim:
        raise ValueError(f"{settings.model}: networks with two text encoders cannot be trained")
    if "text_encoder" in fresh_parts(settings, checkpoint) and not any(
        re.search(pattern, "text_encoder.encoder.layers.0") for pattern in settings.train
    ):
        raise ValueError(
            f"the text encoder of {settings.model} starts from nothing and is not in `train`"
        )


def fresh_parts(settings, checkpoint):
    """The parts that start from nothing."""
    missing = set(parts_of(checkpoint.config)) - set(checkpoint.parts)
    return missing | set(settings.fresh)


def make_networks(names, settings, checkpoint):
    """Keras models by name, with their weights or drawn from Keras' global seed.

    Args:
        names: keys of `names.PART_OF`.
        settings: `dtype`, `fresh` and `remat` count.
        checkpoint: of `open_model`.
    """
    fresh, config = fresh_parts(settings, checkpoint), checkpoint.config
    networks = {}
    for name in names:
        source = None if PART_OF[name] in fresh else checkpoint
        with recomputation(config) if settings.remat else nullcontext():
            networks[name] = Models(config, settings.dtype, source).make(name)
    return networks


def recomputation(config):
    """A context in which networks are made that keep no activations inside of their blocks.

    The way back computes them anew from the blocks' inputs.

    Args:
        config: a `StableDiffusionConfig`.
    """
    plans = (diffusion_model_plan(config.diffusion_model), autoencoder_plan(config.autoencoder))
    names = [
        block.name
        for plan in plans
        for block in plan
        if block.kind in ("res", "transformer", "attention")
    ]
    depth = max(text.depth for text in config.text_encoders)
    names += [f"text_model.encoder.layers.{i}" for i in range(depth)]
    return keras.RematScope("list_of_layers", layer_names=names)


def check_trained(settings, config):
    """ValueError unless each pattern in `train` is in the name of a variable; takes no memory."""
    models = Models(config, settings.dtype)
    networks = {name: without_memory(partial(models.make, name)) for name in TRAINED[settings.kind]}
    choose_trained(networks, settings.train)


def choose_trained(networks, patterns):
    """Lets the variables train in whose names a pattern is found, and no others.

    Args:
        networks: dict by names as in `names.PART_OF`.
        patterns: regular expressions; names are such as "unet.conv_in.weight".

    Returns:
        The number of variables that train.

    Raises:
        ValueError: if a pattern is in no name.
    """
    found, count = set(), 0
    for name, network in networks.items():
        for variable in network.variables:
            full = f"{PART_OF[name]}.{tensor_name(variable)}"
            matching = [pattern for pattern in patterns if re.search(pattern, full)]
            found.update(matching)
            variable.trainable = bool(matching)
            count += bool(matching)
    for pattern in patterns:
        if pattern not in found:
            parts = ", ".join(dict.fromkeys(PART_OF[name] for name in networks))
            raise ValueError(
                f"`train`: {pattern!r} is in no name of a variable that can train here, "
                f"of the parts {parts}"
            )
    return count
