"""Steps of training are the same on both backends, compiled and recomputed or not."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """Three steps on both backends, compiled and not, with and without recomputation."""
    folder, results = tmp_path_factory.mktemp("steps"), {}
    script = Path(__file__).parents[1] / "training_steps.py"
    for backend, names in (
        ("tensorflow", ["plain", "jit+remat"]),
        ("jax", ["jit+remat"]),
    ):
        environment = os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
        path = folder / f"{backend}.npz"
        subprocess.run(
            [sys.executable, str(script), str(path), *names], check=True, env=environment
        )
        for key, array in np.load(path).items():
            variant, _, name = key.partition("/")
            results.setdefault((backend, variant), {})[name] = array
    return results


@pytest.mark.parametrize(
    "variant",
    [("tensorflow", "jit+remat"), ("jax", "jit+remat")],
    ids="-".join,
)
def test_steps_do_not_depend_on_how_they_are_computed(variants, variant):
    expected, got = variants["tensorflow", "plain"], variants[variant]
    assert expected.keys() == got.keys() and len(got) > 100
    for name, array in expected.items():
        scale = max(np.abs(array).max(), 0.1)
        np.testing.assert_allclose(got[name], array, atol=2e-5 * scale, rtol=0, err_msg=name)
    losses = expected["diffusion/losses"]
    assert len(set(losses.tolist())) == len(losses) and np.isfinite(losses).all()
