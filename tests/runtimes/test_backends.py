"""Backends, compiled or not, make one picture; bfloat16 one near it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stable_diffusion_cases import tiny_checkpoint

TESTS = Path(__file__).parents[1]
PROGRAM = Path(__file__).with_name("backend_picture.py")
BFLOAT16_MEAN = 4.0  # of 255: what rounding to 8 bits costs this wild network over three steps

REFUSED = {
    "{'dtype': 'float16'}": 'on OpenVINO `dtype` must be "float32" or "bfloat16", not "float16"',
    "{'memory': 'low'}": "on OpenVINO `memory` must be",
}

folder = pytest.fixture(tiny_checkpoint, scope="module")


def backend_picture(folder, tmp_path, backend, jit_compile, dtype="float32"):
    out = tmp_path / f"{backend}-{jit_compile}-{dtype}.npz"
    done = subprocess.run(
        [sys.executable, PROGRAM, out, folder, str(jit_compile), dtype],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(out))


def test_backends_xla_and_bfloat16_agree(folder, tmp_path):
    """Each run also assigns a variable: another picture, and nothing traced again."""
    reference = backend_picture(folder, tmp_path, "tensorflow", True)
    others = [("tensorflow", False)]
    others += [(name, True) for name in ("jax", "openvino") if importlib.util.find_spec(name)]
    for backend, jit_compile in others:
        got = backend_picture(folder, tmp_path, backend, jit_compile)
        scale = np.abs(reference["latents"]).max()
        assert np.abs(got["latents"] - reference["latents"]).max() / scale < 1e-4
        assert np.abs(got["pixels"].astype(int) - reference["pixels"]).max() <= 1
    for backend in ("tensorflow", "openvino"):
        half = backend_picture(folder, tmp_path, backend, False, "bfloat16")
        difference = np.abs(half["pixels"].astype(int) - reference["pixels"])
        assert 0 < difference.mean() < BFLOAT16_MEAN


IMPORTS = """
import importlib, pkgutil, kerasdiff
for module in pkgutil.walk_packages(kerasdiff.__path__, "kerasdiff."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


@pytest.mark.parametrize("backend", ("tensorflow", "jax", "openvino"))
def test_importing_anything_warns_of_nothing(backend):
    pytest.importorskip(backend)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", IMPORTS],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-3000:]


ON_JAX = """
import keras, numpy as np
from model_cases import *
from kerasdiff.backend import Program
assert keras.backend.backend() == "jax"
golden, ids = np.load("golden/models.npz"), tokens("clip-l")
runs = {
    "unet/controlnet/0": (DiffusionModel(UNETS["controlnet"][0]), unet_inputs("controlnet")),
    "autoencoder/two/1": (ImageEncoder(AUTOENCODERS["two"]), picture("two")),
    "autoencoder/two/2": (Decoder(AUTOENCODERS["two"]), latents("two")),
    "text/clip-l/0": (TextEncoder(TEXTS["clip-l"]), [ids, np.arange(ids.shape[1])[None]]),
}
outputs = {key: Program(fill(model), model, True)(inputs) for key, (model, inputs) in runs.items()}
print(max(error(np.asarray(output), golden[key]) for key, output in outputs.items()))
"""


def on_jax(*command, cwd=None):
    """What a Python command writes, on the JAX backend."""
    path = os.pathsep.join([str(TESTS.parent), *sys.path])
    jax = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *command], env=os.environ | jax, cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="jax is not installed")
def test_networks_give_the_reference_s_numbers_on_jax():
    assert float(on_jax("-c", ON_JAX, cwd=TESTS).split()[-1]) < 2e-5  # of the largest value


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="jax is not installed")
def test_products_are_right_on_jax():
    on_jax("-m", "pytest", "-q", TESTS / "test_products.py")


def on_openvino(*command):
    """The last line on standard error of a Python command that fails."""
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, "KERAS_BACKEND": "openvino"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("options", REFUSED)
def test_openvino_refuses_what_it_gets_wrong(folder, options):
    pytest.importorskip("openvino")
    code = f"""
import sys
from kerasdiff import StableDiffusion
StableDiffusion.from_preset(sys.argv[1], **{options}).text_to_image("a", num_steps=1)
"""
    assert REFUSED[options] in on_openvino("-c", code, folder)


def test_openvino_does_not_train(tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "pictures").mkdir()
    text = (
        'kind = "diffusion"\nmodel = "demo"\noutput = "out"\nsteps = 1\n[data]\nfolder = "pictures"'
    )
    (tmp_path / "my.toml").write_text(text)
    code = "import sys; from kerasdiff.cli import main; sys.exit(main())"
    error = on_openvino("-c", code, "train", str(tmp_path / "my.toml"))
    assert (
        error == "kerasdiff: error: OpenVINO does not train: set KERAS_BACKEND to tensorflow or jax"
    )
