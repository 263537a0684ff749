"""Each network equals diffusers' and transformers', given the same weights."""

import json

import diffusers
import numpy as np
import pipelines
import pytest
import torch

from kerasdiff.checkpoints.diffusers_configs import (
    autoencoder_config,
    diffusion_model_config,
    text_encoder_config,
)
from kerasdiff.checkpoints.load import load
from kerasdiff.decoder import Decoder
from kerasdiff.diffusion_model import DiffusionModel, timestep_embedding
from kerasdiff.image_encoder import ImageEncoder, sample_moments
from kerasdiff.text_encoder import TextEncoder

TOLERANCE = 2e-5  # relative to the largest value, float32


def error(ours, theirs):
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def tensors(module, keep=lambda name: True):
    return {
        name.removeprefix("text_model."): value.numpy()
        for name, value in module.state_dict().items()
        if keep(name)
    }


def nhwc(array):
    return array.transpose(0, 2, 3, 1)


@torch.no_grad()
def compare_unet(theirs, height, width, tokens=77, louder=2.0):
    config = diffusion_model_config(json.loads(theirs.to_json_string()))
    for name, value in theirs.named_parameters():
        if name.startswith("conv_out") or ".attn2." in name:
            value *= louder  # 4 is chaos: PyTorch itself is then 1e-3 away from float64
    ours = DiffusionModel(config)
    load(ours, tensors(theirs))
    random = np.random.default_rng(0)
    latent = random.normal(size=(2, config.in_channels, height, width)).astype("float32")
    context = random.normal(size=(2, tokens, config.context_dim)).astype("float32")
    steps = np.array([981.0, 12.5], "float32")
    inputs = {
        "latent": nhwc(latent),
        "timestep_embedding": np.asarray(timestep_embedding(steps, config.channels[0])),
        "context": context,
    }
    more = {}
    if config.added_embed_dim:
        sizes = np.array([[512, 640, 0, 8, 1024, 512]] * 2, "float32")
        pooled = random.normal(size=(2, config.added_embed_dim - 6 * config.size_embed_dim))
        embedded = np.asarray(timestep_embedding(sizes.reshape(-1), config.size_embed_dim))
        inputs["added_embedding"] = np.concatenate([pooled, embedded.reshape(2, -1)], axis=-1)
        pooled = torch.tensor(pooled, dtype=torch.float32)
        more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.tensor(sizes)}
    if config.time_cond_dim:
        guidance = random.normal(size=(2, config.time_cond_dim)).astype("float32")
        inputs["guidance_embedding"] = guidance
        more["timestep_cond"] = torch.tensor(guidance)
    expected = theirs(
        torch.tensor(latent), torch.tensor(steps), torch.tensor(context), **more
    ).sample
    assert error(ours(inputs), expected) < TOLERANCE
    return ours, inputs, expected


@pytest.mark.parametrize("size", ((8, 8), (9, 13)))
@pytest.mark.parametrize("kind", pipelines.KINDS)
def test_unet(kind, size):
    torch.manual_seed(1)
    compare_unet(pipelines.unet(kind), *size)


def test_unet_with_guidance_embedding():
    torch.manual_seed(1)
    compare_unet(
        diffusers.UNet2DConditionModel.from_config(
            {**pipelines.unet("sd1").config, "time_cond_proj_dim": 24}
        ),
        8,
        8,
    )


def test_unet_takes_lists_and_dicts():
    torch.manual_seed(1)
    ours, inputs, expected = compare_unet(pipelines.unet("sdxl"), 8, 8, tokens=5)
    order = ("latent", "timestep_embedding", "context", "added_embedding")
    assert error(ours([inputs[name] for name in order]), expected) < TOLERANCE


@pytest.mark.parametrize("channels", ((32,), (16, 32), (8, 16, 16, 32)))
@torch.no_grad()
def test_autoencoder(channels):
    torch.manual_seed(2)
    theirs = pipelines.autoencoder(channels, layers=2)
    config = autoencoder_config(json.loads(theirs.to_json_string()))
    encoder, decoder = ImageEncoder(config), Decoder(config)
    half = ("encoder.", "quant_conv")
    load(encoder, tensors(theirs, lambda name: name.startswith(half)))
    load(decoder, tensors(theirs, lambda name: not name.startswith(half)))
    side = 8 * config.factor
    image = np.random.default_rng(0).uniform(-1, 1, (2, 3, side, 2 * side)).astype("float32")
    posterior = theirs.encode(torch.tensor(image)).latent_dist
    moments = encoder.moments(nhwc(image))
    assert error(moments, posterior.parameters) < TOLERANCE
    assert error(encoder(nhwc(image)), posterior.mean * config.scaling_factor) < TOLERANCE
    noise = np.random.default_rng(1).normal(size=posterior.mean.shape).astype("float32")
    sample = posterior.mean + posterior.std * torch.tensor(noise)
    ours = sample_moments(moments, nhwc(noise), config)
    assert error(ours, sample * config.scaling_factor) < TOLERANCE
    assert error(decoder(np.asarray(ours)), theirs.decode(sample).sample) < 2 * TOLERANCE


@pytest.mark.parametrize("activation", ("quick_gelu", "gelu"))
@pytest.mark.parametrize("projected", (False, True))
@pytest.mark.parametrize("output_layer", (-1, -2))
@torch.no_grad()
def test_text_encoder(activation, projected, output_layer):
    torch.manual_seed(3)
    theirs = pipelines.text_encoder(projected, activation)
    config = text_encoder_config(
        theirs.config.to_dict(), output_layer=output_layer, projection=projected
    )
    ours = TextEncoder(config)
    load(ours, tensors(theirs))
    tokens = np.random.default_rng(0).integers(0, 49406, (3, 77))
    for row, end in enumerate((5, 30, 76)):
        tokens[row, end:] = 49407
    states = theirs(torch.tensor(tokens), output_hidden_states=True)
    output = ours({"tokens": tokens.astype("float64"), "positions": np.arange(77)[None]})
    if output_layer == -1 and not projected:
        assert error(output, states.last_hidden_state) < TOLERANCE
        return
    expected = states.last_hidden_state if output_layer == -1 else states.hidden_states[-2]
    assert error(output["context"], expected) < TOLERANCE
    pooled = states.text_embeds if projected else states.pooler_output
    assert error(output["pooled"], pooled) < TOLERANCE
