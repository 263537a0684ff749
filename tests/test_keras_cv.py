"""`import kerasdiff as keras_cv`: names, arguments and shapes as keras-cv's scripts use them.

Networks are tiny; the calls are those of keras-cv's own tests and of the tutorials on keras.io,
which `runtimes/test_keras_cv_tutorials.py` goes through whole.
"""

import keras
import numpy as np
import pytest
from keras import ops

import kerasdiff as keras_cv
from kerasdiff.configs import TINY
from kerasdiff.models.stable_diffusion import published
from kerasdiff.models.stable_diffusion.clip_tokenizer import SimpleTokenizer
from kerasdiff.models.stable_diffusion.constants import _ALPHAS_CUMPROD, _UNCONDITIONAL_TOKENS
from kerasdiff.models.stable_diffusion.decoder import Decoder
from kerasdiff.models.stable_diffusion.diffusion_model import DiffusionModel, DiffusionModelV2
from kerasdiff.models.stable_diffusion.image_encoder import ImageEncoder
from kerasdiff.models.stable_diffusion.stable_diffusion import MAX_PROMPT_LENGTH, StableDiffusion
from kerasdiff.models.stable_diffusion.text_encoder import TextEncoder, TextEncoderV2

SIZE = 32
CONFIG = TINY["sd1"]
FACTOR, WIDTH = CONFIG.autoencoder.factor, CONFIG.text_encoders[0].width


pytestmark = pytest.mark.usefixtures("tiny_preset")


@pytest.fixture
def model():
    return keras_cv.models.StableDiffusion(img_width=SIZE, img_height=SIZE, jit_compile=False)


