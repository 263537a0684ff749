"""How the demo model is made from nothing: autoencoder, text encoder, latents, UNet, a folder.

    python -m kerasdiff.demo.recipe build/weights

Every stage can be killed and started again; it goes on where its last state was written. A model
that is there already can be given the last round of the UNet's training, on an accelerator say:

    KERAS_BACKEND=jax python -m kerasdiff.demo.recipe build/weights --again weights/demo
"""

import argparse
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from kerasdiff.backend import compiles_training, device, keep_freed_memory, prepare_compiler
from kerasdiff.checkpoints.load import state
from kerasdiff.checkpoints.save import save_folder
from kerasdiff.checkpoints.tensors import Tensors
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
from kerasdiff.demo.lesson import Captions, Reader, lesson_loss, lesson_score
from kerasdiff.demo.vocabulary import demo_tokenizer
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.image_encoder import ImageEncoder
from kerasdiff.stable_diffusion import StableDiffusion
from kerasdiff.text_encoder import TextEncoder
from kerasdiff.training.autoencoder import AutoencoderTrainer
from kerasdiff.training.checkpoints import SaveState, resume
from kerasdiff.training.data.batches import AutoencoderDraw, Batches, DiffusionDraw
from kerasdiff.training.data.cached import Moments, cache_moments, latent_deviation
from kerasdiff.training.diffusion import DiffusionTrainer
from kerasdiff.training.muon import Muon
from kerasdiff.training.rates import Rate

SIZE = 128
TOKENIZER = demo_tokenizer(all_words(), max_length=40)
AUTOENCODER = AutoencoderConfig(
    channels=(16, 32, 64, 64), layers_per_block=1, norm_groups=4, scaling_factor=1.0
)
CONFIG = StableDiffusionConfig(
    "sd1",
    (
        TextEncoderConfig(
            vocab_size=TOKENIZER.vocab_size, max_length=TOKENIZER.max_length, width=128, depth=3,
            heads=4, mlp_width=512,
        ),
    ),
    AUTOENCODER,
    DiffusionModelConfig(
        channels=(48, 96, 128), layers_per_block=(1, 1, 1), depth=(0, 1, 1), up_depth=(1, 1, 0),
        heads=(2, 3, 4), context_dim=128, norm_groups=16,
    ),
    # Black and white backgrounds need a last step that is pure noise (arXiv 2305.08891).
    ScheduleConfig(
        prediction_type="v_prediction", zero_terminal_snr=True, sampler="ddim", spacing="trailing"
    ),
    image_size=(SIZE, SIZE),
)  # fmt: skip

FIRST_LOG_VARIANCE = -5.0  # so that the decoder sees something from the start
AUTOENCODER_PICTURES = 6000
# pixels a side of what is cut out, batch size, last step, rate: squares cost a quarter, and the
# convolutions learn the same from them; attention sees whole pictures last
AUTOENCODER_PHASES = ((64, 16, 1200, 0.01), (SIZE, 8, 1350, 0.002))

# The decoder alone goes on afterwards: latents stay as they are (as in SD's own "ft-MSE" decoder).
# pictures and their seed, batch size, steps, rate: the second round brought 31.2 dB to 33.5
POLISHES = ((6_000, 3, 4, 800, 0.004), (12_000, 5, 8, 2400, 0.003))

LESSON_STEPS, LESSON_BATCH = 1000, 64


@dataclass(frozen=True)
class Round:
    """One training of the UNet, from the averaged weights of the one before.

    Attributes:
        pictures: how many it sees, and up to which step: the first steps need fewer, and so start
            sooner.
        decay: the rate is held, and brought down in so many last steps.
        batch: pictures a step.
    """

    pictures: tuple[tuple[int, int], ...]
    decay: int
    batch: int = 48

    @property
    def steps(self):
        """Of the whole round."""
        return self.pictures[-1][1]


