"""The same picture as diffusers, which made the golden ones of the same files (no PyTorch here)."""

import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_checkpoint import write_checkpoint

from kerasdiff import StableDiffusion
from kerasdiff.configs import TINY

GOLDEN = Path(__file__).parent / "golden"
sys.path.append(str(GOLDEN))
from make_pictures import CASES, NEGATIVE, PROMPT, SIZE, mask, photo  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = {}

    def make(family):
        if family not in made:
            path = tmp_path_factory.mktemp(family) / "checkpoint"
            write_checkpoint(path, TINY[family])
            # One family by XLA, all of its samplers and tasks; the others as graphs, ready sooner.
            jit_compile = family == "sd1"
            made[family] = StableDiffusion.from_preset(path, jit_compile=jit_compile)
        return made[family]

    return make


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "pictures.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", CASES)
def test_the_picture_is_diffusers_picture(model, golden, name):
    family, sampler, steps, task, strength = CASES[name]
    options = dict(
        negative_prompt=NEGATIVE, num_steps=steps, unconditional_guidance_scale=5.0, seed=3,
        sampler=sampler, img_height=SIZE[0], img_width=SIZE[1],
    )  # fmt: skip
    if task == "image":
        picture = model(family).image_to_image(PROMPT, photo(), strength, **options)
    elif task == "mask":
        picture = model(family).inpaint(PROMPT, photo(), mask(), strength, overlay=False, **options)
    else:
        picture = model(family).text_to_image(PROMPT, **options)
    difference = np.abs(picture.astype("int16") - golden[name])
    assert difference.max() <= 2, f"largest {difference.max()}, mean {difference.mean():.4f}"
    assert difference.mean() < 0.05


def test_the_golden_pictures_differ(golden):
    """Or the test above would prove nothing."""
    plain = [picture for name, picture in golden.items() if name.count("/") == 1]
    assert all(picture.std() > 30 for picture in plain)
    base = golden["sd1/ddim"].astype("int16")
    for sampler in ("heun", "plms", "dpmpp_2m", "unipc", "ddpm", "dpmpp_2m_sde", "lcm"):
        assert np.abs(base - golden[f"sd1/{sampler}"]).mean() > 1, sampler
    for family in ("sd2-base", "sd2", "sdxl"):
        assert np.abs(base - golden[f"{family}/ddim"]).mean() > 20
    image = golden["sd1/ddim/image/0.5"].astype("int16")
    assert np.abs(image - golden["sd1/ddim/image/1.0"]).mean() > 5
