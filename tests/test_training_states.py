"""States of trainers, written and read again."""

import keras
import numpy as np
import pytest
from training_cases import CONFIG, diffusion_batch, networks

from kerasdiff.checkpoints.safetensor_files import read_safetensors
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.training import checkpoints
from kerasdiff.training.callbacks import StepCallback
from kerasdiff.training.checkpoints import SaveState, latest, resume, save_state
from kerasdiff.training.diffusion import DiffusionTrainer


def trainer(optimizer):
    network, text_encoder, _, _ = networks()
    trainer = DiffusionTrainer(CONFIG, network, text_encoder)
    trainer.unnamed = keras.layers.Dense(2)
    trainer.unnamed.build((None, 2))
    trainer.compile(optimizer=optimizer, run_eagerly=True)
    return trainer


def variables(trainer):
    return [np.array(v.value) for v in (*trainer.variables, *trainer.optimizer.variables)]


def scaled():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))


@pytest.mark.parametrize("optimizer", [lambda: keras.optimizers.Adam(0.01), scaled])
def test_a_state_is_read_by_the_next_trainer_of_the_same_process(tmp_path, optimizer):
    """As in a notebook: the next optimizer's name ends in another number."""
    first = trainer(optimizer())
    resume(first, tmp_path)
    for _ in range(2):
        first.train_on_batch(diffusion_batch())
    save_state(first, tmp_path / "step-00000002.safetensors")
    second = trainer(optimizer())
    for own in (lambda trainer: trainer.unnamed, lambda trainer: trainer.optimizer):
        assert own(first).variables[0].path != own(second).variables[0].path
    assert resume(second, tmp_path) == 2
    for ours, theirs in zip(variables(second), variables(first), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_state_of_another_optimizer_is_refused(tmp_path):
    first = trainer(keras.optimizers.Adam(0.01))
    resume(first, tmp_path)
    save_state(first, tmp_path / "step-00000001.safetensors")
    with pytest.raises(CheckpointError, match="is not of this trainer: expected optimizer/"):
        resume(trainer(keras.optimizers.SGD(0.01, momentum=0.9)), tmp_path)


def test_processes_at_different_steps_load_nothing(tmp_path, monkeypatch):
    model = line()
    resume(model, tmp_path)
    save_state(model, tmp_path / "step-00000004.safetensors")
    model.layers[0].kernel.assign([[7.0]])
    monkeypatch.setattr(checkpoints, "of_all_processes", lambda step: [step, 2, 4])
    message = "order 4, 2, 4: copy that of step 4 into each .*, or remove all after step 2"
    with pytest.raises(ValueError, match=message):
        resume(model, tmp_path)
    assert float(model.layers[0].kernel[0, 0]) == 7.0
    monkeypatch.setattr(checkpoints, "of_all_processes", lambda step: [step, 4])
    assert resume(model, tmp_path) == 4
    assert float(model.layers[0].kernel[0, 0]) != 7.0


def test_the_last_states_stay_and_what_was_cut_off_before_them_goes(tmp_path):
    saving = SaveState(tmp_path, keep=2)
    saving.set_model(trainer(keras.optimizers.Adam(0.01)))
    for step in (1, 4):  # the second may be another process' own
        (tmp_path / f".step-{step:08d}.safetensors.1-a.part").write_bytes(b"cut off")
    for saving.step in (2, 3, 4):
        saving.save()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".step-00000004.safetensors.1-a.part",
        "step-00000003.safetensors",
        "step-00000004.safetensors",
    ]


def test_copies_of_other_names_stay_and_do_not_count(tmp_path):
    saving = SaveState(tmp_path, keep=1)
    saving.set_model(line())
    copies = ["step-00000001 (copy).safetensors", "step-best.safetensors"]
    for copy in copies:
        (tmp_path / copy).touch()
    for saving.step in (1, 2):
        saving.save()
    assert {path.name for path in tmp_path.iterdir()} == {*copies, "step-00000002.safetensors"}


