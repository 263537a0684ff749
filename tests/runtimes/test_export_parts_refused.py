"""What an export of parts refuses and says, and what its example refuses."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from export_cases import opened

from kerasdiff.export import converters, parts

EXAMPLE = Path(__file__).parents[2] / "examples" / "litert" / "paint.py"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def model(checkpoints):
    return opened(checkpoints, "sd1")


@pytest.mark.parametrize(
    "format, dtype",
    (("litert", "bfloat16"), ("litert", "float16"), ("onnx", "bfloat16"), ("openvino", "bfloat16")),
)
def test_sixteen_bits_that_a_converter_does_not_know_are_refused(
    checkpoints, tmp_path, format, dtype
):
    model = opened(checkpoints, "sd1", dtype=dtype)
    with pytest.raises(ValueError, match=f"{format} cannot be written from a model in {dtype}"):
        model.export(tmp_path / "parts", format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ("litert", "openvino"))
def test_a_converters_error_is_one_line(checkpoints, tmp_path, monkeypatch, format):
    pytest.importorskip(converters.PACKAGES[format])
    monkeypatch.setattr(converters, "HALVES", {})
    model = opened(checkpoints, "sd1", dtype="bfloat16")
    with pytest.raises(ValueError, match="parts: text_encoder cannot be written: ") as caught:
        model.export(tmp_path / "new" / "parts", format, max_steps=1)
    text = str(caught.value).partition("written: ")[2]
    assert 10 < len(text) <= 203 and "\n" not in text and "loc(" not in text
    assert not list(tmp_path.iterdir())


def test_a_converter_that_dies_without_a_word_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "LARGE", 0)
    silent = subprocess.CompletedProcess([], 3, "", "")
    monkeypatch.setattr(converters.subprocess, "run", lambda *_, **__: silent)
    with pytest.raises(ValueError, match="cannot be written: the converter ended with 3"):
        model.export(tmp_path / "parts", "litert", max_steps=1)


@pytest.mark.parametrize("max_steps", (0, -1, 1001, True, 2.5, None))
def test_steps_that_are_no_number_of_them_are_refused(model, tmp_path, max_steps):
    with pytest.raises(ValueError, match="`max_steps` must be a whole number from 1 to 1000"):
        model.export(tmp_path / "parts", "litert", max_steps=max_steps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ("litert", "onnx"))
def test_a_part_beyond_a_files_end_is_refused(model, tmp_path, monkeypatch, format):
    monkeypatch.setattr(parts, "MOST_BYTES", 1_000_000)
    with pytest.raises(ValueError, match=r"text_encoder cannot be written: it has 0\.0 GB, and"):
        model.export(tmp_path / "parts", format, max_steps=1)
    assert not list(tmp_path.iterdir())


SIMPLE = ["latent", "timestep", "context"]
BAD = {
    "too many steps": ({}, "has no table of 3 steps; the most are 2"),
    "SDXL": ({"network": {"diffusion_model": [*SIMPLE, "added_embedding"]}}, "no network of SDXL"),
    "inpainting": ({"in_channels": 9}, "runs no network of SDXL, for inpainting"),
}


@pytest.mark.parametrize("changes, message", BAD.values(), ids=BAD)
def test_the_example_says_what_it_does_not_do(
    model, tmp_path, monkeypatch, capsys, changes, message
):
    spec = importlib.util.spec_from_file_location("paint", EXAMPLE)
    paint = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(paint)
    facts = {"tokens": parts.write_tokenizers(model, tmp_path), "latents": [4, 16, 16]}
    facts |= {"steps": {"1": {}, "2": {}}, "network": {"diffusion_model": SIMPLE}}
    facts |= {"in_channels": 4} | changes
    (tmp_path / "sampler.json").write_text(json.dumps(facts))
    arguments = [str(tmp_path), "a house", str(tmp_path / "out.png"), "--steps", "3"]
    monkeypatch.setattr(sys, "argv", ["paint.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        paint.main()
    error = capsys.readouterr().err
    assert caught.value.code == 1 and message in error and error.count("\n") == 1
