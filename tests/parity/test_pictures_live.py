"""The same picture as diffusers, for pipelines that diffusers itself made and saved."""

import diffusers
import numpy as np
import pipelines
import pytest
import torch
from PIL import Image

import kerasdiff

PROMPT, NEGATIVE = "ein schönes rotes Häuschen, 日本 🏠", "blurry, café"
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_3m_sde": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
    ),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}
DETERMINISTIC = ("ddim", "euler", "heun", "lms", "plms", "dpmpp_2m", "unipc")
STOCHASTIC = ("dpmpp_2m_sde", "dpmpp_3m_sde", "euler_ancestral", "ddpm", "lcm", "tcd")
NO_IMAGE_TO_IMAGE = ("lms",)  # diffusers truncates its coefficients there: no oracle


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes each pipeline once: kind -> (diffusers' pipeline, our model of the saved folder)."""
    cache = {}

    def make(kind, vae_channels=(16, 32)):
        if (kind, vae_channels) not in cache:
            folder = tmp_path_factory.mktemp(kind)
            theirs = pipelines.make_pipeline(kind, folder, vae_channels=vae_channels)
            # One family tells of XLA; its programs of the others would tell no more.
            jit_compile = "auto" if kind == "sd1" else False
            ours = kerasdiff.StableDiffusion.from_preset(
                folder / "pipeline", jit_compile=jit_compile
            )
            cache[kind, vae_channels] = theirs, ours
        return cache[kind, vae_channels]

    return make


def with_scheduler(pipeline, sampler):
    name, extra = SCHEDULERS[sampler]
    kind = getattr(diffusers, name)
    return type(pipeline)(
        **pipeline.components | {"scheduler": kind.from_config(pipeline.scheduler.config, **extra)},
        **{"requires_safety_checker": False} if "safety_checker" in pipeline.components else {},
    )


def theirs(pipeline, sampler=None, **arguments):
    pipeline = with_scheduler(pipeline, sampler) if sampler else pipeline
    pipeline.set_progress_bar_config(disable=True)
    seed = arguments.pop("seed", 3)
    seeds = seed if isinstance(seed, list) else [seed]
    arguments["generator"] = [torch.Generator().manual_seed(each) for each in seeds]
    arguments["prompt"] = [PROMPT] * len(seeds)
    if arguments.setdefault("negative_prompt", NEGATIVE) is not None:
        arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(seeds)
    arguments.setdefault("guidance_scale", 5.0)
    images = pipeline(output_type="np", **arguments).images
    return np.round(images * 255).astype("int16")


def assert_same(picture, expected):
    difference = np.abs(picture.astype("int16") - expected)
    assert difference.max() <= 2, f"largest {difference.max()}, mean {difference.mean():.4f}"
    assert difference.mean() < 0.05


def settings(seed=3, guidance=5.0, negative=NEGATIVE, **more):
    return dict(negative_prompt=negative, unconditional_guidance_scale=guidance, seed=seed, **more)


def test_pipelines_react_to_prompt_and_sampler(made):
    _, ours = made("sd1")
    base = ours.text_to_image(PROMPT, num_steps=5, **settings()).astype("int16")
    other = ours.text_to_image("a cat", num_steps=5, **settings())
    assert np.abs(base - other).mean() > 20
    for sampler in ("dpmpp_2m", "heun", "plms", "unipc"):
        picture = ours.text_to_image(PROMPT, num_steps=5, sampler=sampler, **settings())
        assert np.abs(base - picture).mean() > 2, sampler


@pytest.mark.parametrize("steps", (5, 8))
@pytest.mark.parametrize("sampler", DETERMINISTIC + STOCHASTIC + ("dpm2",))
def test_text_to_image_by_sampler(made, sampler, steps):
    pipeline, ours = made("sd1")
    expected = theirs(pipeline, sampler, num_inference_steps=steps, height=32, width=32)
    picture = ours.text_to_image(
        PROMPT, num_steps=steps, sampler=sampler, img_height=32, img_width=32, **settings()
    )
    assert_same(picture, expected)


@pytest.mark.parametrize("sampler", ("ddim", "euler", "plms", "unipc"))
@pytest.mark.parametrize("kind", ("sd1-deep", "sd2", "sd2-v", "sdxl"))
def test_text_to_image_by_family(made, kind, sampler):
    if kind == "sd2-v" and sampler == "plms":
        pytest.skip("covered by the other samplers")
    pipeline, ours = made(kind)
    expected = theirs(pipeline, sampler, num_inference_steps=6, height=40, width=24)
    picture = ours.text_to_image(
        PROMPT, num_steps=6, sampler=sampler, img_height=40, img_width=24, **settings()
    )
    assert_same(picture, expected)


@pytest.mark.parametrize("vae_channels", ((32,), (16, 16, 32), (8, 16, 16, 32)))
def test_autoencoders_of_other_depth(made, vae_channels):
    pipeline, ours = made("sd1", vae_channels)
    factor = 2 ** (len(vae_channels) - 1)
    assert ours.config.autoencoder.factor == factor
    height, width = 8 * max(factor, 3), 8 * 5  # diffusers takes multiples of 8 alone
    expected = theirs(pipeline, num_inference_steps=4, height=height, width=width)
    picture = ours.text_to_image(
        PROMPT, num_steps=4, img_height=height, img_width=width, **settings()
    )
    assert_same(picture, expected)


@pytest.mark.parametrize("kind", ("sd1", "sdxl"))
def test_no_negative_prompt_and_no_guidance(made, kind):
    pipeline, ours = made(kind)
    for guidance in (1.0, 4.0):
        expected = theirs(
            pipeline, num_inference_steps=4, height=32, width=32, negative_prompt=None,
            guidance_scale=guidance,
        )  # fmt: skip
        picture = ours.text_to_image(
            PROMPT, num_steps=4, img_height=32, img_width=32, **settings(3, guidance, None)
        )
        assert_same(picture, expected)


@pytest.mark.parametrize("sampler", ("ddim", "tcd"))
def test_eta(made, sampler):
    pipeline, ours = made("sd1")
    expected = theirs(pipeline, sampler, num_inference_steps=7, height=32, width=32, eta=0.7)
    picture = ours.text_to_image(
        PROMPT, num_steps=7, sampler=sampler, eta=0.7, img_height=32, img_width=32, **settings()
    )
    assert_same(picture, expected)


def test_guidance_rescale(made):
    pipeline, ours = made("sd2-v")
    expected = theirs(pipeline, num_inference_steps=5, height=32, width=32, guidance_rescale=0.7)
    picture = ours.text_to_image(
        PROMPT, num_steps=5, guidance_rescale=0.7, img_height=32, img_width=32, **settings()
    )
    assert_same(picture, expected)


@pytest.mark.parametrize("sampler", ("ddim", "euler_ancestral"))
def test_a_batch_is_a_list_of_generators(made, sampler):
    pipeline, ours = made("sd1")
    expected = theirs(pipeline, sampler, num_inference_steps=5, height=32, width=32, seed=[3, 4, 5])
    picture = ours.text_to_image(
        PROMPT, batch_size=3, num_steps=5, sampler=sampler, img_height=32, img_width=32,
        **settings(),
    )  # fmt: skip
    assert_same(picture, expected)


def photo(height, width):
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 5), np.cos(y / 7), np.sin((x + y) / 9)], axis=-1)
    return Image.fromarray(np.uint8(127.5 + 127.5 * waves))


