"""What an exported sampler refuses when it runs, and what a failed export says and leaves."""

import subprocess
import sys

import numpy as np
import pytest
from drawn_checkpoint import write_checkpoint
from export_cases import alone, inputs, opened

from kerasdiff.configs import TINY
from kerasdiff.export.failures import LONGEST, reason

EXPORT = """
import resource, sys
from kerasdiff import StableDiffusion
model = StableDiffusion.from_preset(sys.argv[1], jit_compile=False)
len(model.diffusion_model.variables)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    model.export(sys.argv[2], tasks=["text_to_image"], max_steps=1, jit_compile=False)
except ValueError as error:
    print(f"refused: {error}")
"""


def pixels(*shape):
    return np.full((*shape, 3), 128, "uint8")


def test_pictures_that_do_not_fit_are_refused(tmp_path):
    model = opened(tmp_path, "sd1")
    folder = model.export(tmp_path / "sampler", free_size=True, max_steps=1)
    given = inputs(model, "a house", steps=1)
    whole, mask = {"strength": np.float32(1.0)}, np.full((1, 16, 16, 1), 255, "uint8")
    small = {"img_height": np.int32(2), "img_width": np.int32(6)}
    *results, fits = alone(
        folder, tmp_path,
        ("image_to_image", given | whole | {"image": pixels(1, 31, 29)}),
        ("image_to_image", given | whole | {"image": pixels(3, 16, 16)}),
        ("inpaint", given | whole | {"image": pixels(1, 16, 18), "mask": mask}),
        ("text_to_image", given | small),
        ("image_to_image", given | whole | {"image": pixels(1, 2, 6)}),
        ("inpaint", given | whole | {"image": pixels(1, 16, 16), "mask": mask}),
    )  # fmt: skip
    messages = (
        "height and width of image must be positive multiples of 2",
        "image must hold 1 picture or one for each of",
        "mask must have the height and width of image",
        "latents must have 16 numbers",
        "latents must have 16 numbers",
    )
    for result, message in zip(results, messages, strict=True):
        assert message in str(result["error"])
    assert fits["images"].shape == (1, 16, 16, 3)


def test_a_fixed_size_too_small_for_noise_is_refused(tmp_path):
    model = opened(tmp_path, "sd1")
    with pytest.raises(
        ValueError, match="6x2 pixels have 12 numbers, and noise of a seed needs 16"
    ):
        model.export(tmp_path / "sampler", img_height=2, img_width=6)
    assert not (tmp_path / "sampler").exists()


def test_a_full_disk_is_one_line_and_leaves_no_folder(tmp_path):
    write_checkpoint(tmp_path / "model", TINY["sd1"])
    target = tmp_path / "new" / "parent" / "sampler"
    command = [sys.executable, "-c", EXPORT, tmp_path / "model", target]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("refused")]
    assert lines == [f"refused: {target}: cannot be written: File too large"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "text, line",
    [
        ("\n\n  the op is unknown  \nmore", "the op is unknown"),
        ('<unknown>:0: error: loc(fused["a:", "b"]): \'tf.X\' is no op', "error: 'tf.X' is no op"),
        ("{{function_node __wrapped__SaveV2}} /a/b.tempstate1; File too large [Op:SaveV2]",
         "File too large"),
        ("{{function_node __x}} shapes differ [Op:Add]", "shapes differ"),
        ("Check failed at a.cpp:1:\nFailed operations:\nunknown type bf16", "unknown type bf16"),
        ("", "RuntimeError"),
    ],
)  # fmt: skip
def test_the_reason_is_one_line(text, line):
    assert reason(RuntimeError(text)) == line
    assert len(reason(RuntimeError("word " * 1000))) <= LONGEST + 3
