"""Samples a second of our trainer beside diffusers' training loop with torch.

The demo's UNet and text encoder, the same weights, batch and optimizer (AdamW), float32, latents
ready: one step of each in turn, and the medians. Freed memory is kept, as `kerasdiff train` does;
it is one process, so that torch has the good of it too.

    python -m benchmarks.training --batch 48 --steps 10
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel

from kerasdiff.backend import keep_freed_memory
from kerasdiff.checkpoints.load import state
from kerasdiff.checkpoints.save import save_folder
from kerasdiff.checkpoints.tensors import Tensors
from kerasdiff.demo.recipe import CONFIG, SIZE, TOKENIZER
from kerasdiff.image_encoder import ImageEncoder
from kerasdiff.stable_diffusion import StableDiffusion
from kerasdiff.training.diffusion import DiffusionTrainer

RATE = 1e-4


def make_batch(count):
    """Latents, noise, timesteps and tokens of one step."""
    rng = np.random.default_rng(0)
    side = SIZE // CONFIG.autoencoder.factor
    shape = (count, side, side, CONFIG.autoencoder.latent_channels)
    text = CONFIG.text_encoders[0]
    return {
        "latents": rng.standard_normal(shape, "float32"),
        "noise": rng.standard_normal(shape, "float32"),
        "timesteps": rng.integers(0, 1000, count).astype("int32"),
        "tokens": rng.integers(0, text.vocab_size, (count, text.max_length)).astype("int32"),
    }


def ours(model, batch, jit_compile):
    """A function that makes one step and gives its loss."""
    trainer = DiffusionTrainer(CONFIG, model.diffusion_model, model.text_encoder)
    optimizer = keras.optimizers.AdamW(RATE, weight_decay=0.01, epsilon=1e-8)
    trainer.compile(optimizer=optimizer, jit_compile=jit_compile)
    return lambda: float(trainer.train_on_batch(batch))


def theirs(folder, batch):
    """The same as diffusers' examples/text_to_image/train_text_to_image.py does it."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").train()
    text = CLIPTextModel.from_pretrained(folder / "text_encoder").train()
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    parameters = [*unet.parameters(), *text.parameters()]
    optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=0.01)
    latents, noise = (
        torch.from_numpy(batch[name]).permute(0, 3, 1, 2).contiguous()
        for name in ("latents", "noise")
    )
    timesteps, tokens = (torch.from_numpy(batch[n]).long() for n in ("timesteps", "tokens"))

    def step():
        noisy = scheduler.add_noise(latents, noise, timesteps)
        target = scheduler.get_velocity(latents, noise, timesteps)
        predicted = unet(noisy, timesteps, text(tokens)[0], return_dict=False)[0]
        loss = F.mse_loss(predicted, target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def save(model, folder):
    """The untrained model for diffusers to open."""
    ImageEncoder(CONFIG.autoencoder)
    autoencoder = state(model.image_encoder).entries | state(model.decoder).entries
    parts = {
        "text_encoder": state(model.text_encoder),
        "unet": state(model.diffusion_model),
        "vae": Tensors("vae", autoencoder),
    }
    tokenizer = folder.parent / "tokenizer"
    TOKENIZER.save(tokenizer)
    save_folder(folder, CONFIG, parts, tokenizer_folders={"tokenizer": tokenizer})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    keep_freed_memory()
    batch = make_batch(given.batch)
    with tempfile.TemporaryDirectory() as temporary:
        model = StableDiffusion(checkpoint=CONFIG)
        folder = Path(temporary) / "demo"
        save(model, folder)
        steps = {
            "kerasdiff, graph": ours(model, batch, False),
            "kerasdiff, XLA": ours(StableDiffusion.from_preset(folder), batch, True),
            "diffusers, torch": theirs(folder, batch),
        }
        seconds, first = {name: [] for name in steps}, {}
        for i in range(given.steps + 2):
            for name, step in steps.items():
                begin = time.perf_counter()
                loss = step()
                first.setdefault(name, loss)
                if i > 1:  # after compilation and warm-up
                    seconds[name].append(time.perf_counter() - begin)
    print(f"batch {given.batch}, medians of {given.steps} alternating steps\n")
    print("| loop | first loss | samples a second |\n|---|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {first[name]:.4f} | {given.batch / statistics.median(values):.1f} |")


if __name__ == "__main__":
    main()
