"""The orchestrator: batches, seeds, precision and replaced parts."""

import gc
import json
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from stable_diffusion_cases import FEW, tiny_checkpoint, tiny_model

from kerasdiff import StableDiffusion, compiled_models
from kerasdiff.conditioning import Conditioning
from kerasdiff.configs import TINY
from kerasdiff.decoder import Decoder
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.layers import quantize

folder = pytest.fixture(tiny_checkpoint, scope="module")
model = pytest.fixture(tiny_model, scope="module")


@pytest.fixture
def fresh(folder, uncompiled):
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
    with pytest.raises(ValueError, match="2 texts for 3 pictures: give one, or one for each"):
        model.text_to_image(["a", "b", "c"], ["d", "e"], **FEW)
    with pytest.raises(ValueError, match="3 texts for 6 pictures"):
        model.text_to_image(["a", "b"], ["d", "e", "f"], batch_size=3, **FEW)


def test_split_guidance_gives_the_same_picture(model):
    whole = model.text_to_image("a red house", **FEW)
    split = model.text_to_image("a red house", split_guidance=True, **FEW)
    assert {how.mode for name, how in model._programs if how} >= {"batched", "split"}
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


def test_image_to_image_keeps_the_pictures_own_size(model, uncompiled):
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
    fresh.decode = lambda latents, shown: kept.append(latents) or decode(latents)
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


def test_zero_embeddings_are_sdxls_default_negative(uncompiled):
    model = StableDiffusion(checkpoint=TINY["sdxl"], jit_compile=False)
    encoded = model.encode_text("a red house")
    assert encoded.context.shape == (1, 77, 64) and encoded.pooled.shape == (1, 32)
    default = model.generate_image(encoded, **FEW)
    zeros = Conditioning(np.zeros_like(encoded.context), np.zeros_like(encoded.pooled))
    np.testing.assert_array_equal(model.generate_image(encoded, zeros, **FEW), default)


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
    mine = fresh.decoder
    for _ in range(2):
        np.testing.assert_allclose(fresh.decode(latents).astype(int), expected, atol=1)
    assert fresh.decoder is mine
    exact.variables[0].assign(2 * exact.variables[0].value)
    mine.variables[0].assign(2 * mine.variables[0].value)
    fresh.decoder = exact
    expected = fresh.decode(latents)
    fresh.decoder = mine  # which is still the one that decodes
    np.testing.assert_allclose(fresh.decode(latents).astype(int), expected, atol=1)


def test_latents_that_are_not_finite_change_no_decoder(folder, uncompiled):
    model = StableDiffusion.from_preset(folder, dtype="bfloat16", jit_compile=False)
    decoder = model.decoder
    with pytest.raises(ValueError, match="not finite"):
        model.decode(np.full((1, 16, 16, 4), np.nan, "float32"))
    assert model.decoder is decoder and len(model._programs) == 1


def test_a_network_quantized_after_a_picture_makes_the_next_one(fresh):
    before = fresh.text_to_image("a red house", **FEW)
    quantize(fresh.diffusion_model)
    after = fresh.text_to_image("a red house", **FEW)
    assert np.abs(before.astype(int) - after).max() > 0
    other = StableDiffusion(checkpoint=fresh.config, jit_compile=False)
    for name in ("text_encoder", "tokenizer", "decoder", "diffusion_model"):
        setattr(other, name, getattr(fresh, name))
    np.testing.assert_array_equal(after, other.text_to_image("a red house", **FEW))


def test_threads_that_begin_together_make_each_model_and_program_once(fresh, monkeypatch):
    make, compile_one, made = fresh._models.make, fresh._compiled, []
    monkeypatch.setattr(fresh._models, "make", lambda name: made.append(name) or make(name))
    monkeypatch.setattr(
        fresh,
        "_compiled",
        lambda name, *how: made.append((name, *how[1:])) or compile_one(name, *how),
    )
    with ThreadPoolExecutor(3) as threads:
        pictures = list(threads.map(lambda _: fresh.text_to_image("a house", **FEW), range(3)))
    assert len(made) == len(set(made)) == 7  # three models and their programs, and a tokenizer
    for other in pictures[1:]:
        np.testing.assert_array_equal(pictures[0], other)


@pytest.mark.parametrize("dtype, wanted", (("float32", [()]), ("bfloat16", [])))
def test_float32_alone_is_computed_in_full(folder, monkeypatch, dtype, wanted):
    asked = []
    monkeypatch.setattr(compiled_models, "compute_float32_in_full", lambda *a: asked.append(a))
    StableDiffusion.from_preset(folder, dtype=dtype, jit_compile=False)
    assert asked == wanted


def test_a_tokenizer_longer_than_the_text_encoder_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "longer")
    config = tmp_path / "longer" / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 512}))
    model = StableDiffusion.from_preset(tmp_path / "longer", jit_compile=False)
    with pytest.raises(ValueError, match="`model_max_length` is 512, and the text encoder has 77"):
        model.encode_text("a red house")


def test_a_replaced_model_is_forgotten(fresh):
    fresh.text_to_image("a red house", **FEW)
    replaced = weakref.ref(fresh.diffusion_model)
    fresh.diffusion_model = DiffusionModel(fresh.config.diffusion_model)
    fresh.text_to_image("a red house", unconditional_guidance_scale=1.0, **FEW)
    for _ in range(3):
        gc.collect()
    assert replaced() is None


def test_noise_and_a_seed_give_the_same_picture_again(model):
    noise = np.random.default_rng(0).standard_normal((16, 16, 4)).astype("float32")
    options = {**FEW, "sampler": "euler_ancestral", "diffusion_noise": noise}
    first = model.text_to_image("a red house", **options)
    np.testing.assert_array_equal(model.text_to_image("a red house", **options), first)
    other = model.text_to_image("a red house", **{**options, "seed": 9})
    assert not np.array_equal(other, first)  # by the noise on the way


def test_float16_decodes_in_float32(folder, uncompiled):
    half = StableDiffusion.from_preset(folder, dtype="float16", jit_compile=False)
    assert half.diffusion_model.compute_dtype == "float16"
    assert half.decoder.compute_dtype == half.image_encoder.compute_dtype == "float32"


def test_untrained_networks_need_no_files(uncompiled):
    model = StableDiffusion(checkpoint=TINY["sd2"], jit_compile=False)
    assert model.config.schedule.prediction_type == "v_prediction"
    assert model.text_to_image("a red house", **FEW).shape == (1, 32, 32, 3)
    with pytest.raises(ValueError, match="untrained networks take no vae"):
        StableDiffusion(checkpoint=TINY["sd2"], vae="somewhere")


def test_a_distilled_network_is_asked_once_and_told_the_guidance_scale(uncompiled):
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
