"""`import kerasdiff as keras_cv`: names, arguments and shapes as keras-cv's scripts use them.

Networks are tiny; the calls are those of the tutorials on keras.io (generation, latent walks,
fine-tuning, textual inversion) and of keras-cv's own tests.
"""

import keras
import numpy as np
import pytest
from keras import ops
from stable_diffusion_cases import tiny_checkpoint

import kerasdiff as keras_cv
from kerasdiff.checkpoints.checkpoint import open_checkpoint
from kerasdiff.configs import TINY
from kerasdiff.models.stable_diffusion import published
from kerasdiff.models.stable_diffusion.clip_tokenizer import SimpleTokenizer
from kerasdiff.models.stable_diffusion.constants import _ALPHAS_CUMPROD, _UNCONDITIONAL_TOKENS
from kerasdiff.models.stable_diffusion.decoder import Decoder
from kerasdiff.models.stable_diffusion.diffusion_model import DiffusionModel
from kerasdiff.models.stable_diffusion.image_encoder import ImageEncoder
from kerasdiff.models.stable_diffusion.noise_scheduler import NoiseScheduler
from kerasdiff.models.stable_diffusion.stable_diffusion import MAX_PROMPT_LENGTH, StableDiffusion
from kerasdiff.models.stable_diffusion.text_encoder import TextEncoder

SIZE = 32
CONFIG = TINY["sd1"]
FACTOR, WIDTH = CONFIG.autoencoder.factor, CONFIG.text_encoders[0].width


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, folder):
    """The published checkpoint is a tiny one."""
    monkeypatch.setitem(published.CONFIGS, "sd-v1-4", CONFIG)
    monkeypatch.setattr(published, "find_and_open", lambda name: open_checkpoint(folder))


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


def test_generation(model):
    images = model.text_to_image("photograph of an astronaut riding a horse", batch_size=3,
                                 num_steps=2, seed=1)  # fmt: skip
    assert images.shape == (3, SIZE, SIZE, 3) and images.dtype == np.uint8
    context = model.encode_text("Tacos at dawn")
    assert context.shape == (1, 77, WIDTH)
    alone = model.generate_image(context, batch_size=3, num_steps=2, seed=1,
                                 unconditional_guidance_scale=7.5)  # fmt: skip
    assert alone.shape == images.shape


def test_a_walk_from_text_to_text(model):
    noise = keras.random.normal((SIZE // FACTOR, SIZE // FACTOR, 4), seed=12345)
    first = ops.squeeze(model.encode_text("A watercolor painting of a golden retriever"))
    second = ops.squeeze(model.encode_text("A still life of fruit"))
    steps = ops.linspace(first, second, 4)
    batches = ops.split(steps, 2)
    images = [
        image
        for batch in batches
        for image in model.generate_image(batch, batch_size=2, num_steps=2, diffusion_noise=noise)
    ]
    assert len(images) == 4
    again = model.generate_image(first, batch_size=1, num_steps=2, diffusion_noise=noise)
    assert np.abs(images[0].astype(int) - again[0]).max() <= 1


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


def test_sizes_are_not_rounded_silently():
    with pytest.raises(ValueError, match="`img_height` must be a multiple of"):
        DiffusionModel(SIZE + 1, SIZE, 77, download_weights=False)


class FineTuner(keras.Model):
    """As in the tutorial on fine-tuning: frozen autoencoder, one gradient step for a batch."""

    def __init__(self, diffusion_model, vae, noise_scheduler):
        super().__init__()
        self.diffusion_model, self.vae = diffusion_model, vae
        self.noise_scheduler = noise_scheduler
        self.vae.trainable = False

    def call(self, inputs):
        images, encoded_text, timesteps, noise = inputs
        moments = self.vae(images, training=False)
        mean, log_variance = ops.split(moments, 2, axis=-1)
        latents = (mean + ops.exp(0.5 * ops.clip(log_variance, -30, 20)) * noise) * 0.18215
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        width = self.diffusion_model.inputs[1].shape[-1]
        embedding = ops.zeros((images.shape[0], width))
        return self.diffusion_model([noisy, embedding, encoded_text], training=True)


def test_fine_tuning(tmp_path):
    image_encoder = ImageEncoder()
    vae = keras.Model(image_encoder.input, image_encoder.layers[-2].output)
    scheduler = NoiseScheduler()
    trainer = FineTuner(DiffusionModel(SIZE, SIZE, MAX_PROMPT_LENGTH), vae, scheduler)
    trainer.compile(optimizer=keras.optimizers.AdamW(1e-3), loss="mse", run_eagerly=True)
    rng = np.random.default_rng(0)
    latent = (2, SIZE // FACTOR, SIZE // FACTOR, 4)
    noise = rng.standard_normal(latent, "float32")
    timesteps = rng.integers(0, scheduler.train_timesteps, 2)
    text = TextEncoder(77)([np.array([_UNCONDITIONAL_TOKENS] * 2), np.arange(77)[None]])
    inputs = [np.zeros((2, SIZE, SIZE, 3), "float32"), np.array(text), timesteps, noise]
    frozen = [np.array(weight) for weight in vae.weights]
    losses = [trainer.train_on_batch(inputs, noise) for _ in range(3)]
    assert losses[-1] < losses[0]
    for before, after in zip(frozen, vae.weights, strict=True):
        np.testing.assert_array_equal(before, after)
    trainer.diffusion_model.save_weights(tmp_path / "finetuned.weights.h5")
    user = keras_cv.models.StableDiffusion(SIZE, SIZE, jit_compile=False)
    before = user.text_to_image("x", num_steps=1, seed=0)
    user.diffusion_model.load_weights(tmp_path / "finetuned.weights.h5")
    assert not np.array_equal(before, user.text_to_image("x", num_steps=1, seed=0))


def test_textual_inversion(model):
    tokenizer = model.tokenizer
    assert tokenizer.add_tokens("<my-funny-cat-token>") == 1
    old = model.text_encoder
    weights = old.layers[2].token_embedding.get_weights()[0]
    cat = weights[tokenizer.encode("cat")[1]]
    new = TextEncoder(MAX_PROMPT_LENGTH, vocab_size=len(tokenizer), download_weights=False)
    for index, layer in enumerate(old.layers):
        if index != 2:  # the layer of the tables
            new.layers[index].set_weights(layer.get_weights())
    new.layers[2].token_embedding.set_weights([np.concatenate([weights, cat[None]])])
    new.layers[2].position_embedding.set_weights(old.layers[2].position_embedding.get_weights())
    model._text_encoder = new
    wanted = model.encode_text("a photo of a cat")
    given = model.encode_text("a photo of a <my-funny-cat-token>")
    np.testing.assert_allclose(given, wanted, atol=1e-5)
    new.layers[2].token_embedding.trainable = False
    names = {weight.path for weight in new.trainable_weights}
    assert names and not any("token_embedding" in name for name in names)
