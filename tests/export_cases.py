"""Calls of exported signatures, in a process that has TensorFlow alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from drawn_checkpoint import write_checkpoint

from kerasdiff import StableDiffusion
from kerasdiff.configs import TINY

HERE = Path(__file__).parent / "runtimes"
PICTURE = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype="uint8")
MASK = np.zeros((32, 32), "uint8")
MASK[:, 12:] = 255


def opened(folder, family, **options):
    """A tiny drawn checkpoint's orchestrator."""
    if not (folder / family).exists():
        write_checkpoint(folder / family, TINY[family])
    return StableDiffusion.from_preset(folder / family, jit_compile=False, **options)


def shorten_texts(folder, length):
    """Gives a checkpoint's folder a tokenizer of fewer tokens than the text encoder can take."""
    path = folder / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"model_max_length": length}))


def tokens(model, *texts, name="tokens"):
    """The token inputs of texts."""
    suffixes = model.config.text_suffixes
    return {
        f"{name}{suffix}": np.stack([getattr(model, f"tokenizer{suffix}").pack(t) for t in texts])
        for suffix in suffixes
    }


def inputs(model, *texts, negative="", seed=5, steps=4, scale=7.5, **more):
    """The inputs of a signature that runs the loop."""
    given = tokens(model, *texts)
    given |= tokens(model, *[negative] * len(texts), name="negative_tokens")
    numbers = {"num_steps": np.int32(steps), "guidance_scale": np.float32(scale)}
    numbers |= {} if seed is None else {"seed": np.int64(seed)}
    return given | numbers | more


def alone(folder, tmp_path, *calls):
    """The outputs of (signature, inputs) each, from a process without kerasdiff and Keras."""
    arrays = {
        f"{i}/{signature}/{name}": value
        for i, (signature, given) in enumerate(calls)
        for name, value in given.items()
    }
    np.savez(tmp_path / "calls.npz", **arrays)
    command = [sys.executable, HERE / "saved_model_alone.py", folder, tmp_path / "calls.npz",
               tmp_path / "out.npz"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(list(map(str, command)), check=True, env=environment, cwd=tmp_path)
    results = [{} for _ in calls]
    for key, value in np.load(tmp_path / "out.npz").items():
        number, _, name = key.partition("/")
        results[int(number)][name] = value
    return results


def same(pictures, expected):
    """Checks uint8 pictures for equality but for rounding."""
    assert pictures.dtype == np.uint8 and pictures.shape == expected.shape
    assert expected.std() > 10
    assert np.abs(pictures.astype(int) - expected).max() <= 1


def settings(seed=5, steps=4, scale=7.5, **more):
    """Python's options of `inputs`."""
    return {"seed": seed, "num_steps": steps, "unconditional_guidance_scale": scale} | more
