"""Runs a training from a TOML file; dies after some steps: python training_run.py TOML [N].

It dies as from `kill -9`, without a chance to write anything.
"""

import os
import signal
import sys

import keras

from kerasdiff.training.runs import run
from kerasdiff.training.runs.settings import read_settings


class Die(keras.callbacks.Callback):
    """Kills the process after some batches."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self.batches:
            os.kill(os.getpid(), signal.SIGKILL)


def main():
    path, *batches = sys.argv[1:]
    if batches:
        samples = run._samples
        run._samples = lambda *given: [*samples(*given), Die(int(batches[0]))]
    run.train(run.prepare(read_settings(path)), progress=False)


if __name__ == "__main__":
    main()
