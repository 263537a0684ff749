"""The README.txt beside a SavedModel: its example runs with TensorFlow alone."""

import json
import re
import subprocess
import sys
from textwrap import dedent

import numpy as np
import pytest
from export_cases import HERE, opened, same, settings

from kerasdiff.export.readme import PROMPT


def ran(folder, tmp_path):
    """The pictures of the README's example."""
    readme = (folder / "README.txt").read_text()
    code = re.search(r"\n\n((    .*\n|\n)+)\n", readme)[1]
    (tmp_path / "example.py").write_text(dedent(code))
    command = [sys.executable, HERE / "readme_alone.py", tmp_path / "example.py",
               tmp_path / "images.npy"]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True, cwd=folder)
    return np.load(tmp_path / "images.npy")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


def test_the_example_of_a_fixed_size(checkpoints, tmp_path):
    model = opened(checkpoints, "sd1")
    folder = model.export(
        tmp_path / "sampler", tasks=["text_to_image"], batch_size=2, max_steps=3, schedule="karras",
        sampler="euler", jit_compile=False,
    )  # fmt: skip
    expected = model.text_to_image(
        [PROMPT] * 2, "", **settings(1, 3), schedule="karras", sampler="euler"
    )
    same(ran(folder, tmp_path), expected)
    facts = json.loads((folder / "signature.json").read_text())
    assert (facts["schedule"], facts["eta"], facts["batch_size"]) == ("karras", None, 2)
    text = (folder / "README.txt").read_text()
    assert "strength" not in text and "img_height" not in text and "step_noise" not in text
    for name in ("latents", "noise", "seed", "negative_tokens"):
        assert f"\n{name}: " in text


def test_the_example_of_any_size(checkpoints, tmp_path):
    model = opened(checkpoints, "sdxl")
    folder = model.export(
        tmp_path / "sampler", tasks=["text_to_image"], free_size=True, max_steps=2,
        sampler="euler_ancestral",
    )  # fmt: skip
    height, width = model.config.image_size
    expected = model.text_to_image(
        PROMPT, "", **settings(1, 2, model.config.guidance_scale), sampler="euler_ancestral",
        img_height=height, img_width=width,
    )  # fmt: skip
    same(ran(folder, tmp_path), expected)
    text = (folder / "README.txt").read_text()
    for name in ("tokens_2", "negative_tokens_2", "img_height", "img_width", "step_noise"):
        assert f"\n{name}: " in text
    assert "begin every row with -1" in text and "of any size" in text


def test_the_example_of_a_network_for_inpainting(checkpoints, tmp_path):
    model = opened(checkpoints, "sd1-inpaint")
    folder = model.export(tmp_path / "sampler", max_steps=1, jit_compile=False)
    facts = json.loads((folder / "signature.json").read_text())
    assert {*facts["signatures"]} == {"encode_text", "decode", "inpaint"}
    assert ran(folder, tmp_path).shape == (1, model.img_height, model.img_width, 3)
    text = (folder / "README.txt").read_text()
    assert "\nmask: uint8 (1, " in text and "text_to_image" not in text


@pytest.mark.parametrize("tasks", (["text_to_image"], ["inpaint", "image_to_image"]))
def test_what_a_network_for_inpainting_cannot_do_is_refused(checkpoints, tmp_path, tasks):
    with pytest.raises(ValueError, match="this checkpoint is for inpainting: `tasks` can be"):
        opened(checkpoints, "sd1-inpaint").export(tmp_path / "sampler", tasks=tasks)
    assert not list(tmp_path.iterdir())
