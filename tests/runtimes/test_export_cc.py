"""The example in C++ makes Python's picture from a SavedModel, without Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stable_diffusion_cases import tiny_checkpoint, tiny_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "saved_model_cc"
PROMPT = "A red house, and the lighthouse's 25 windows! ##"  # merges of # are no comments

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")


@pytest.fixture(scope="module")
def paint(tmp_path_factory):
    """A function that runs the built program."""
    folder = tmp_path_factory.mktemp("build")
    for name in ("paint.cc", "tokenizer.h", "Makefile"):
        shutil.copy(EXAMPLE / name, folder)
    subprocess.run(["make", "-s", f"PYTHON={sys.executable}"], cwd=folder, check=True)

    def run(*arguments):
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [folder / "paint", *arguments]
        return subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True
        )

    return run


folder = pytest.fixture(tiny_checkpoint, scope="module")
model = pytest.fixture(tiny_model, scope="module")


@pytest.fixture(scope="module")
def sampler(model, tmp_path_factory):
    return model.export(
        tmp_path_factory.mktemp("export") / "sampler", tasks=["text_to_image"], max_steps=4,
        jit_compile=True,
    )  # fmt: skip


def test_the_picture_is_pythons(paint, sampler, model, tmp_path):
    done = paint(sampler, PROMPT, tmp_path / "out.ppm", 7, 4, 5.5)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out.ppm") as image:
        pixels = np.asarray(image, int)
    expected = model.text_to_image(PROMPT, "", seed=7, num_steps=4,
                                   unconditional_guidance_scale=5.5)[0]  # fmt: skip
    assert pixels.shape == expected.shape and expected.std() > 10
    assert np.abs(pixels - expected).max() <= 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("missing", "a house", "out.ppm"), "missing/signature.json: cannot be read"),
        (("sampler", "déjà vu", "out.ppm"), "ASCII alone"),
        (("sampler", "word " * 80, "out.ppm"), "the prompt is too long"),
        (("sampler", "a house", "out.ppm", 1, 5), "num_steps must be from 1 to 4"),
        (("sampler",), "usage: paint"),
    ],
)
def test_errors_are_one_line(paint, sampler, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = paint(*(sampler if each == "sampler" else each for each in arguments))
    (line,) = [line for line in done.stderr.splitlines(True) if line.startswith("paint: ")]
    assert done.returncode == 1 and message in line
    assert done.stderr.endswith(line)  # after TensorFlow's own log
    assert not (tmp_path / "out.ppm").exists()
