"""Takes a few steps on whatever backend is set: python tests/training_steps.py OUT VARIANT...

Each variant is words of jit, remat and accumulate joined by "+", or "plain". Writes each one's
losses, and its weights and averages after the steps.
"""

import sys
from contextlib import nullcontext

import keras
import numpy as np
from training_cases import CONFIG, autoencoder_batch, diffusion_batch, networks

from kerasdiff.training.autoencoder import AutoencoderTrainer
from kerasdiff.training.averages import averaged, warmed_up
from kerasdiff.training.diffusion import DiffusionTrainer
from kerasdiff.training.runs.networks import recomputation

STEPS = 3


def trainers(remat=False):
    """For each kind a trainer, whose weights are always the same, and what makes its batches."""
    with recomputation(CONFIG) if remat else nullcontext():
        unet, text, encoder, decoder = networks()
    rng = np.random.default_rng(0)
    for network in (unet, text, encoder, decoder):
        for variable in network.variables:  # the backends draw other numbers
            spread = 0.3 / max(1.0, np.sqrt(np.prod(variable.shape[:-1])) / 3)
            variable.assign(np.array(variable.value) * (len(variable.shape) < 2)
                            + spread * rng.standard_normal(variable.shape, "float32"))  # fmt: skip
    yield "diffusion", DiffusionTrainer(CONFIG, unet, text, snr_gamma=5.0), diffusion_batch
    yield "autoencoder", AutoencoderTrainer(encoder, decoder, gradient=0.5), autoencoder_batch


def optimizer(**options):
    sgd = warmed_up(keras.optimizers.SGD)
    return sgd(0.1, momentum=0.9, use_ema=True, ema_momentum=0.5, **options)


def take(variant):
    """Losses and weights by name."""
    words, results = variant.split("+"), {}
    for kind, trainer, batch in trainers("remat" in words):
        trainer.compile(optimizer=optimizer(), jit_compile="jit" in words)
        losses = [trainer.train_on_batch(batch(seed=step)) for step in range(STEPS)]
        results[f"{kind}/losses"] = np.array(losses)
        results |= {
            f"{kind}/{i}": np.array(v.value) for i, v in enumerate(trainer.trainable_variables)
        }
        with averaged(trainer):
            results |= {
                f"{kind}/average/{i}": np.array(v.value)
                for i, v in enumerate(trainer.trainable_variables)
            }
    return results


def main():
    out, *variants = sys.argv[1:]
    np.savez(out, **{f"{v}/{n}": a for v in variants for n, a in take(v).items()})


if __name__ == "__main__":
    main()
