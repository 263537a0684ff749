"""One process of a tiny distributed training, for test_training_distributed.py.

    python distributed_run.py OUTPUT PROCESSES INDEX PORT

Writes the losses and the weights after four steps, and states after two and four. Goes on from the
last state.
"""

import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from kerasdiff.configs import TINY
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.training.checkpoints import SaveState, resume
from kerasdiff.training.data.batches import Batches
from kerasdiff.training.devices import distribute
from kerasdiff.training.diffusion import DiffusionTrainer

CONFIG = TINY["sd1"]
NETWORK = replace(  # one level, so that it compiles in seconds
    CONFIG.diffusion_model, channels=(16,), layers_per_block=(1,), depth=(1,), up_depth=(1,),
    mid_depth=None, heads=(2,), norm_groups=4,
)  # fmt: skip


class Vectors:
    """Random latents and contexts instead of pictures and captions."""

    sizes = [(4, 4)] * 24

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        latents = rng.standard_normal((4, 4, 4), "float32")
        return latents, rng.standard_normal((3, NETWORK.context_dim), "float32")


def draw(item, rng, stratum):
    """A row of a batch."""
    latents, context = item
    return {
        "latents": latents,
        "context": context,
        "noise": rng.standard_normal(latents.shape, "float32"),
        "timesteps": rng.integers(0, 1000, dtype="int32"),
    }


class Losses(keras.callbacks.Callback):
    """Keeps the loss of each step."""

    def on_train_begin(self, logs=None):
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(logs["loss"])


def main():
    output, processes, index, port = sys.argv[1], *map(int, sys.argv[2:])
    devices = distribute(f"127.0.0.1:{port}" if processes > 1 else None, processes, index)
    keras.utils.set_random_seed(0)
    trainer = DiffusionTrainer(CONFIG, DiffusionModel(NETWORK))
    trainer.compile(keras.optimizers.AdamW(1e-3, use_ema=True), jit_compile=True)
    losses = Losses()
    folder = Path(output).with_suffix("")
    start = resume(trainer, folder)
    batches = Batches(Vectors(), 8, draw, start=start, part=(index, processes))
    callbacks = [losses, SaveState(folder, every=2, start=start)]
    trainer.fit(batches, steps_per_epoch=4 - start, shuffle=False, verbose=0, callbacks=callbacks)
    weights = np.concatenate([np.ravel(v.value) for v in trainer.trainable_variables])
    np.savez(output, losses=losses.values, weights=weights, devices=devices)


if __name__ == "__main__":
    main()
