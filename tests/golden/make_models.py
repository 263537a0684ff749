"""Writes models.npz: what diffusers' and transformers' networks make of small cases.

    python tests/golden/make_models.py     # needs torch, diffusers and transformers

Weights and inputs follow from names (`tests/model_cases.py`), so that only outputs are stored.
"""

import sys
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

sys.path.append(str(Path(__file__).parent.parent))
from model_cases import (  # noqa: E402
    AUTOENCODERS,
    CASES,
    SIZES,
    TEXTS,
    TIMESTEPS,
    UNETS,
    latents,
    picture,
    tokens,
    unet_inputs,
    weight,
)

from kerasdiff.checkpoints.autoencoder_json import autoencoder_json  # noqa: E402
from kerasdiff.checkpoints.diffusion_model_json import diffusion_model_json  # noqa: E402
from kerasdiff.checkpoints.text_encoder_json import text_encoder_json  # noqa: E402


def module(kind, name):
    """The reference network of a case, filled by the rule."""
    if kind == "unet":
        config, height, width, _ = UNETS[name]
        made = diffusers.UNet2DConditionModel.from_config(
            diffusion_model_json(config, (height, width))
        )
    elif kind == "autoencoder":
        made = diffusers.AutoencoderKL.from_config(autoencoder_json(AUTOENCODERS[name]))
    else:
        config = transformers.CLIPTextConfig(**text_encoder_json(TEXTS[name]))
        made = getattr(transformers, config.architectures[0])(config)
    for key, value in made.state_dict().items():
        key = key.removeprefix("text_model.")
        value.copy_(torch.from_numpy(weight(key, tuple(value.shape))))
    return made.eval()


@torch.no_grad()
def reference(kind, name):
    """The arrays that `model_cases` makes of the same case, channels last."""
    made = module(kind, name)
    return [_last(output) for output in globals()[f"_{kind}"](made, name)]


def _unet(made, name):
    inputs = {key: _first(value) for key, value in unet_inputs(name).items()}
    more = {}
    if "added_embedding" in inputs:
        pooled = inputs["added_embedding"][:, : -6 * UNETS[name][0].size_embed_dim]
        more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.from_numpy(SIZES)}
    if "guidance_embedding" in inputs:
        more["timestep_cond"] = inputs["guidance_embedding"]
    if "controlnet_mid" in inputs:
        more["mid_block_additional_residual"] = inputs["controlnet_mid"]
        more["down_block_additional_residuals"] = tuple(
            value for key, value in inputs.items() if key.startswith("controlnet_down")
        )
    return [made(inputs["latent"], torch.from_numpy(TIMESTEPS), inputs["context"], **more).sample]


def _autoencoder(made, name):
    config = AUTOENCODERS[name]
    posterior = made.encode(_first(picture(name))).latent_dist
    sample = _first(latents(name)) / config.scaling_factor + config.shift_factor
    mean = (posterior.mean - config.shift_factor) * config.scaling_factor
    return [posterior.parameters, mean, made.decode(sample).sample]


def _text(made, name):
    config = TEXTS[name]
    states = made(torch.from_numpy(tokens(name)), output_hidden_states=True)
    if config.output_layer == -1:
        context = states.last_hidden_state
    else:
        context = states.hidden_states[config.output_layer]
    if config.projection_dim is not None:
        return [context, states.text_embeds]
    return [context] if config.output_layer == -1 else [context, states.pooler_output]


def _first(array):
    """Channels first, where there are pictures."""
    return torch.tensor(array.transpose(0, 3, 1, 2) if array.ndim == 4 else array)


def _last(tensor):
    array = tensor.numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def main():
    """Writes the file."""
    arrays = {}
    for kind, name in CASES:
        for i, array in enumerate(reference(kind, name)):
            arrays[f"{kind}/{name}/{i}"] = array
    np.savez_compressed(Path(__file__).with_name("models.npz"), **arrays)


if __name__ == "__main__":
    main()