def line(use_ema=False):
    """A model of two weights, compiled."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.1, use_ema=use_ema, ema_momentum=0.5)
    model.compile(optimizer, "mse", run_eagerly=True)
    return model


def fit(model, steps, *callbacks, **options):
    """So many steps an epoch."""
    dataset = keras.utils.PyDataset
    batches = type("Batches", (dataset,), {
        "num_batches": None, "__getitem__": lambda self, i: (np.ones((1, 1)), np.ones((1, 1)))
    })()  # fmt: skip
    model.fit(
        batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=callbacks, **options
    )


def steps_in(folder):
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.iterdir())


def test_a_folder_with_later_states_is_refused_and_stays_as_it_is(tmp_path):
    for step in (1000, 2000):
        (tmp_path / f"step-{step:08d}.safetensors").write_bytes(b"another run's")
    with pytest.raises(ValueError, match="step-00002000.*later than step 0, .*`resume`"):
        fit(line(), 1, SaveState(tmp_path, every=1))
    with pytest.raises(ValueError, match="step-00002000.*later than step 1999, "):
        fit(line(), 1, SaveState(tmp_path, every=1, start=1999))
    assert steps_in(tmp_path) == [1000, 2000]


def test_states_may_go_on_within_their_folder(tmp_path):
    model, saving = line(), SaveState(tmp_path, every=1, keep=2)
    fit(model, 2, saving)
    fit(model, 1, saving)  # the same callback, which has counted
    fit(model, 1, SaveState(tmp_path, every=1, start=resume(model, tmp_path)))
    assert steps_in(tmp_path) == [3, 4]


# When is every so many steps


class Steps(StepCallback):
    """Keeps the steps at which it acts."""

    def __init__(self, every, **options):
        super().__init__(every, **options)
        self.steps = []

    def act(self, logs):
        self.steps.append((self.step, "loss" in logs))


class Stop(keras.callbacks.Callback):
    """Ends training at a batch or an epoch, or by an error, counted from 0."""

    def __init__(self, batch=None, epoch=None, error=None):
        super().__init__()
        self.batch, self.epoch, self.error = batch, epoch, error

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.error:
            raise KeyboardInterrupt
        if batch == self.batch:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.model.stop_training = True


def test_the_ends_of_epochs_do_not_count(tmp_path):
    few, many = Steps(20), Steps(4, batches=2, start=7)
    fit(line(), 10, few, many, SaveState(tmp_path, every=20, keep=9), epochs=5)
    assert few.steps == [(20, True), (40, True), (50, True)]
    assert [step for step, _ in many.steps] == [8, 12, 16, 20, 24, 28, 32]
    assert steps_in(tmp_path) == [20, 40, 50]


@pytest.mark.parametrize("ends", [{"batch": 2}, {"epoch": 1}])
@pytest.mark.parametrize("before", [True, False])
def test_the_step_before_training_was_stopped_is_the_last(tmp_path, ends, before):
    steps, last = Steps(100), 3 if "batch" in ends else 10
    callbacks = [steps, SaveState(tmp_path, every=100)]
    callbacks.insert(0 if before else 2, Stop(**ends))
    fit(line(), 5, *callbacks, epochs=4)
    assert steps.steps == [(last, True)] and steps_in(tmp_path) == [last]


def test_after_an_error_nothing_is_done(tmp_path):
    steps = Steps(2)
    with pytest.raises(KeyboardInterrupt):
        fit(line(), 5, steps, SaveState(tmp_path, every=2), Stop(error=2))
    assert steps.steps == [(2, True)] and steps_in(tmp_path) == [2]


@pytest.mark.parametrize("ends", [{}, {"batch": 2}, {"epoch": 0}])
def test_the_last_state_holds_the_weights_and_not_their_averages(tmp_path, ends):
    model = line(use_ema=True)
    fit(model, 3, Stop(**ends), SaveState(tmp_path, every=100))
    average, path = model.layers[0].kernel.numpy(), latest(tmp_path)[0]
    state = {name.split("/", 2)[2]: np.array(t) for name, t in read_safetensors(path).items()}
    kernel, kept = (state[n] for n in sorted(state) if "kernel" in n)
    assert np.abs(kernel - average).max() > 1e-3
    np.testing.assert_array_equal(kept, average)


def test_averages_are_never_written_as_weights(tmp_path):
    with pytest.warns(UserWarning, match="state of step 5, the last, is not written"):
        fit(line(use_ema=True), 5, SaveState(tmp_path, every=2, keep=9), Stop(epoch=0), epochs=2)
    assert steps_in(tmp_path) == [2, 4]
