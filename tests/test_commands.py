"""The command line: each command and option reaches what it is for."""

import os
import subprocess
import sys

import numpy as np
import pytest
from cli_cases import runner, small_folder
from PIL import Image

from kerasdiff.cli import main

pytestmark = pytest.mark.usefixtures("uncompiled")


folder = pytest.fixture(small_folder, scope="module")
run = pytest.fixture(runner)


def test_a_grid_of_what_the_model_draws(folder, tmp_path, capsys):
    target = tmp_path / "demo.png"
    assert main(["demo", "--count", "2", "--model", str(folder), "-o", str(target)]) == 0
    with Image.open(target) as image:
        captions = image.text["parameters"].splitlines()
        assert len(captions) == 2 and image.width > 2 * 64
    assert capsys.readouterr().out.splitlines() == [*captions, str(target)]
    assert main(["demo", "--count", "0", "-o", str(target)]) == 2
    assert "--count must be from 1" in capsys.readouterr().err


def test_words_that_the_small_model_does_not_know_are_told(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "kerasdiff.stable_diffusion.StableDiffusion.text_to_image",
        lambda *arguments, **options: np.zeros((1, 8, 8, 3), "uint8"),
    )
    for prompt, told in (("a red house and a Cat", "does not know: Cat."), ("A red house", "")):
        assert main([prompt, "-o", str(tmp_path / "out.png")]) == 0
        err = capsys.readouterr().err
        assert told in err and bool(told) == bool(err)


def test_a_message_of_python_s_names_options(run, monkeypatch):
    def paint(*arguments, **options):
        raise ValueError("use `inpaint`, `guidance_rescale`; `prompt` and `what` are no options")

    monkeypatch.setattr("kerasdiff.stable_diffusion.StableDiffusion.text_to_image", paint)
    code, said = run("a house")
    told = "use --init and --mask, --guidance-rescale; the prompt and `what` are no options"
    assert code == 2 and said.err == f"kerasdiff: error: {told}\n"


@pytest.mark.parametrize(
    "options, told",
    [
        ((), ("float32", "medium", "auto")),
        (("--dtype", "bfloat16", "--jit"), ("bfloat16", "medium", True)),
        (("--memory", "low", "--no-jit"), ("float32", "low", False)),
    ],
)
def test_the_compiler_is_told_what_memory_and_dtype_are_asked_for(run, monkeypatch, options, told):
    asked = []
    monkeypatch.setattr("kerasdiff.cli.start.import_quietly", lambda **given: asked.append(given))
    monkeypatch.setattr(
        "kerasdiff.stable_diffusion.StableDiffusion.text_to_image",
        lambda *arguments, **options: np.zeros((1, 8, 8, 3), "uint8"),
    )
    assert run("a house", *options)[0] == 0
    assert asked == [dict(zip(("dtype", "memory", "jit_compile"), told, strict=True))]


@pytest.mark.parametrize("before, frozen", [("import gc", True), ("import gc, keras", False)])
def test_a_process_of_its_own_looks_for_no_garbage_in_imports(before, frozen):
    lines = [
        before, "from kerasdiff.cli.start import import_quietly", "import_quietly()",
        "print(gc.get_freeze_count() > 0, gc.isenabled())",
    ]  # fmt: skip
    command = [sys.executable, "-c", "; ".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(frozen), "True"]


def test_the_package_is_the_command(tmp_path):
    command = [sys.executable, "-m", "kerasdiff", "info", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("kerasdiff: error: ")


@pytest.mark.parametrize(
    "option, name, value",
    [
        ("--split-guidance", "split_guidance", True),
        ("--schedule=karras", "schedule", "karras"),
        ("--negative=night", "negative_prompt", "night"),
        ("--guidance-interval=1 2", "guidance_interval", (1.0, 2.0)),
        ("--cache-interval=3", "cache_interval", 3),
    ],
)
def test_options_reach_the_call(run, monkeypatch, option, name, value):
    given = {}

    def paint(*arguments, **options):
        given.update(options)
        return np.zeros((1, 8, 8, 3), "uint8")

    monkeypatch.setattr("kerasdiff.stable_diffusion.StableDiffusion.text_to_image", paint)
    flag, _, numbers = option.partition("=")
    assert run("a red house", flag, *numbers.split())[0] == 0
    assert given[name] == value


@pytest.mark.parametrize("command", ("generate", "export", "convert"))
def test_which_files_are_meant_reaches_the_checkpoint(
    folder, tmp_path, capsys, monkeypatch, command
):
    asked = {}

    def open_none(*arguments, **options):
        asked.update(options)
        raise ValueError("that is all")

    monkeypatch.setattr("kerasdiff.checkpoints.models.find_and_open", open_none)
    monkeypatch.setattr("kerasdiff.checkpoints.save.find_and_open", open_none)
    given = {
        "generate": ["a house", "--model", str(folder)],
        "export": [str(tmp_path / "new"), "--model", str(folder)],
        "convert": [str(folder), str(tmp_path / "new")],
    }[command]
    files = ["--vae", "v", "--variant", "fp16", "--prediction-type", "v_prediction"]
    assert main([command, *given, *files]) == 2 and "that is all" in capsys.readouterr().err
    assert asked == {"vae": "v", "variant": "fp16", "prediction_type": "v_prediction"}


def test_options_of_another_format_are_named_as_they_were_given(folder, tmp_path, capsys):
    given = ["export", str(tmp_path / "new"), "--model", str(folder), "--format", "litert"]
    assert main([*given, "--batch", "2", "--no-jit"]) == 2
    assert "--format litert takes no --batch, --jit or --no-jit" in capsys.readouterr().err


@pytest.mark.parametrize("fixed", (["--size", "32x48"], ["--batch", "4"], ["--batch", "1"]))
def test_an_export_of_any_size_takes_no_size_nor_batch(tmp_path, capsys, fixed):
    assert main(["export", str(tmp_path / "new"), "--free-size", *fixed]) == 2
    assert "--free-size is for any size and batch: it takes no --size or" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_backend_that_is_not_installed_is_named(tmp_path):
    code = "import sys; sys.modules['openvino'] = None; from kerasdiff.cli import main; "
    code += "sys.exit(main(['a house', '-o', sys.argv[1]]))"
    environment = os.environ | {"KERAS_BACKEND": "openvino"}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "out.png"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "KERAS_BACKEND=openvino needs a package: pip install openvino" in done.stderr


def test_a_conversion_is_quiet(folder, tmp_path):
    code = "import sys; from kerasdiff.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "convert", folder, tmp_path / "new"]
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{tmp_path / 'new'}\n", "")


def test_a_picture_that_was_not_made_here_says_so(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    assert main(["info", str(tmp_path / "plain.png")]) == 0
    assert "holds no parameters" in capsys.readouterr().out


def test_a_stop_by_hand_is_told(run, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("kerasdiff.stable_diffusion.StableDiffusion.text_to_image", stop)
    code, said = run("a red house")
    assert code == 130 and said.err.endswith("kerasdiff: stopped\n")
