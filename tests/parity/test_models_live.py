"""Live against diffusers and transformers: the cases behind the golden file, by name and number."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding

TESTS = Path(__file__).parent.parent
sys.path += [str(TESTS), str(TESTS / "golden")]
from make_models import module, reference  # noqa: E402
from model_cases import (  # noqa: E402
    AUTOENCODERS,
    CASES,
    KINDS,
    TEXTS,
    UNETS,
    error,
    fill,
    numbers,
    weight,
)

from kerasdiff.checkpoints.load import torch_shape  # noqa: E402
from kerasdiff.decoder import Decoder  # noqa: E402
from kerasdiff.diffusion_model import DiffusionModel, timestep_embedding  # noqa: E402
from kerasdiff.image_encoder import ImageEncoder  # noqa: E402
from kerasdiff.layers import tensor_name, uninitialized  # noqa: E402
from kerasdiff.text_encoder import TextEncoder  # noqa: E402


def models(kind, name):
    if kind == "autoencoder":
        return [ImageEncoder(AUTOENCODERS[name]), Decoder(AUTOENCODERS[name])]
    return [DiffusionModel(UNETS[name][0])] if kind == "unet" else [TextEncoder(TEXTS[name])]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_names_and_shapes_are_those_of_the_state_dict(kind, name):
    ours = [(tensor_name(v), torch_shape(v)) for m in models(kind, name) for v in m.variables]
    theirs = [
        (key.removeprefix("text_model."), tuple(value.shape))
        for key, value in module(kind, name).state_dict().items()
    ]
    assert sorted(ours) == sorted(theirs)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_outputs_are_theirs(kind, name):
    expected = reference(kind, name)
    outputs = KINDS[kind][1](name)
    assert len(outputs) == len(expected)
    for ours, theirs in zip(outputs, expected, strict=True):
        assert error(ours, theirs) < 2e-5


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_golden_file_is_what_they_make_today(kind, name):
    with np.load(TESTS / "golden" / "models.npz") as golden:
        for i, array in enumerate(reference(kind, name)):
            assert error(golden[f"{kind}/{name}/{i}"], array) < 2e-5


@pytest.mark.parametrize("width", [8, 32, 256, 320])
@pytest.mark.parametrize(("flip", "shift"), [(True, 0.0), (False, 1.0)])
def test_timestep_embeddings_are_theirs(width, flip, shift):
    timesteps = np.array([0.0, 1.0, 12.5, 500.0, 981.0], "float32")
    theirs = get_timestep_embedding(
        torch.from_numpy(timesteps), width, flip_sin_to_cos=flip, downscale_freq_shift=shift
    )
    ours = np.asarray(timestep_embedding(timesteps, width, flip, shift))
    # Half a unit in the last place of a frequency near 1, times 981.
    np.testing.assert_allclose(ours, theirs.numpy(), atol=981 * 2.0**-23, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_a_unet_of_full_size_is_theirs_and_reacts_to_its_context(capsys):
    theirs = UNet2DConditionModel(cross_attention_dim=768, sample_size=64)
    for key, value in theirs.state_dict().items():
        value.copy_(torch.from_numpy(weight(key, tuple(value.shape))))
    with uninitialized():
        ours = fill(DiffusionModel())
    latent = numbers("full latent", (1, 64, 64, 4))
    texts = [numbers(f"full context {i}", (1, 77, 768)) for i in range(2)]
    step = np.array([981.0], "float32")
    embedding = timestep_embedding(step, 320)
    outputs = [np.asarray(ours([latent, embedding, text])) for text in texts]
    expected = theirs(
        torch.tensor(latent.transpose(0, 3, 1, 2)), torch.tensor(step), torch.tensor(texts[0])
    ).sample.numpy()
    found = error(outputs[0], expected.transpose(0, 2, 3, 1))
    with capsys.disabled():
        print(f"\nSD 1.5 UNet at 64x64: relative error {found:.1e}")
    assert found < 2e-5
    assert error(outputs[1], outputs[0]) > 0.1
