"""Several devices and several processes train as one process does with the same batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from training_cases import table, write_toml

from kerasdiff.checkpoints.checkpoint import open_checkpoint
from kerasdiff.checkpoints.safetensor_files import read_safetensors
from kerasdiff.training.devices import distribute

PROGRAM = Path(__file__).with_name("distributed_run.py")


def on_devices(count):
    """The environment of a process with so many logical devices."""
    return {
        "KERAS_BACKEND": "jax",
        "CUDA_VISIBLE_DEVICES": "",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
    }


def start(output, processes=1, index=0, port=0, devices=1):
    """A process of the training, on so many logical devices."""
    return python(PROGRAM, output, processes, index, port, devices=devices)


def python(*command, devices=1):
    command = [sys.executable, *map(str, command)]
    environment = os.environ | on_devices(devices)
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait(process):
    try:
        said, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, said.decode()[-3000:]


def finish(process, output):
    wait(process)
    return np.load(output)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    output = tmp_path_factory.mktemp("alone") / "run.npz"
    return output, finish(start(output), output)


def assert_same(run, alone):
    _, alone = alone
    np.testing.assert_allclose(run["losses"], alone["losses"], rtol=2e-6)
    # Adam divides by gradients' sizes: where they are next to nothing, sums in another order show.
    change = np.abs(run["weights"] - alone["weights"])
    assert change.max() < 1e-4 and change.mean() < 1e-6


def states(output):
    """Weights after two and four steps, as they were saved."""
    for step in (2, 4):
        tensors = read_safetensors(output.with_suffix("") / f"step-{step:08d}.safetensors")
        names = [name for name in tensors if name.startswith("model/")]
        names.sort(key=lambda name: int(name.split("/")[1]))  # "model/3/..." is the fourth
        yield np.concatenate([np.ravel(tensors[name]) for name in names])


def test_states_hold_the_weights_of_their_step(alone):
    output, run = alone
    (early, late), last = states(output), run["weights"]
    assert len(early) == len(late) == len(last)
    # What is left in the end are the averages, which have hardly left where training began.
    assert 0 < np.abs(early - last).mean() < np.abs(late - last).mean() < 1e-2


def test_two_devices_train_as_one_does(alone, tmp_path):
    output = tmp_path / "run.npz"
    run = finish(start(output, devices=2), output)
    assert run["devices"] == 2
    assert_same(run, alone)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_two_processes_train_as_one_does(alone, tmp_path):
    port = free_port()
    outputs = [tmp_path / f"{i}.npz" for i in range(2)]
    processes = [start(outputs[i], 2, i, port) for i in range(2)]
    runs = [finish(*each) for each in zip(processes, outputs, strict=True)]
    for run in runs:
        assert run["devices"] == 2
        assert_same(run, alone)
    np.testing.assert_array_equal(runs[0]["weights"], runs[1]["weights"])


RESUME = """
import sys, keras
from kerasdiff.training import distribute, resume
folder, index, port = sys.argv[1:]
distribute(f"127.0.0.1:{port}", 2, int(index))
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
resume(model, folder)
"""


def test_processes_that_would_go_on_from_different_steps_say_so(tmp_path):
    port, processes = free_port(), []
    for i, steps in enumerate([(2, 4), (2,)]):
        (tmp_path / f"{i}").mkdir()
        for step in steps:
            (tmp_path / f"{i}/step-{step:08d}.safetensors").touch()
        processes.append(python("-c", RESUME, tmp_path / f"{i}", i, port))
    for process in processes:
        with pytest.raises(AssertionError, match="different steps, in their order 4, 2: copy"):
            wait(process)


def test_two_processes_train_a_checkpoint_by_the_command(tmp_path):
    content = table(
        tmp_path, steps=1, train=["unet.*conv_out"], samples__prompts=["a"], samples__steps=2
    )
    path = write_toml(tmp_path / "a.toml", content)
    command = ["-m", "kerasdiff", "train", path, "--coordinator", f"127.0.0.1:{free_port()}"]
    processes = [python(*command, "--processes", 2, "--index", i) for i in range(2)]
    for process in processes:
        wait(process)
    start, result = (open_checkpoint(tmp_path / name).parts for name in ("model", "result"))
    assert np.abs(result["unet"]["conv_out.weight"] - start["unet"]["conv_out.weight"]).max() > 0
    assert (tmp_path / "result-training/samples/step-00000001.png").exists()


def test_a_dry_run_tells_that_devices_cannot_share_a_batch(tmp_path):
    path = write_toml(tmp_path / "config.toml", table(tmp_path, batch_size=6))
    command = [sys.executable, "-m", "kerasdiff", "train", str(path), "--dry-run"]
    run = subprocess.run(command, env=os.environ | on_devices(4), capture_output=True, text=True)
    assert run.returncode == 2
    assert "`batch_size` must be a multiple of 4" in run.stderr and "Traceback" not in run.stderr


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="refused on other backends")
def test_another_backend_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
        distribute()
