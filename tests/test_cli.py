"""The command line: one clear error, exit code 2, no traceback, no half-written file."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from cli_cases import runner, small_folder
from PIL import Image

import kerasdiff
from kerasdiff.checkpoints.presets import presets
from kerasdiff.cli import main

pytestmark = pytest.mark.usefixtures("uncompiled")


folder = pytest.fixture(small_folder, scope="module")
run = pytest.fixture(runner)
FEW = ("--steps", "2", "--sampler", "ddim", "--seed", "5")


def test_a_prompt_in_a_png_out(run, tmp_path):
    code, said = run("a red house", *FEW, "--size", "96x64")
    assert code == 0, said.err
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (96, 64)
        assert image.text["parameters"] == (
            "a red house\nSteps: 2, Sampler: DDIM, CFG scale: 7.5, Seed: 5, Size: 96x64, "
            f"Model: demo, Version: kerasdiff {kerasdiff.__version__}"
        )
    assert "out.png  seed 5" in said.out


def test_what_else_changes_a_picture_is_kept_in_the_png(run, tmp_path):
    for sampler, eta in (("ddim", "Eta DDIM: 0.3"), ("tcd", "Eta: 0.3")):
        options = ("--steps", "2", "--seed", "5", "--sampler", sampler, "--eta", "0.3")
        assert run("a house", *options, "--guidance-rescale", "0.7")[0] == 0
        with Image.open(tmp_path / "out.png") as image:
            assert image.text["parameters"] == (
                f"a house\nSteps: 2, Sampler: {sampler.upper()}, CFG scale: 7.5, CFG rescale: 0.7, "
                f"Seed: 5, Size: 64x64, Model: demo, {eta}, Version: kerasdiff "
                f"{kerasdiff.__version__}"
            )


def test_a_batch_is_numbered_and_seeded(run, tmp_path):
    assert run("a red house", *FEW, "--batch", "2")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-1.png", "out-2.png"]
    assert run("a red house", "--steps", "2", "--sampler", "ddim", "--seed", "6")[0] == 0
    second, alone = (np.asarray(Image.open(tmp_path / name)) for name in ("out-2.png", "out.png"))
    assert np.abs(second.astype(int) - alone).max() <= 1


def test_image_to_image_and_inpainting(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype="uint8")
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    Image.fromarray(np.eye(64, 96, dtype="uint8") * 255).save(tmp_path / "mask.png")
    photo = ("--init", str(tmp_path / "photo.png"))
    assert run("a house", *FEW, *photo, "--strength", "0.5")[0] == 0
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (96, 64)
        assert "Denoising strength: 0.5" in image.text["parameters"]
    masked = (*photo, "--mask", str(tmp_path / "mask.png"))
    assert run("a house", *FEW, *masked, "--no-overlay")[0] == 0
    kept = np.eye(64, 96) == 0
    assert (np.asarray(Image.open(tmp_path / "out.png")) != pixels)[kept].any()
    assert run("a house", *FEW, *masked)[0] == 0
    painted = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_array_equal(painted[kept], pixels[kept])
    assert (painted != pixels)[~kept].any()


def test_economies_reach_the_model(run, tmp_path):
    few = ("a house", *FEW, "--no-jit")
    assert run(*few)[0] == 0
    exact = np.asarray(Image.open(tmp_path / "out.png")).astype(int)
    for option, told, same in (
        (("--memory", "low"), "Model: demo, Version", True),
        (("--tile", "32"), "Tile: 32", False),
        (("--dtype", "bfloat16"), "Precision: bfloat16", False),
        (("--vae", "demo"), "VAE: demo", False),
        (("--int8",), "Weights: int8", False),
        (("--token-merging", "0.5"), "Token merging ratio: 0.5", False),
        (("--guidance-interval", "0", "1"), "CFG interval: 0 to 1", False),
        (("--cache-interval", "2"), "Cache interval: 2", False),
    ):
        code, said = run(*few, *option)
        assert code == 0, said.err
        with Image.open(tmp_path / "out.png") as image:
            difference = np.abs(np.asarray(image).astype(int) - exact).max()
            assert told in image.text["parameters"]
        assert difference <= 1 if same else difference > 0, option


BAD = {
    "a size that does not fit": (["--size", "100x64"], "--size must be a multiple of 8"),
    "no steps": (["--steps", "0"], "--steps must be"),
    "absurd steps": (["--steps", "100000"], "--steps must be"),
    "an unknown sampler": (["--sampler", "magic"], "magic"),
    "an unknown schedule": (["--schedule", "magic"], "--schedule must be one of leading"),
    "a negative seed": (["--seed", "-1"], "--seed must be"),
    "no pictures": (["--batch", "0"], "--batch must be from 1"),
    "absurdly many pictures": (["--batch", "100000000"], "--batch must be from 1"),
    "a size of nothing": (["--size", "0x0"], "--size must be a positive"),
    "an option that is no number": (["--steps", "many"], "--steps: invalid int value: 'many'"),
    "an unknown option": (["--stepz", "3"], "--stepz"),
    "an unknown dtype": (["--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
    "a missing picture": (["--init", "nowhere.png"], "nowhere.png: cannot be read"),
    "guidance that is no number": (["--guidance", "nan"], "--guidance must be"),
    "eta where it means nothing": (["--sampler", "euler", "--eta", "0.5"], "eta"),
    "a mask without a picture": (["--mask", "mask.png"], "--mask needs --init"),
    "an overlay without a mask": (["--overlay"], "--overlay needs --mask"),
    "a tile that does not fit": (["--tile", "30"], "--tile must be a multiple of 8"),
    "guidance between nothing": (["--guidance-interval", "2", "1"], "--guidance-interval"),
    "strength without a picture": (["--strength", "0.5"], "--strength needs --init"),
}


@pytest.mark.parametrize("arguments, message", BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_line(run, tmp_path, arguments, message):
    code, said = run("a red house", "--steps", "2", *arguments)
    assert code == 2
    assert said.err.startswith("kerasdiff: error: ") and said.err.count("\n") == 1
    assert message in said.err
    assert list(tmp_path.iterdir()) == []


def test_an_autoencoder_alone_is_refused_before_it_is_downloaded(capsys):
    for command in (["a house", "--model"], ["info"]):
        assert main([*command, "sd-vae-ft-mse"]) == 2
        assert "an autoencoder alone: give it as --vae, beside a whole" in capsys.readouterr().err


def test_memory_that_runs_out_is_one_clear_line(run, tmp_path, monkeypatch):
    def run_out(*arguments, **options):
        return np.empty(2**50, "float64")

    monkeypatch.setattr("kerasdiff.stable_diffusion.StableDiffusion.text_to_image", run_out)
    code, said = run("a red house", *FEW)
    assert code == 2 and said.err.startswith("kerasdiff: error: out of memory")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_a_compiler_that_are_not_memory_s_are_not_hidden(run, monkeypatch):
    class JaxRuntimeError(RuntimeError):
        pass

    def fail(*arguments, **options):
        raise JaxRuntimeError(message)

    monkeypatch.setattr("kerasdiff.stable_diffusion.StableDiffusion.text_to_image", fail)
    message = "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"
    code, said = run("a red house", *FEW)
    assert code == 2 and said.err.startswith("kerasdiff: error: out of memory; a smaller --size")
    message = "INVALID_ARGUMENT: no kernel"
    with pytest.raises(JaxRuntimeError, match="no kernel"):
        run("a red house", *FEW)


def test_guidance_that_was_off_is_not_told(run, tmp_path):
    options = ("--guidance", "1", "--negative", "night", "--guidance-rescale", "0.7")
    assert run("a house", *FEW, *options, "--guidance-interval", "0", "5")[0] == 0
    with Image.open(tmp_path / "out.png") as image:
        told = image.text["parameters"]
    assert "night" not in told and "rescale" not in told and "interval" not in told


def test_a_folder_s_name_is_told_whole(folder, tmp_path, run):
    (tmp_path / "sd-v1.5").symlink_to(folder)
    assert run("a house", *FEW, model=tmp_path / "sd-v1.5")[0] == 0
    with Image.open(tmp_path / "out.png") as image:
        assert "Model: sd-v1.5," in image.text["parameters"]


def test_prompts_too_long_say_how_long(run, tmp_path):
    code, said = run("word " * 80, *FEW)
    assert code == 2 and "80" in said.err and "75" in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", (b"", b"hello", b"\x00" * 100, b"PK\x03\x04broken"))
def test_files_that_are_no_checkpoints(run, tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    code, said = run("a red house", model=path)
    assert code == 2 and "model.safetensors" in said.err and said.err.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_unknown_models_are_named(run):
    code, said = run("a red house", model="no-such-model")
    assert code == 2 and "no-such-model" in said.err
    code, said = run("a red house", model="")
    assert code == 2 and "must be a preset's name, a file or a folder, not ''" in said.err


@pytest.mark.parametrize("output", ("missing/out.png", "out.jpg", "."))
def test_outputs_that_cannot_be_written(folder, tmp_path, capsys, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    assert main(["a house", *FEW, "--model", str(folder), "-o", output]) == 2
    assert "--output" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_info_and_convert(folder, tmp_path, capsys):
    assert main(["info", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "sd1" in said and "float32" in said and "unet" in said
    single = tmp_path / "single.safetensors"
    assert main(["convert", str(folder), str(single), "--dtype", "float16"]) == 0
    assert main(["info", str(single)]) == 0
    assert "float16" in capsys.readouterr().out
    assert main(["convert", str(single), str(tmp_path / "back")]) == 0
    assert main(["convert", str(single), str(tmp_path / "x.png")]) == 2
    assert "x.png: .png files are not written" in capsys.readouterr().err
    assert main(["convert", str(single), str(tmp_path / "back")]) == 2
    assert "back" in capsys.readouterr().err


def test_presets_say_what_their_network_predicts(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KERASDIFF_HOME", str(tmp_path))
    known = presets()["sd-v2-1"]
    file = known.file  # as if it had been downloaded
    assert main(["convert", str(folder), str(tmp_path / file)]) == 0
    size = (tmp_path / file).stat().st_size
    small = presets() | {known.name: replace(known, size=size)}
    monkeypatch.setattr("kerasdiff.checkpoints.presets.presets", lambda: small)
    assert main(["info", str(tmp_path / file)]) == main(["info", "sd-v2-1"]) == 0
    said = capsys.readouterr().out
    assert "predicts epsilon (by the config in the file's metadata)" in said
    assert "predicts v_prediction (by the preset sd-v2-1)" in said
    assert main(["info", str(tmp_path / file), "--prediction-type", "sample"]) == 0
    assert "predicts sample (by the argument)" in capsys.readouterr().out
    assert main(["convert", "sd-v2-1", str(tmp_path / "again")]) == 0
    assert main(["info", str(tmp_path / "again")]) == 0
    assert "predicts v_prediction (by the scheduler's config)" in capsys.readouterr().out


def test_info_tells_how_a_picture_was_made(run, tmp_path, capsys):
    run("a red house", *FEW)
    assert main(["info", str(tmp_path / "out.png")]) == 0
    assert "Seed: 5" in capsys.readouterr().out


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out.strip() == kerasdiff.__version__


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "examples:" in said and "--init photo.png" in said


def test_importing_the_package_is_quick_and_quiet():
    code = (
        "import sys, kerasdiff; print([n for n in ('tensorflow', 'keras', 'jax', 'PIL', 'numpy') "
        "if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.stdout == "[]\n" and done.stderr == ""
