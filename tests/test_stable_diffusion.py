"""The orchestrator: batches, seeds, backends, precision, replaced parts, and wrong input."""

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_checkpoint import write_checkpoint

from kerasdiff import StableDiffusion
from kerasdiff.conditioning import Conditioning
from kerasdiff.configs import TINY
from kerasdiff.decoder import Decoder

HERE = Path(__file__).parent
FEW = {"num_steps": 3, "sampler": "ddim", "seed": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_checkpoint(path, TINY["sd1"])
    return path


@pytest.fixture(scope="module")
def model(folder):
    return StableDiffusion.from_preset(folder, jit_compile=False)


@pytest.fixture
def fresh(folder):
    return StableDiffusion.from_preset(folder, jit_compile=False)


def test_pictures_are_bytes_of_the_checkpoints_size(model):
    pictures = model.text_to_image("a red house", **FEW)
    assert pictures.shape == (1, 32, 32, 3) and pictures.dtype == np.uint8


@pytest.mark.parametrize("sampler", ("ddim", "euler_ancestral", "dpmpp_2m_sde"))
def test_a_batch_of_three_is_three_singles(model, sampler):
    options = {"num_steps": 4, "sampler": sampler}
    batch = model.text_to_image("a red house", batch_size=3, seed=7, **options)
    for index in range(3):
        alone = model.text_to_image("a red house", seed=7 + index, **options)
        assert np.abs(batch[index].astype(int) - alone[0]).max() <= 1


@pytest.mark.parametrize("task", ("image_to_image", "inpaint"))
def test_a_batch_from_one_picture_is_three_singles(model, task):
    photo = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype="uint8")
    mask = np.zeros((32, 32), "uint8")
    mask[:, 16:] = 255
    given = (photo, mask) if task == "inpaint" else (photo,)
    make = getattr(model, task)
    options = {"num_steps": 4, "sampler": "ddim"}
    batch = make("a red house", *given, 0.6, batch_size=3, seed=7, **options)
    for index in range(3):
        alone = make("a red house", *given, 0.6, seed=7 + index, **options)
        assert np.abs(batch[index].astype(int) - alone[0]).max() <= 1
    assert np.abs(batch[0].astype(int) - batch[1]).max() > 5


def test_lists_of_prompts_and_negatives(model):
    prompts = ["a red house", "a blue boat"]
    both = model.text_to_image(prompts, ["night", "day"], **FEW)
    second = model.text_to_image(prompts[1], "day", **{**FEW, "seed": 2})
    assert np.abs(both[1].astype(int) - second[0]).max() <= 1
    with pytest.raises(ValueError, match="2 texts for 3 pictures"):
        model.text_to_image(["a", "b", "c"], ["d", "e"], **FEW)


def test_split_guidance_gives_the_same_picture(model):
    whole = model.text_to_image("a red house", **FEW)
    split = model.text_to_image("a red house", split_guidance=True, **FEW)
    assert np.abs(whole.astype(int) - split).max() <= 1


def test_guidance_of_one_ignores_the_negative_prompt(model):
    options = {**FEW, "unconditional_guidance_scale": 1.0}
    plain = model.text_to_image("a red house", **options)
    np.testing.assert_array_equal(plain, model.text_to_image("a red house", "night", **options))
    assert np.abs(plain.astype(int) - model.text_to_image("a red house", **FEW)).max() > 5


def test_encoded_text_and_given_noise(model):
    context = model.encode_text("a red house")
    assert context.shape == (1, 77, 32) and context.dtype == np.float32
    expected = model.text_to_image("a red house", **FEW)
    for encoded in (context, context[0], Conditioning(context)):
        np.testing.assert_array_equal(model.generate_image(encoded, **FEW), expected)
    noise = np.random.default_rng(0).normal(size=(16, 16, 4))
    options = {"num_steps": 2, "sampler": "ddim", "diffusion_noise": noise}
    one = model.generate_image(context, batch_size=2, **options)
    assert np.abs(one[0].astype(int) - one[1]).max() <= 1
    with pytest.raises(ValueError, match="give one of them"):
        model.generate_image(context, seed=1, **options)
    with pytest.raises(ValueError, match=r"`diffusion_noise` must have shape \(16, 16, 4\)"):
        model.generate_image(context, diffusion_noise=noise[:8])
    with pytest.raises(ValueError, match="`encoded_text` must have shape"):
        model.generate_image(context[0, 0], **FEW)


