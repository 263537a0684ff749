"""Wrong input to the orchestrator is named, most of it before a network is made."""

import shutil

import numpy as np
import pytest
from stable_diffusion_cases import FEW, tiny_checkpoint, tiny_model

from kerasdiff import StableDiffusion, compiled_models
from kerasdiff.checkpoints import models
from kerasdiff.configs import TINY

folder = pytest.fixture(tiny_checkpoint, scope="module")
model = pytest.fixture(tiny_model, scope="module")


def test_a_part_that_the_family_lacks_is_named(model):
    with pytest.raises(ValueError, match="family sd1 has no text_encoder_2"):
        model.text_encoder_2  # noqa: B018
    assert not hasattr(model, "tokenizer_2")


@pytest.mark.parametrize("options, message", [
    ({"memory": "tiny"}, "`memory` must be"), ({"tile": -8}, "`tile` must be"),
    ({"jit_compile": "xla"}, "`jit_compile` must be"), ({"dtype": "int4"}, "`dtype` must be"),
    ({"token_merging": 0.9}, "`token_merging` must be"),
    ({"memory": "low", "int8": True}, "do not go with"),
])  # fmt: skip
def test_what_no_checkpoint_can_have_is_refused_before_one_is_looked_for(
    monkeypatch, options, message
):
    monkeypatch.setattr(models, "find_and_open", lambda *_, **__: pytest.fail("it was looked for"))
    with pytest.raises(ValueError, match=message):
        StableDiffusion.from_preset("sd-v1-5", **options)


def test_the_compiler_is_prepared_before_a_checkpoint_is_opened(monkeypatch, folder):
    """Some files show only by a step of their network what it predicts."""
    order = []
    for name in ("prepare_compiler", "open_models"):
        real = getattr(compiled_models, name)
        monkeypatch.setattr(
            compiled_models, name,
            lambda *a, real=real, name=name, **k: order.append(name) or real(*a, **k),
        )  # fmt: skip
    StableDiffusion.from_preset(folder)
    assert order == ["prepare_compiler", "open_models"]


def test_inpainting_checkpoints_say_what_they_are_for():
    model = StableDiffusion(checkpoint=TINY["sd1-inpaint"], jit_compile=False)
    with pytest.raises(ValueError, match="for inpainting: use `inpaint`"):
        model.text_to_image("a house", **FEW)
    with pytest.raises(ValueError, match="for inpainting: use `inpaint`"):
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
    with pytest.raises(
        ValueError, match="the encoded text has 77 tokens, `negative_prompt`, .*, 10: give"
    ):
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
