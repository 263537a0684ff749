"""A run that is killed in the middle, its steps compiled, goes on as if it had not been."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from training_cases import table, tensors, write_toml

from kerasdiff.checkpoints.checkpoint import open_checkpoint
from kerasdiff.checkpoints.safetensor_files import read_safetensors
from kerasdiff.training.checkpoints import latest


def test_a_run_killed_and_resumed_is_the_same_run(tmp_path):
    def start(name, *die):
        content = table(tmp_path, output=str(tmp_path / name), optimizer__accumulate=2)
        path = write_toml(tmp_path / f"{name}.toml", content)
        script = Path(__file__).with_name("training_run.py")
        command = [sys.executable, str(script), str(path), *die]
        # The first process compiles; as with any run of yours, the others take what it kept.
        kept = {"KERASDIFF_KEEP_PROGRAMS": "1", "KERASDIFF_HOME": str(tmp_path / "home")}
        return subprocess.run(command, capture_output=True, env=os.environ | kept).returncode

    assert start("whole") == 0
    assert start("cut", "9") == -signal.SIGKILL  # in the middle of step 5
    assert latest(tmp_path / "cut-training")[1] == 8 and not (tmp_path / "cut").exists()
    assert start("cut") == 0
    whole, cut = open_checkpoint(tmp_path / "whole"), open_checkpoint(tmp_path / "cut")
    for part in ("unet", "text_encoder"):
        for name, tensor in tensors(whole.parts[part]).items():
            np.testing.assert_allclose(cut.parts[part][name], tensor, atol=1e-6, err_msg=name)
    states = [
        read_safetensors(latest(tmp_path / f"{name}-training")[0]) for name in ("whole", "cut")
    ]
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        np.testing.assert_allclose(states[1][name], states[0][name], atol=1e-6, err_msg=name)
