"""Training equals PyTorch's; diffusers opens what a run saves."""

import sys
from dataclasses import replace
from pathlib import Path

import diffusers
import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.training_utils import compute_snr
from transformers import CLIPTextModel

sys.path.insert(0, str(Path(__file__).parents[1]))
from training_cases import autoencoder_batch, diffusion_batch, settings, write_model

from kerasdiff.checkpoints.checkpoint import open_checkpoint
from kerasdiff.checkpoints.models import open_models
from kerasdiff.layers import tensor_name, to_torch_axes
from kerasdiff.training.autoencoder import AutoencoderTrainer
from kerasdiff.training.diffusion import DiffusionTrainer
from kerasdiff.training.runs import run

TOLERANCE = 2e-5  # relative to the largest value, float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("training") / "model")


def nchw(array):
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def changes(trainer, networks, batch):
    """The loss, and each trained tensor's gradient by name in PyTorch's order: one step of SGD."""
    variables = [(n, v) for n, network in networks.items() for v in network.trainable_variables]
    before = [np.array(v.value) for _, v in variables]
    trainer.compile(optimizer=keras.optimizers.SGD(1.0), run_eagerly=True)
    loss = trainer.train_on_batch(batch)
    return loss, {
        f"{n}.{tensor_name(v)}": (old - np.array(v.value)).transpose(to_torch_axes(v))
        for (n, v), old in zip(variables, before, strict=True)
    }


def compare(gradients, modules):
    theirs = {
        f"{name}.{key.removeprefix('text_model.')}": parameter.grad.numpy()
        for name, module in modules.items()
        for key, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    assert gradients.keys() == theirs.keys()
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    for name, gradient in theirs.items():
        # A step of rate 1 rounds the weight, and so its change.
        np.testing.assert_allclose(
            gradients[name], gradient, atol=TOLERANCE * max(largest, 1.0), rtol=0, err_msg=name
        )


@pytest.mark.parametrize("kind", ("epsilon", "v_prediction"))
@pytest.mark.parametrize("gamma", (None, 5.0))
def test_loss_and_gradients_of_diffusion_are_pytorchs(folder, kind, gamma):
    models, batch = open_models(folder), diffusion_batch()
    config = models.config
    config = replace(config, schedule=replace(config.schedule, prediction_type=kind))
    ours = {"unet": models.make("diffusion_model"), "text": models.make("text_encoder")}
    trainer = DiffusionTrainer(config, ours["unet"], ours["text"], snr_gamma=gamma)
    loss, gradients = changes(trainer, ours, batch)

    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").train()
    text = CLIPTextModel.from_pretrained(folder / "text_encoder").train()
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler", prediction_type=kind)
    latents, noise = nchw(batch["latents"]), nchw(batch["noise"])
    timesteps, tokens = (torch.from_numpy(batch[name]).long() for name in ("timesteps", "tokens"))
    noisy = scheduler.add_noise(latents, noise, timesteps)
    predicted = unet(noisy, timesteps, text(tokens)[0], return_dict=False)[0]
    target = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    errors = F.mse_loss(predicted, target, reduction="none").mean((1, 2, 3))
    if gamma is not None:  # as examples/text_to_image/train_text_to_image.py does it
        snr = compute_snr(scheduler, timesteps)
        weights = torch.minimum(snr, gamma * torch.ones_like(snr))
        errors = errors * weights / (snr if kind == "epsilon" else snr + 1)
    expected = errors.mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=TOLERANCE)
    compare(gradients, {"unet": unet, "text": text})


def test_loss_and_gradients_of_an_autoencoder_are_pytorchs(folder):
    models, batch = open_models(folder), autoencoder_batch(side=16)
    encoder, decoder = models.make("image_encoder"), models.make("decoder")
    trainer = AutoencoderTrainer(encoder, decoder, l1=1.0, mse=0.5, kl=0.01, gradient=0.5)
    loss, gradients = changes(trainer, {"encoder": encoder, "decoder": decoder}, batch)
    gradients = {f"vae.{name.split('.', 1)[1]}": value for name, value in gradients.items()}

    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").train()
    pictures = nchw(batch["pictures"])
    posterior = vae.encode(pictures).latent_dist
    sample = posterior.mean + posterior.std * nchw(batch["noise"])
    error = vae.decode(sample).sample - pictures
    mean, log_variance = posterior.mean, posterior.logvar
    differences = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    expected = error.abs().mean() + 0.5 * (error**2).mean() + 0.01 * kl + 0.5 * differences
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=TOLERANCE)
    compare(gradients, {"vae": vae})


@pytest.mark.parametrize("name", ("result", "result.safetensors"))
def test_what_a_run_saves_is_opened_by_diffusers(tmp_path, name):
    given = settings(tmp_path, steps=1, output=str(tmp_path / name), jit_compile=False)
    run.train(run.prepare(given), progress=False)
    saved = open_checkpoint(tmp_path / name)
    if name == "result":
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            tmp_path / name, safety_checker=None, feature_extractor=None
        )
        unet = pipeline.unet
        assert pipeline.tokenizer("picture 1").input_ids
    else:
        unet = diffusers.UNet2DConditionModel.from_single_file(
            str(tmp_path / name), config=str(tmp_path / "model"), subfolder="unet"
        )
    tensors, before = saved.parts["unet"], open_checkpoint(given.model).parts["unet"]
    assert unet.state_dict().keys() == set(tensors)
    for key, value in unet.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), tensors[key])
    assert any(np.abs(tensors[key] - before[key]).max() > 0 for key in tensors)