def test_the_callback_sees_each_step_and_can_preview(model):
    seen = []

    def callback(step, total, preview):
        seen.append((step, total, preview().shape))

    watched = model.text_to_image("a red house", callback=callback, **FEW)
    assert seen == [(step, 3, (1, 32, 32, 3)) for step in (1, 2, 3)]
    np.testing.assert_array_equal(watched, model.text_to_image("a red house", **FEW))


def test_a_bar_is_shown_on_request_only(model, capfd):
    model.text_to_image("a red house", **FEW)
    assert capfd.readouterr().err == ""
    model.text_to_image("a red house", progress=True, **FEW)
    assert "3/3" in capfd.readouterr().err


def test_image_to_image_keeps_the_pictures_own_size(model):
    photo = np.random.default_rng(0).integers(0, 255, (40, 24, 3), dtype="uint8")
    assert model.image_to_image("a house", photo, 0.5, **FEW).shape == (1, 40, 24, 3)
    sized = {**FEW, "img_height": 16, "img_width": 32}
    assert model.image_to_image("a house", photo, 0.5, **sized).shape == (1, 16, 32, 3)
    odd = np.zeros((41, 24, 3), "uint8")
    with pytest.raises(ValueError, match="`img_height` must be a multiple of 2, not 41; the neare"):
        model.image_to_image("a house", odd, 0.5, **FEW)


def test_inpainting_leaves_the_rest_alone(fresh):
    """In latents: the decoder's attention lets every pixel depend on all of them."""
    kept = []
    decode = fresh.decode
    fresh.decode = lambda latents: kept.append(latents) or decode(latents)
    photo = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype="uint8")
    mask = np.zeros((32, 32), "uint8")
    fresh.inpaint("a house", photo, mask, **FEW)
    mask[:, 16:] = 255
    fresh.inpaint("a house", photo, mask, **FEW)
    np.testing.assert_array_equal(kept[0][:, :, :8], kept[1][:, :, :8])
    assert np.abs(kept[0][:, :, 8:] - kept[1][:, :, 8:]).mean() > 0.1


def test_a_replaced_part_is_used(fresh):
    before = fresh.text_to_image("a red house", **FEW)
    other = StableDiffusion(checkpoint=TINY["sd1"], jit_compile=False).decoder
    fresh.decoder = other
    assert fresh.decoder is other
    assert np.abs(before.astype(int) - fresh.text_to_image("a red house", **FEW)).max() > 5


def test_zero_embeddings_are_sdxls_default_negative():
    model = StableDiffusion(checkpoint=TINY["sdxl"], jit_compile=False)
    encoded = model.encode_text("a red house")
    assert encoded.context.shape == (1, 77, 64) and encoded.pooled.shape == (1, 32)
    default = model.generate_image(encoded, **FEW)
    zeros = Conditioning(np.zeros_like(encoded.context), np.zeros_like(encoded.pooled))
    np.testing.assert_array_equal(model.generate_image(encoded, zeros, **FEW), default)


def test_a_part_that_the_family_lacks_is_named(model):
    with pytest.raises(ValueError, match="family sd1 has no text_encoder_2"):
        model.text_encoder_2  # noqa: B018


