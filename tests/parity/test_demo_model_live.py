"""The shipped model is a Stable Diffusion: diffusers draws the same pictures from its folder."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image

from kerasdiff.checkpoints.presets import find
from kerasdiff.stable_diffusion import StableDiffusion

PROMPTS = (
    "a red house and a pine tree near a mountain at sunset",
    "a big yellow star on a black background",
    "a picture of a boat with purple sails on the sea at dawn",
    "a green circle to the left of a pink heart on a teal background",
)


@pytest.fixture(scope="module")
def ours():
    return StableDiffusion.from_preset("demo")


def theirs(kind, **arguments):
    pipeline = kind.from_pretrained(find("demo"), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(4 + i) for i in range(len(PROMPTS))]
    images = pipeline(list(PROMPTS), generator=generators, output_type="np", **arguments).images
    return np.round(images * 255).astype("int16")


@pytest.mark.parametrize("steps, scale", ((4, 3.0), (10, 3.0), (50, 7.5)))
def test_text_to_image(ours, steps, scale):
    expected = theirs(StableDiffusionPipeline, num_inference_steps=steps, guidance_scale=scale)
    pictures = ours.text_to_image(
        list(PROMPTS), num_steps=steps, unconditional_guidance_scale=scale, seed=4
    )
    assert np.abs(pictures - expected).max() <= 2


def test_image_to_image(ours):
    first = ours.text_to_image(list(PROMPTS), seed=1)[0]
    expected = theirs(
        StableDiffusionImg2ImgPipeline, image=Image.fromarray(first), strength=0.7,
        num_inference_steps=10, guidance_scale=3.0,
    )  # fmt: skip
    pictures = ours.image_to_image(list(PROMPTS), first, 0.7, seed=4)
    assert np.abs(pictures - expected).max() <= 2
