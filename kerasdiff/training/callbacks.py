"""What one sees of a run: a line of progress, a log, and pictures of the averaged weights."""

import json
import sys
import warnings
from pathlib import Path

import keras
from tqdm import tqdm

from kerasdiff import images
from kerasdiff.compiled_models import NotFiniteError
from kerasdiff.training.averages import averaged


class Log:
    """A file of JSON lines, one a call: {"step": 100, "loss": 0.1, "rate": 1e-05}.

    Args:
        path: of the file; lines are appended, so that after a kill some steps may appear twice.
    """

    def __init__(self, path):
        self.path = Path(path)

    def __call__(self, step, **numbers):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")


class StepCallback(keras.callbacks.Callback):
    """Does something every so many steps, and after the last one, whatever ends training.

    After an error nothing is done.

    Args:
        every: steps between two calls of `act`.
        start: number of steps that were done before `fit`.
        batches: batches a step.
    """

    def __init__(self, every, start=0, batches=1):
        super().__init__()
        self.every, self.step, self.batches = every, start, batches
        self._batch, self._acted = 0, start

    @property
    def is_due(self):
        """Whether steps were taken since it last acted."""
        return self._acted < self.step

    def act(self, logs):
        """What is done after step `self.step`; variables may be read and assigned."""
        raise NotImplementedError

    def on_train_batch_end(self, batch, logs=None):
        self._batch += 1
        if self._batch % self.batches:
            return
        self.step += 1
        if self.step % self.every == 0:
            self._act(logs)

    def on_epoch_end(self, epoch, logs=None):
        # Not in `on_train_end`, when Keras has put averages in the weights' place.
        if self.model.stop_training or epoch + 1 == (self.params or {}).get("epochs"):
            self._act(logs)

    def on_train_end(self, logs=None):
        self._act(logs)  # where a callback after this one ended training with the epoch

    def _act(self, logs):
        if self.is_due:
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()  # while training, variables are elsewhere
            self.act(logs or {})
            self._acted = self.step


class Progress(StepCallback):
    """One line: how far, how fast, how long still, loss and rate.

    The loss is the mean since the line last changed or the epoch began.

    Args:
        steps: of the whole run.
        rate: function of a number of batches that gives the learning rate.
        log: function of step, loss and rate, such as a `Log`; or None.
        shown: False only logs.
        every, start, batches: see `StepCallback`.
    """

    def __init__(self, steps, rate, log=None, shown=True, every=10, start=0, batches=1):
        super().__init__(every, start, batches)
        self.rate, self.log = rate, log
        terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=steps, initial=start, unit="step", disable=not shown, dynamic_ncols=terminal,
            mininterval=0.5 if terminal else 30.0, smoothing=0.05,
        )  # fmt: skip

    def act(self, logs):
        loss = float(logs["loss"])
        rate = float(self.rate(max(self.step * self.batches - 1, 0)))
        self.bar.set_postfix_str(f"loss {loss:.4g}, rate {rate:.2e}", refresh=False)
        self.bar.update(self.step - self.bar.n)
        self.model.reset_metrics()  # Keras' mean runs from the beginning of the epoch
        if self.log is not None:
            self.log(self.step, loss=loss, rate=rate)

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        self.close()

    def close(self):
        """Ends the line."""
        self.bar.close()


class SampleGrid(StepCallback):
    """Pictures of a few prompts with the averaged weights, as `step-00001000.png`.

    A decoder that gives no finite picture is a warning, not the end of the run.

    Args:
        pipeline: a `StableDiffusion` whose `diffusion_model` and `text_encoder` are those that
            train.
        prompts: one picture each.
        folder: for the files; made if missing; None writes none: of several processes all must
            draw, see `devices.distribute`, and one writes.
        score: function of pictures (B, H, W, 3) uint8, in the order of the prompts, that gives a
            dict of numbers, which are logged; or None.
        log: function of step and numbers by name, such as a `Log`; or None.
        every, start, batches: see `StepCallback`.
        **options: of `text_to_image`, such as `num_steps` and `seed`.
    """

    def __init__(
        self, pipeline, prompts, folder, every=1000, start=0, batches=1, score=None, log=None,
        **options,
    ):  # fmt: skip
        super().__init__(every, start, batches)
        if not prompts:
            raise ValueError("`prompts` is empty: there is nothing to draw")
        self.pipeline, self.prompts, self.folder = pipeline, list(prompts), folder
        self.score, self.log, self.options = score, log, options
        if folder is not None:
            self.folder = Path(folder)
            self.folder.mkdir(parents=True, exist_ok=True)

    def act(self, logs):
        try:
            with averaged(self.model):
                pictures = self.pipeline.text_to_image(self.prompts, progress=False, **self.options)
        except NotFiniteError as error:
            warnings.warn(f"no samples after step {self.step}: {error}", stacklevel=2)
            return
        if self.folder is not None:
            grid = images.grid(pictures, self.prompts)
            images.save_png(self.folder / f"step-{self.step:08d}.png", grid)
        if self.score is not None and self.log is not None:
            self.log(self.step, **{name: float(n) for name, n in self.score(pictures).items()})