def backend_picture(folder, tmp_path, backend, jit_compile, dtype="float32"):
    out = tmp_path / f"{backend}-{jit_compile}-{dtype}.npz"
    done = subprocess.run(
        [sys.executable, HERE / "backend_picture.py", out, folder, str(jit_compile), dtype],
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
    if importlib.util.find_spec("jax"):
        others.append(("jax", True))
    for backend, jit_compile in others:
        got = backend_picture(folder, tmp_path, backend, jit_compile)
        scale = np.abs(reference["latents"]).max()
        assert np.abs(got["latents"] - reference["latents"]).max() / scale < 1e-4
        assert np.abs(got["pixels"].astype(int) - reference["pixels"]).max() <= 1
    half = backend_picture(folder, tmp_path, "tensorflow", False, "bfloat16")
    difference = np.abs(half["pixels"].astype(int) - reference["pixels"])
    assert 0 < difference.mean() < BFLOAT16_MEAN


BFLOAT16_MEAN = 4.0  # of 255: what rounding to 8 bits costs this wild network over three steps


def test_a_picture_that_is_not_finite_is_an_error_not_black(fresh):
    latents = np.zeros((1, 16, 16, 4), "float32")
    latents[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fresh.decode(latents)


def test_an_overflow_in_low_precision_is_decoded_again_in_float32(fresh):
    exact, latents = fresh.decoder, np.full((1, 16, 16, 4), 1e5, "float32")
    expected = fresh.decode(latents)
    fresh.decoder = Decoder(exact.config, dtype="float16")
    for target, source in zip(fresh.decoder.variables, exact.variables, strict=True):
        target.assign(source.value)
    np.testing.assert_allclose(fresh.decode(latents).astype(int), expected, atol=1)
    assert fresh.decoder.compute_dtype == "float32"


def test_float16_decodes_in_float32(folder):
    half = StableDiffusion.from_preset(folder, dtype="float16", jit_compile=False)
    assert half.diffusion_model.compute_dtype == "float16"
    assert half.decoder.compute_dtype == half.image_encoder.compute_dtype == "float32"


def test_untrained_networks_need_no_files():
    model = StableDiffusion(checkpoint=TINY["sd2"], jit_compile=False)
    assert model.config.schedule.prediction_type == "v_prediction"
    assert model.text_to_image("a red house", **FEW).shape == (1, 32, 32, 3)
    with pytest.raises(ValueError, match="untrained networks take no vae"):
        StableDiffusion(checkpoint=TINY["sd2"], vae="somewhere")


def test_inpainting_checkpoints_say_what_they_are_for():
    model = StableDiffusion(checkpoint=TINY["sd1-inpaint"], jit_compile=False)
    with pytest.raises(ValueError, match="for inpainting: call `inpaint`"):
        model.text_to_image("a house", **FEW)
    with pytest.raises(ValueError, match="call `inpaint` with a mask"):
        model.image_to_image("a house", np.zeros((32, 32, 3), "uint8"), **FEW)


BAD = {
    "no prompt at all": ([], {}, "empty list"),
    "a prompt of another kind": (7, {}, "must be a string"),
    "too many tokens": ("word " * 76, {}, "76"),
    "no steps": ("a", {"num_steps": 0}, "num_steps"),
    "absurd steps": ("a", {"num_steps": 10**6}, "num_steps"),
    "half a step": ("a", {"num_steps": 2.5}, "num_steps"),
    "a size that does not fit": ("a", {"img_height": 33}, "32 or 34"),
    "an unknown sampler": ("a", {"sampler": "magic"}, "dpmpp_2m"),
    "an unknown schedule": ("a", {"schedule": "karrass"}, "`schedule` must be .* not 'karrass'"),
    "no pictures": ("a", {"batch_size": 0}, "batch_size"),
    "absurdly many pictures": ("a", {"batch_size": 10**8}, "`batch_size` must be"),
    "no height": ("a", {"img_height": 0}, "`img_height` must be"),
    "no negative prompt at all": ("a", {"negative_prompt": []}, "`negative_prompt` is an empty"),
}


@pytest.mark.parametrize("prompt, options, message", BAD.values(), ids=BAD)
def test_wrong_input_is_named(model, prompt, options, message):
    with pytest.raises(ValueError, match=message):
        model.text_to_image(prompt, **{**FEW, **options})


@pytest.mark.parametrize("strength", (0, 1.5, -1, float("nan"), "much", 0.1))
def test_absurd_strengths_are_named(model, strength):
    with pytest.raises(ValueError, match="strength"):
        model.image_to_image("a", np.zeros((32, 32, 3), "uint8"), strength, **FEW)


PICTURE = np.zeros((32, 32, 3), "uint8")
COLOURS = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype="uint8")
ENCODED = np.zeros((77, 32), "float32")
TOO_EARLY = {
    "steps": ("text_to_image", {"num_steps": 0}),
    "a size": ("text_to_image", {"img_width": 33}),
    "a sampler": ("text_to_image", {"sampler": "magic"}),
    "a schedule": ("text_to_image", {"schedule": "karrass"}),
    "a schedule of another sampler": ("text_to_image", {"schedule": "karras"}),
    "eta": ("text_to_image", {"sampler": "euler", "eta": 0.5}),
    "a seed": ("text_to_image", {"seed": -1}),
    "seeds": ("text_to_image", {"seed": [1, 2]}),
    "a batch": ("text_to_image", {"batch_size": 0}),
    "noise": ("text_to_image", {"diffusion_noise": np.zeros((3, 3, 4)), "seed": None}),
    "a prompt": ("text_to_image", {"prompt": 7}),
    "a negative prompt": ("text_to_image", {"negative_prompt": 7}),
    "negative prompts": ("text_to_image", {"negative_prompt": ["a", "b"]}),
    "an encoded negative prompt": ("text_to_image", {"negative_prompt": ENCODED[:, 1:]}),
    "strength": ("image_to_image", {"image": PICTURE, "strength": 0.1}),
    "a picture's size": ("image_to_image", {"image": PICTURE[:31]}),
    "a picture's shape": ("image_to_image", {"image": PICTURE[..., :2]}),
    "a picture's range": ("image_to_image", {"image": PICTURE - 1.0}),
    "a picture's file": ("image_to_image", {"image": "nowhere.png"}),
    "pictures": ("image_to_image", {"image": [PICTURE] * 3}),
    "a mask's colours": ("inpaint", {"image": PICTURE, "mask": COLOURS}),
    "a mask's shape": ("inpaint", {"image": PICTURE, "mask": PICTURE[None]}),
    "a mask's range": ("inpaint", {"image": PICTURE, "mask": PICTURE[..., 0] + 2.0}),
}


@pytest.mark.parametrize("task, options", TOO_EARLY.values(), ids=TOO_EARLY)
def test_wrong_input_is_refused_before_a_network_is_made(monkeypatch, task, options):
    model = StableDiffusion(checkpoint=TINY["sd1"])
    monkeypatch.setattr(model._models, "make", lambda name: pytest.fail(f"made the {name}"))
    with pytest.raises(ValueError):
        getattr(model, task)(**{"prompt": "a", **FEW, **options})


def test_right_input_makes_networks(monkeypatch):
    model = StableDiffusion(checkpoint=TINY["sd1"])
    made = []
    monkeypatch.setattr(model._models, "make", lambda name: made.append(name) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.inpaint("a", PICTURE, PICTURE, **FEW)
    assert made


def test_a_missing_picture_or_mask_is_named(model):
    with pytest.raises(ValueError, match="`image` must be a picture"):
        model.image_to_image("a", None, **FEW)
    with pytest.raises(ValueError, match="`image` must be a picture"):
        model.inpaint("a", None, PICTURE, **FEW)
    with pytest.raises(ValueError, match="`mask` must be a picture"):
        model.inpaint("a", PICTURE, None, **FEW)


def test_a_picture_s_own_size_that_does_not_fit_is_explained(model):
    with pytest.raises(ValueError, match="nearest are 30 or 32; the picture is 32x31"):
        model.image_to_image("a", PICTURE[:31], **FEW)
    with pytest.raises(ValueError, match="`img_height` must be a positive"):
        model.image_to_image("a", PICTURE[:0, :0], **FEW)


@pytest.mark.parametrize(
    "encoded",
    (None, "a", np.zeros((77, 31)), np.zeros(32), np.zeros((0, 77, 32)), np.full((77, 32), np.nan)),
)
def test_encoded_text_that_does_not_fit_is_named(model, encoded):
    with pytest.raises(ValueError, match="`encoded_text` must"):
        model.generate_image(encoded, **FEW)


def test_a_negative_that_does_not_fit_is_named(model):
    context = model.encode_text("a")
    with pytest.raises(ValueError, match="`negative_prompt` must have shape"):
        model.generate_image(context, np.zeros((77, 31)), **FEW)
    with pytest.raises(ValueError, match="`negative_prompt` has 10 tokens, the encoded text 77"):
        model.generate_image(context, context[:, :10], **FEW)


def test_noise_that_is_not_finite_is_named(model):
    with pytest.raises(ValueError, match="`diffusion_noise` must be an array of finite"):
        model.generate_image(
            model.encode_text("a"), num_steps=2, diffusion_noise=np.full((16, 16, 4), np.nan)
        )


def test_pooled_vectors_that_are_missing_are_named():
    model = StableDiffusion(checkpoint=TINY["sdxl"], jit_compile=False)
    with pytest.raises(ValueError, match="`encoded_text` must be a `Conditioning`"):
        model.generate_image(np.zeros((77, 64)), **FEW)


def test_a_distilled_network_is_asked_once_and_told_the_guidance_scale():
    network = replace(TINY["sd1"].diffusion_model, time_cond_dim=32)
    config = replace(TINY["sd1"], diffusion_model=network)
    model = StableDiffusion(checkpoint=config, jit_compile=False)
    kernels = [v for v in model.diffusion_model.variables if "cond_proj" in v.path]
    assert len(kernels) == 1
    kernels[0].assign(np.full(kernels[0].shape, 0.5, "float32"))
    one, two = (
        model.text_to_image("a", unconditional_guidance_scale=scale, **FEW) for scale in (2.0, 8.0)
    )
    assert one.shape == (1, 32, 32, 3) and (one != two).any()


def test_wrong_arguments_of_the_constructor_are_named(folder):
    with pytest.raises(ValueError, match="`img_height` must be a positive"):
        StableDiffusion.from_preset(folder, img_height=0)
    with pytest.raises(ValueError, match="`dtype` must be one of"):
        StableDiffusion.from_preset(folder, dtype="int8")
    with pytest.raises(ValueError, match="`img_width` must be a multiple of 2"):
        StableDiffusion.from_preset(folder, img_width=31)
    with pytest.raises(ValueError, match="`jit_compile` must be"):
        StableDiffusion.from_preset(folder, jit_compile="yes")
    for nothing in (None, 3, ""):
        with pytest.raises(
            ValueError, match=f"a preset's name, a file or a folder, not {nothing!r}"
        ):
            StableDiffusion.from_preset(nothing)


def test_weights_that_are_nan_are_named(folder, tmp_path):
    from kerasdiff.checkpoints.files import open_tensors, write_safetensors

    shutil.copytree(folder, tmp_path / "bad")
    path = tmp_path / "bad" / "unet" / "diffusion_pytorch_model.safetensors"
    with open_tensors(path) as tensors:
        unet = {name: np.array(array) for name, array in tensors.items()}
    unet["conv_in.bias"][0] = np.nan
    write_safetensors(path, unet)
    loaded = StableDiffusion.from_preset(tmp_path / "bad")
    with pytest.raises(ValueError, match="conv_in.bias"):
        loaded.text_to_image("a", **FEW)