RATE = 0.004
ROUNDS = (
    Round(((6_000, 800), (16_000, 2650)), decay=1100),
    Round(((8_000, 500), (24_000, 3600)), decay=1400),
    Round(((100_000, 7000),), decay=2800, batch=256),  # 197 s on an NVIDIA H200
)
# Of 1,000 timesteps one is noise alone. Trained as rarely as any other, the model knew shapes and
# colours after 2,000 steps and chance decided which was the left one.
SHIFT, PURE_NOISE = 2.5, 0.08
# Without decay 3,000 steps at 0.01 made the weights ten times as large as they began: attention
# was of one token alone, and words of shape and place went unlearnt.
WEIGHT_DECAY = 0.1


def muon(rate, weight_decay=None, **options):
    """Muon for matrices and convolutions, and Adam at a fifth of the rate for the rest."""
    return Muon(
        rate, adam_lr_ratio=0.2, weight_decay=weight_decay, adam_weight_decay=None,
        exclude_layers=["conv_in", "conv_out"], **options,
    )  # fmt: skip


def train_autoencoder(folder):
    """The image encoder and the decoder, first on parts of pictures."""
    keras.utils.set_random_seed(0)
    source = DemoScenes(AUTOENCODER_PICTURES, SIZE, seed=1, keep=True)
    encoder, decoder = ImageEncoder(AUTOENCODER), Decoder(AUTOENCODER)
    bias = next(v for v in encoder.variables if v.path == "quant_conv/bias")
    values = np.array(bias.value)
    values[AUTOENCODER.latent_channels :] = FIRST_LOG_VARIANCE
    bias.assign(values)
    begin = 0
    for i, (crop, batch_size, end, peak) in enumerate(AUTOENCODER_PHASES):
        trainer = AutoencoderTrainer(encoder, decoder, l1=1.0, mse=1.0, gradient=0.5, kl=4e-4)
        rate = Rate(peak, 50, 0, end - begin - 50, 0.01)
        trainer.compile(optimizer=muon(rate, global_clipnorm=1.0), jit_compile=True)
        states = folder / f"autoencoder-{i}"
        start = begin + resume(trainer, states)
        batches = Batches(source, batch_size, AutoencoderDraw(AUTOENCODER, crop), 1, start)
        fit(trainer, batches, end - start, SaveState(states, 100, start - begin))
        begin = end
    return encoder, decoder


def polish_decoder(folder, encoder, decoder):
    """Sharper edges from the same latents: absolute errors alone, of whole pictures."""
    encoder.moments.trainable = False
    for i, (count, seed, batch_size, steps, peak) in enumerate(POLISHES):
        source = DemoScenes(count, SIZE, seed=seed, keep=True)
        trainer = AutoencoderTrainer(encoder, decoder, l1=1.0, gradient=1.0, kl=0.0)
        rate = Rate(peak, 50, 0, steps - 50, 0.01)
        trainer.compile(optimizer=muon(rate, global_clipnorm=1.0), jit_compile=True)
        states = folder / f"decoder-{i}"
        start = resume(trainer, states)
        batches = Batches(source, batch_size, AutoencoderDraw(AUTOENCODER), 3 + i, start)
        fit(trainer, batches, steps - start, SaveState(states, 100, start))


def teach_text_encoder(folder):
    """A text encoder that can read what stands where, and learns no more; see `lesson`."""
    keras.utils.set_random_seed(0)
    reader = Reader(TextEncoder(CONFIG.text_encoders[0]))
    rate = Rate(1e-3, 50, LESSON_STEPS - 450, 400, 0.01)
    reader.compile(
        keras.optimizers.Adam(rate), lesson_loss, metrics=[lesson_score], jit_compile=False
    )
    states = folder / "lesson"
    start = resume(reader, states)
    captions = Captions(TOKENIZER, LESSON_BATCH, LESSON_STEPS - start, start)
    fit(reader, captions, len(captions), SaveState(states, 500, start))
    # Trained on with the UNet it forgot the order of things within 2,500 steps, before the UNet
    # could have learnt to use it: captions that differed in it alone were encoded alike.
    reader.text_encoder.trainable = False
    return reader.text_encoder