def half_mask(height, width):
    mask = np.zeros((height, width), "uint8")
    mask[height // 4 :, width // 3 :] = 255
    return Image.fromarray(mask)


@pytest.mark.parametrize("strength", (0.3, 0.75, 1.0))
@pytest.mark.parametrize(
    "sampler", [s for s in DETERMINISTIC + STOCHASTIC if s not in NO_IMAGE_TO_IMAGE]
)
def test_image_to_image(made, sampler, strength):
    pipeline, ours = made("sd1")
    to_image = diffusers.StableDiffusionImg2ImgPipeline(
        **pipeline.components, requires_safety_checker=False
    )
    expected = theirs(
        to_image, sampler, image=photo(32, 48), strength=strength, num_inference_steps=7
    )
    picture = ours.image_to_image(
        PROMPT, photo(32, 48), strength, num_steps=7, sampler=sampler, **settings()
    )
    assert_same(picture, expected)


@pytest.mark.parametrize("strength", (0.5, 1.0))
def test_a_batch_from_one_picture_is_a_list_of_generators(made, strength):
    pipeline, ours = made("sd1")
    common = dict(requires_safety_checker=False)
    expected = theirs(
        diffusers.StableDiffusionImg2ImgPipeline(**pipeline.components, **common),
        image=photo(32, 48), strength=strength, num_inference_steps=5, seed=[3, 4, 5],
    )  # fmt: skip
    options = settings(num_steps=5, batch_size=3)
    picture = ours.image_to_image(PROMPT, photo(32, 48), strength, **options)
    assert_same(picture, expected)
    expected = theirs(
        diffusers.StableDiffusionInpaintPipeline(**pipeline.components, **common),
        # Three of them: of a single picture, diffusers takes one sample, of the first generator.
        image=[photo(32, 48)] * 3, mask_image=[half_mask(32, 48)] * 3, height=32, width=48,
        strength=strength, num_inference_steps=5, seed=[3, 4, 5],
    )  # fmt: skip
    given = (PROMPT, photo(32, 48), half_mask(32, 48), strength)
    assert_same(ours.inpaint(*given, overlay=False, **options), expected)


@pytest.mark.parametrize("kind", ("sd2-v", "sdxl"))
def test_image_to_image_by_family(made, kind):
    pipeline, ours = made(kind)
    cls = diffusers.StableDiffusionImg2ImgPipeline
    if kind == "sdxl":
        cls = diffusers.StableDiffusionXLImg2ImgPipeline
    extra = {} if kind == "sdxl" else {"requires_safety_checker": False}
    expected = theirs(
        cls(**pipeline.components, **extra), image=photo(32, 48), strength=0.6,
        num_inference_steps=7,
    )  # fmt: skip
    picture = ours.image_to_image(PROMPT, photo(32, 48), 0.6, num_steps=7, **settings())
    assert_same(picture, expected)


@pytest.mark.parametrize("strength", (0.5, 1.0))
@pytest.mark.parametrize("kind", ("sd1", "sd1-inpaint"))
@pytest.mark.parametrize("sampler", ("ddim", "euler", "heun", "plms", "dpmpp_2m", "unipc", "ddpm"))
def test_inpainting(made, sampler, kind, strength):
    pipeline, ours = made(kind)
    pipeline = diffusers.StableDiffusionInpaintPipeline(
        **pipeline.components, requires_safety_checker=False
    )
    expected = theirs(
        pipeline, sampler, image=photo(32, 48), mask_image=half_mask(32, 48), height=32, width=48,
        strength=strength, num_inference_steps=6,
    )  # fmt: skip
    picture = ours.inpaint(
        PROMPT, photo(32, 48), half_mask(32, 48), strength, num_steps=6, sampler=sampler,
        overlay=False, **settings(),
    )  # fmt: skip
    assert_same(picture, expected)


def test_the_overlay_is_what_diffusers_image_processor_lays_over(made):
    pipeline, ours = made("sd1")
    given = (PROMPT, photo(32, 48), half_mask(32, 48), 1.0)
    raw, overlaid = (
        ours.inpaint(*given, overlay=overlay, num_steps=2, **settings())[0]
        for overlay in (False, True)
    )
    processor = diffusers.image_processor.VaeImageProcessor()
    mask, image = (Image.fromarray(np.asarray(each)) for each in given[2:0:-1])
    expected = processor.apply_overlay(mask, image, Image.fromarray(raw))
    np.testing.assert_array_equal(overlaid, np.asarray(expected))
    assert (overlaid != raw).any()


def test_a_picture_of_another_size_is_resized_alike(made):
    pipeline, ours = made("sd1")
    pipeline = diffusers.StableDiffusionInpaintPipeline(
        **pipeline.components, requires_safety_checker=False
    )
    expected = theirs(
        pipeline, image=photo(50, 61), mask_image=half_mask(50, 61), height=32, width=48,
        num_inference_steps=4,
    )  # fmt: skip
    picture = ours.inpaint(
        PROMPT, photo(50, 61), half_mask(50, 61), num_steps=4, img_height=32, img_width=48,
        overlay=False, **settings(),
    )  # fmt: skip
    assert_same(picture, expected)
