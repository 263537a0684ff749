"""How the demo model is made from nothing: pictures, autoencoder, latents, UNet, a folder.

    python -m kerasdiff.demo.recipe build/weights

Every stage can be killed and started again; it goes on where its last state was written.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from kerasdiff.configs import (
    AutoencoderConfig,
    DiffusionModelConfig,
    ScheduleConfig,
    StableDiffusionConfig,
    TextEncoderConfig,
)
from kerasdiff.decoder import Decoder
from kerasdiff.demo.captions import all_words
from kerasdiff.demo.data import DemoScenes
from kerasdiff.demo.vocabulary import demo_tokenizer
from kerasdiff.image_encoder import ImageEncoder
from kerasdiff.training.autoencoder import AutoencoderTrainer
from kerasdiff.training.batches import AutoencoderDraw, Batches
from kerasdiff.training.checkpoints import SaveState, resume
from kerasdiff.training.muon import Muon

SIZE = 128
TOKENS = 40
AUTOENCODER = AutoencoderConfig(
    channels=(16, 32, 64, 128), layers_per_block=1, norm_groups=4, scaling_factor=1.0
)
FIRST_LOG_VARIANCE = -5.0  # so that the decoder sees something from the start
AUTOENCODER_PICTURES = 6000
# pixels pooled, batch size, last step, steps of warm-up
AUTOENCODER_PHASES = ((2, 16, 700, 50), (1, 8, 1900, 20))


def muon(rate, warmup, decay_steps, **options):
    """Muon, warmed up to `rate` and then down a cosine to a hundredth, Adam at a fifth of that."""
    schedule = keras.optimizers.schedules.CosineDecay(
        rate * 0.1, decay_steps, alpha=0.01, warmup_target=rate, warmup_steps=warmup
    )
    return Muon(
        schedule, adam_lr_ratio=0.2, weight_decay=None, adam_weight_decay=None,
        exclude_layers=["conv_in", "conv_out"], **options,
    )  # fmt: skip


def train_autoencoder(folder, source):
    """The image encoder and the decoder, first on pictures of half the size."""
    keras.utils.set_random_seed(0)
    encoder, decoder = ImageEncoder(AUTOENCODER), Decoder(AUTOENCODER)
    bias = next(v for v in encoder.variables if v.path == "quant_conv/bias")
    values = np.array(bias.value)
    values[AUTOENCODER.latent_channels :] = FIRST_LOG_VARIANCE
    bias.assign(values)
    begin = 0
    for i, (pool, batch_size, end, warmup) in enumerate(AUTOENCODER_PHASES):
        trainer = AutoencoderTrainer(encoder, decoder, l1=1.0, mse=1.0, gradient=0.5, kl=4e-4)
        optimizer = muon(0.01, warmup, end - begin - warmup, global_clipnorm=1.0)
        trainer.compile(optimizer=optimizer, jit_compile=False)
        states = folder / f"autoencoder-{i}"
        start = begin + resume(trainer, states)
        fit(trainer, Batches(source, batch_size, AutoencoderDraw(AUTOENCODER, pool), 1, start),
            end - start, SaveState(states, 100, start - begin))  # fmt: skip
        begin = end
    return encoder, decoder


def fit(trainer, batches, steps, *callbacks):
    """Trains for so many steps, with a line of progress."""
    if steps > 0:
        trainer.fit(
            batches, epochs=1, steps_per_epoch=steps, shuffle=False, callbacks=list(callbacks)
        )


def main():
    """Runs every stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    train_autoencoder(folder, DemoScenes(AUTOENCODER_PICTURES, SIZE, seed=1, keep=True))


if __name__ == "__main__":
    main()