def encode_pictures(folder, encoder, count):
    """The moments of pictures for the UNet."""
    return Moments(cache_moments(DemoScenes(count, SIZE, seed=2), encoder, folder / "moments"))


def with_scale(moments):
    """The config with the scale of latents, so that they spread by 1."""
    scale = 1.0 / latent_deviation(moments.moments[:2000])
    return replace(CONFIG, autoencoder=replace(AUTOENCODER, scaling_factor=scale))


def diffusion_trainer(config, network, text_encoder, one_round):
    """A compiled trainer of a UNet, with a text encoder as it is."""
    keras.utils.set_random_seed(0)
    trainer = DiffusionTrainer(config, network, text_encoder)
    rate = Rate(RATE, 100, one_round.steps - one_round.decay - 100, one_round.decay, 0.01)
    optimizer = muon(rate, WEIGHT_DECAY, global_clipnorm=1.0, use_ema=True, ema_momentum=0.998)
    trainer.compile(optimizer=optimizer, jit_compile=compiles_training())
    return trainer


def train_diffusion(folder, config, encoder, network, text_encoder, first_round=0):
    """The UNet, on cached moments; ends with averaged weights."""
    draw = DiffusionDraw([TOKENIZER], config, moments=True, shift=SHIFT, pure_noise=PURE_NOISE)
    # An accelerator takes steps faster than one process draws their noise.
    workers = {} if device() == "cpu" else {"workers": os.cpu_count(), "use_multiprocessing": True}
    for i, one_round in enumerate(ROUNDS[first_round:], first_round):
        trainer = diffusion_trainer(config, network, text_encoder, one_round)
        states = folder / f"diffusion-{i}"
        for count, end in one_round.pictures:
            step = resume(trainer, states)  # what was averaged: `fit` ends with the averages
            if step < end:
                source = encode_pictures(folder, encoder, count)
                batches = Batches(source, one_round.batch, draw, 2 + i, step, **workers)
                fit(trainer, batches, end - step, SaveState(states, 500, step))
        trainer.optimizer.finalize_variable_values(trainer.trainable_variables)


def write(folder, config, encoder, decoder, network, text_encoder):
    """The weights as a diffusers folder of float16."""
    with tempfile.TemporaryDirectory() as temporary:
        TOKENIZER.save(Path(temporary) / "tokenizer")
        parts = {
            "text_encoder": state(text_encoder),
            "unet": state(network),
            "vae": Tensors("vae", state(encoder).entries | state(decoder).entries),
        }
        folders = {"tokenizer": Path(temporary) / "tokenizer"}
        save_folder(folder, config, parts, "float16", folders)


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
    parser.add_argument("--again", metavar="MODEL", help="train its UNet one more round")
    given = parser.parse_args()
    folder = given.folder
    if (folder / "demo").exists():
        parser.error(f"{folder / 'demo'} is there already: move it away to make it anew")
    folder.mkdir(parents=True, exist_ok=True)
    prepare_compiler()
    keep_freed_memory()
    if given.again:
        model = StableDiffusion.from_preset(given.again)
        config, encoder, decoder = model.config, model.image_encoder, model.decoder
        network, text_encoder = model.diffusion_model, model.text_encoder
        text_encoder.trainable = False
        train_diffusion(folder, config, encoder, network, text_encoder, len(ROUNDS) - 1)
    else:
        encoder, decoder = train_autoencoder(folder)
        config = with_scale(encode_pictures(folder, encoder, ROUNDS[0].pictures[0][0]))
        network, text_encoder = DiffusionModel(config.diffusion_model), teach_text_encoder(folder)
        train_diffusion(folder, config, encoder, network, text_encoder)
        polish_decoder(folder, encoder, decoder)
    write(folder / "demo", config, encoder, decoder, network, text_encoder)


if __name__ == "__main__":
    main()
