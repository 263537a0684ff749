"""A run's state in files, for exact resume: weights, optimizer, averages and step.

Noise and order of the data follow from the step (see `batches`), so that nothing else needs
keeping. Each file is one safetensors file that appears whole or not at all.
"""

import re
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np

from kerasdiff.backend import of_all_processes
from kerasdiff.checkpoints.safetensor_files import read_safetensors, write_safetensors
from kerasdiff.checkpoints.tensors import CheckpointError, Tensors
from kerasdiff.training.averages import has_averages
from kerasdiff.training.callbacks import StepCallback

_NAME = re.compile(r"step-(\d{8})\.safetensors")
_COUNT = re.compile(r"_\d+(?=[/_])")


def save_state(trainer, path):
    """Writes all variables of a compiled trainer and its optimizer.

    Raises:
        CheckpointError: if the file cannot be written (a full disk); what was there stays.
        FloatingPointError: if a variable is not finite: such a state is of no use.
    """
    tensors = {name: np.asarray(variable.value) for name, variable in _variables(trainer).items()}
    for name, array in tensors.items():
        if not np.all(np.isfinite(array)):
            raise FloatingPointError(f"{path}: is not written: {name} holds NaN or infinity")
    write_safetensors(path, Tensors.of(tensors, source="state of training"), {"format": "pt"})


def load_state(trainer, path):
    """Assigns what `save_state` wrote to a trainer that was made and compiled the same way.

    Raises:
        CheckpointError: if the file is damaged, or of another trainer or optimizer.
    """
    # Keras ends a name that it gives in a number that counts all that the process has made:
    # "adam_3/iteration".
    tensors = read_safetensors(path)
    entries = {_COUNT.sub("", name): entry for name, entry in tensors.entries.items()}
    tensors = tensors.with_entries(entries)
    variables = {_COUNT.sub("", name): v for name, v in _variables(trainer).items()}
    for name, variable in variables.items():
        if name not in tensors or tuple(tensors.shapes[name]) != tuple(variable.shape):
            found = tensors.shapes[name] if name in tensors else "nothing"
            raise CheckpointError(
                f"{path}: is not of this trainer: expected {name} of shape "
                f"{tuple(variable.shape)}, found {found}"
            )
    if len(tensors) != len(variables):
        raise CheckpointError(
            f"{path}: is not of this trainer: holds {len(tensors)} tensors, not {len(variables)}"
        )
    for name, variable in variables.items():
        variable.assign(tensors[name])


def latest(folder):
    """The newest state in a folder and its step, or (None, 0)."""
    found = _states(folder)
    return (found[-1], int(_NAME.fullmatch(found[-1].name)[1])) if found else (None, 0)


def _states(folder):
    """The paths of the states in a folder by their steps; copies of other names are the user's."""
    found = Path(folder).glob("step-*.safetensors")
    return sorted(path for path in found if _NAME.fullmatch(path.name))


def resume(trainer, folder):
    """Loads the newest state in a folder, if there is one, and tells its step.

    Of several processes (see `devices.distribute`) each must call it.

    Raises:
        ValueError: if processes with folders of their own were killed between two states, so that
            not all would go on from the same step.
        CheckpointError: see `load_state`.
    """
    _build(trainer)  # a step would put its name scope into the variables' names
    path, step = latest(folder)
    steps = of_all_processes(step)
    if len(set(steps)) > 1:
        raise ValueError(
            f"{folder}: the processes' last states are of different steps, in their order "
            f"{', '.join(map(str, steps))}: copy that of step {max(steps)} into each one's folder, "
            f"or remove all after step {min(steps)}"
        )
    if path:
        load_state(trainer, path)
    return step


class SaveState(StepCallback):
    """Writes the state every so many steps and after the last one, and stops at a broken loss.

    What may end training with an epoch, such as `EarlyStopping`, must come before it in the list of
    callbacks: later, Keras has put averages in the weights' place, and nothing is written but a
    warning.

    Args:
        folder: for `step-00001000.safetensors` and so on; made if missing.
        every: steps between two files.
        start: number of steps that were done before `fit`.
        keep: files that stay.
        accumulate: batches an update, where an error is to count updates; all else, the files'
            names too, counts batches.

    Raises:
        ValueError: when training begins, if the folder holds a later state: of another run, or of
            this one, not resumed. By its number it would stay, and those of this run would go.
        FloatingPointError: when the loss is NaN or infinite: names the step and the last good
            file, which is not overwritten.
    """

    def __init__(self, folder, every=1000, start=0, keep=2, accumulate=1):
        super().__init__(every, start)
        self.folder, self.keep, self.accumulate = Path(folder), keep, accumulate
        self.folder.mkdir(parents=True, exist_ok=True)

    def on_train_begin(self, logs=None):
        path, step = latest(self.folder)
        if step > self.step:
            raise ValueError(
                f"{path}: is later than step {self.step}, where this training begins: go on from "
                "it with `resume`, whose step is `start`, or take another folder"
            )

    def on_train_batch_end(self, batch, logs=None):
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss):
            path, _ = latest(self.folder)
            raise FloatingPointError(
                f"the loss is {loss} at step {self.step // self.accumulate + 1}: lower the rate or "
                f"clip gradients; the last good state is {path or 'none'}"
            )
        super().on_train_batch_end(batch, logs)

    def on_train_end(self, logs=None):
        if not has_averages(self.model):
            super().on_train_end(logs)
        elif self.is_due:
            warnings.warn(
                f"the state of step {self.step}, the last, is not written: averages are in the "
                "weights' place. Name SaveState after the callback that ended training",
                stacklevel=2,
            )

    def act(self, logs):
        self.save()

    def save(self):
        """Writes the state of this step and removes older ones than `keep`."""
        save_state(self.model, self.folder / f"step-{self.step:08d}.safetensors")
        states = _states(self.folder)
        first = states[-self.keep :][0].name
        # Of older steps a process that was killed left what it was writing.
        cut_off = [path for path in self.folder.glob(".step-*.part") if path.name[1:] < first]
        for path in states[: -self.keep] + cut_off:
            with suppress(OSError):  # another process may share the folder
                path.unlink()


def _variables(trainer):
    """Every variable that a run changes, by a name that says whose it is."""
    optimizer = _build(trainer)
    metrics = {id(variable) for metric in trainer.metrics for variable in metric.variables}
    own = [variable for variable in trainer.variables if id(variable) not in metrics]
    return {
        f"{owner}/{i}/{variable.path}": variable
        for owner, variables in (("model", own), ("optimizer", optimizer.variables))
        for i, variable in enumerate(variables)
    }


def _build(trainer):
    """The optimizer, with its variables made."""
    if not trainer.optimizer.built:
        trainer.optimizer.build(trainer.trainable_variables)
    return trainer.optimizer