def test_the_namespace_is_keras_cvs():
    names = "SimpleTokenizer TextEncoder TextEncoderV2 ImageEncoder Decoder DiffusionModel "
    for name in (names + "DiffusionModelV2 NoiseScheduler StableDiffusion").split():
        assert hasattr(keras_cv.models.stable_diffusion, name)
    assert keras_cv.models.StableDiffusion is StableDiffusion
    assert issubclass(keras_cv.models.StableDiffusionV2, StableDiffusion)
    assert keras_cv.models.stable_diffusion.SimpleTokenizer is SimpleTokenizer
    assert MAX_PROMPT_LENGTH == len(_UNCONDITIONAL_TOKENS) == 77
    assert _UNCONDITIONAL_TOKENS == [49406] + [49407] * 76
    assert len(_ALPHAS_CUMPROD) == 1000 and _ALPHAS_CUMPROD[0] == pytest.approx(0.99915)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_noise_for_each_picture_or_for_all(model, dtype):
    noise = np.random.default_rng(0).standard_normal((2, SIZE // FACTOR, SIZE // FACTOR, 4))
    context = model.encode_text("fruit")[0]
    both = model.generate_image(context, batch_size=2, num_steps=2,
                                diffusion_noise=noise.astype(dtype))  # fmt: skip
    one = model.generate_image(context, batch_size=1, num_steps=2, diffusion_noise=noise[1])
    assert np.abs(both[1].astype(int) - one[0]).max() <= 1
    assert not np.array_equal(both[0], both[1])


def test_noise_and_a_seed_are_refused(model):
    noise = np.zeros((SIZE // FACTOR, SIZE // FACTOR, 4))
    with pytest.raises(ValueError, match="`diffusion_noise` and `seed`"):
        model.generate_image(model.encode_text("x"), diffusion_noise=noise, seed=1)


def test_texts_and_pictures_must_agree_in_number(model):
    texts = np.zeros((3, 77, WIDTH))
    with pytest.raises(ValueError, match="`encoded_text` holds 3 texts"):
        model.generate_image(texts, batch_size=2)


def test_parts_can_be_replaced_under_keras_cvs_names(model):
    before = model.text_to_image("a cat", num_steps=1, seed=0)
    encoder = TextEncoder(MAX_PROMPT_LENGTH, download_weights=False)
    encoder.compile(jit_compile=True)
    model._text_encoder = encoder
    assert model.text_encoder is model._text_encoder is encoder
    assert not np.array_equal(before, model.text_to_image("a cat", num_steps=1, seed=0))
    for name in ("_diffusion_model", "_decoder", "_image_encoder", "_tokenizer"):
        assert getattr(model, name) is getattr(model, name[1:])


def test_inputs_are_taken_as_lists_and_dicts_of_any_number():
    encoder = TextEncoder(77)
    tokens = np.float64([_UNCONDITIONAL_TOKENS] * 2)
    positions = np.arange(77, dtype="int32")[None]
    one = encoder([tokens, positions])
    other = encoder({"tokens": tokens, "positions": positions})
    assert one.shape == (2, 77, WIDTH)
    np.testing.assert_array_equal(one, other)
    network = DiffusionModel(SIZE, SIZE, 77)
    width = CONFIG.diffusion_model.channels[0]
    noise = ops.zeros((2, SIZE // FACTOR, SIZE // FACTOR, 4))
    output = network([noise, ops.zeros((2, width)), one], training=True)
    assert output.shape == noise.shape
    assert Decoder(SIZE, SIZE).predict(noise, verbose=0).shape == (2, SIZE, SIZE, 3)


def test_weights_are_the_published_ones_or_none():
    published_one, untrained = TextEncoder(77), TextEncoder(77, download_weights=False)
    model = keras_cv.models.StableDiffusion(SIZE, SIZE)
    for mine, theirs in zip(published_one.weights, model.text_encoder.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(published_one.weights, untrained.weights, strict=True)
    )


def test_without_a_network_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("KERASDIFF_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setitem(published.CONFIGS, "sd-v1-4", CONFIG)
    with pytest.raises(ValueError, match="could not be downloaded(.|\n)*by hand"):
        TextEncoder(77)
    model = keras_cv.models.StableDiffusion(SIZE, SIZE)  # downloads nothing yet
    with pytest.raises(ValueError, match="could not be downloaded"):
        model.text_to_image("a cat")


def no_network(*_, **__):
    raise OSError("network is unreachable")


@pytest.mark.parametrize("kind", (TextEncoder, DiffusionModel, Decoder, ImageEncoder))
def test_weights_and_models_are_saved_and_come_back(kind, tmp_path):
    arguments = {TextEncoder: (77,), DiffusionModel: (SIZE, SIZE, 77), Decoder: (SIZE, SIZE),
                 ImageEncoder: ()}[kind]  # fmt: skip
    one, other = kind(*arguments), kind(*arguments, download_weights=False)
    one.save_weights(tmp_path / "it.weights.h5")
    other.load_weights(tmp_path / "it.weights.h5")
    one.save(tmp_path / "it.keras")
    whole = keras.saving.load_model(tmp_path / "it.keras")
    for a, b, c in zip(one.weights, other.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_every_part_reads_keras_cvs_files(model, monkeypatch):
    seen = []
    monkeypatch.setattr(published, "_is_legacy", lambda path: True)
    monkeypatch.setattr(published, "read_keras_h5", lambda *given: given)
    monkeypatch.setattr(published, "load", lambda part, given: seen.append((part.name, given)))
    for part in ("text_encoder", "image_encoder", "decoder", "diffusion_model"):
        getattr(model, part).load_weights("old.h5")
    assert seen == [
        (part, ("old.h5", part, CONFIG))
        for part in ("text_encoder", "image_encoder", "decoder", "diffusion_model")
    ]


def test_networks_compute_in_the_global_policy():
    before = keras.config.dtype_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = keras_cv.models.StableDiffusion(SIZE, SIZE, jit_compile=False)
        for part, dtype in (("text_encoder", "float16"), ("diffusion_model", "float16"),
                            ("decoder", "float32"), ("image_encoder", "float32")):  # fmt: skip
            network = getattr(model, part)
            assert network.compute_dtype == dtype and network.variable_dtype == "float32"
        assert model.text_to_image("x", num_steps=1, seed=0).std() > 1.0
    finally:
        keras.config.set_dtype_policy(before)


def test_the_second_version_is_made_of_its_own_networks(monkeypatch):
    monkeypatch.setitem(published.CONFIGS, "sd-v2-1-base", TINY["sd2"])
    model = keras_cv.models.StableDiffusionV2(SIZE, SIZE, jit_compile=False)
    monkeypatch.setattr(published.Preset, "load", lambda *_: None)
    assert type(model.text_encoder) is TextEncoderV2
    assert type(model.diffusion_model) is DiffusionModelV2
    assert model.text_encoder.config.width == TINY["sd2"].text_encoders[0].width


def test_other_checkpoints_are_another_class_s():
    with pytest.raises(TypeError, match=r"sd-v2-1-base alone: kerasdiff\.StableDiffusion\.from_p"):
        keras_cv.models.StableDiffusionV2.from_preset("demo")


def test_layers_for_pictures_are_keras_own():
    crop = keras_cv.layers.CenterCrop(8, 8)
    augment = keras_cv.layers.Augmenter(layers=[crop, keras_cv.layers.RandomFlip("horizontal")])
    assert augment(np.zeros((2, 16, 16, 3), "float32")).shape == (2, 8, 8, 3)
    with pytest.raises(AttributeError, match="neither kerasdiff.layers nor keras.layers has 'Grid"):
        keras_cv.layers.GridMask()
    assert not hasattr(keras_cv.layers, "Conv2D")


def test_sizes_are_not_rounded_silently():
    with pytest.raises(ValueError, match="`img_height` must be a multiple of"):
        DiffusionModel(SIZE + 1, SIZE, 77, download_weights=False)
