"""keras.io's four tutorials on Stable Diffusion: the same calls in their order, on tiny networks.

Where Keras 3 itself asks for another spelling than Keras 2 (`compute_loss` for `compiled_loss`,
`.weights.h5` of checkpoints) the scripts have it.
"""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasdiff as keras_cv
from kerasdiff.configs import TINY
from kerasdiff.models.stable_diffusion.clip_tokenizer import SimpleTokenizer
from kerasdiff.models.stable_diffusion.diffusion_model import DiffusionModel
from kerasdiff.models.stable_diffusion.image_encoder import ImageEncoder
from kerasdiff.models.stable_diffusion.noise_scheduler import NoiseScheduler
from kerasdiff.models.stable_diffusion.text_encoder import TextEncoder

SIZE, FACTOR = 32, TINY["sd1"].autoencoder.factor
WIDTH = TINY["sd1"].text_encoders[0].width
TIME_WIDTH = TINY["sd1"].diffusion_model.channels[0]  # 320 in Stable Diffusion
MAX_PROMPT_LENGTH = 77
POSITIONS = tf.expand_dims(tf.range(MAX_PROMPT_LENGTH, dtype=tf.int32), 0)

pytestmark = pytest.mark.usefixtures("tiny_preset")


@pytest.fixture
def model():
    return keras_cv.models.StableDiffusion(img_width=SIZE, img_height=SIZE, jit_compile=False)


@pytest.fixture
def half():
    """Mixed precision, as the tutorials switch it on."""
    before = keras.config.dtype_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def sample_from_encoder_outputs(outputs):
    mean, logvar = tf.split(outputs, 2, axis=-1)
    logvar = tf.clip_by_value(logvar, -30.0, 20.0)
    std = tf.exp(0.5 * logvar)
    return mean + std * tf.random.normal(tf.shape(mean), dtype=mean.dtype)


def get_timestep_embedding(timestep, dim=TIME_WIDTH, max_period=10000):
    half = dim // 2
    freqs = tf.math.exp(-math.log(max_period) * tf.range(0, half, dtype=tf.float32) / half)
    args = tf.convert_to_tensor([timestep], dtype=tf.float32) * freqs
    return tf.concat([tf.math.cos(args), tf.math.sin(args)], 0)


def noisy_latents(encoder, scheduler, images):
    """What both training tutorials do first: latents, noise, timesteps, and the mixture."""
    latents = sample_from_encoder_outputs(encoder(images, training=False)) * 0.18215
    noise = tf.random.normal(tf.shape(latents), dtype=latents.dtype)
    timesteps = tf.random.uniform(
        (tf.shape(latents)[0],), minval=0, maxval=scheduler.train_timesteps, dtype=tf.int64
    )
    noisy = scheduler.add_noise(tf.cast(latents, noise.dtype), noise, timesteps)
    embedding = tf.map_fn(get_timestep_embedding, timesteps, fn_output_signature=tf.float32)
    return noisy, embedding, noise


def test_generation(half):
    model = keras_cv.models.StableDiffusion(img_width=SIZE, img_height=SIZE, jit_compile=True)
    model.text_to_image("warming up the model", batch_size=3, num_steps=1)
    prompt = "A mysterious dark stranger visits the great pyramids of egypt, high quality"
    images = model.text_to_image(prompt, batch_size=3, num_steps=1)
    assert images.shape == (3, SIZE, SIZE, 3) and images.dtype == np.uint8


def test_random_walks(model):
    prompt = "A watercolor painting of a Golden Retriever at the beach"
    encoding = tf.squeeze(model.encode_text(prompt))
    assert encoding.shape == (77, WIDTH)
    others = ["A still life DSLR photo of a bowl of fruit", "The eiffel tower", "A skyscraper"]
    others = [tf.squeeze(model.encode_text(text)) for text in others]
    # a grid between four prompts
    left, right = (tf.linspace(a, b, 2) for a, b in ((encoding, others[0]), others[1:]))
    encodings = tf.reshape(tf.linspace(left, right, 2), (4, 77, WIDTH))
    noise = tf.random.normal((SIZE // FACTOR, SIZE // FACTOR, 4), seed=12345)
    images = []
    for batch in tf.split(encodings, 2):
        images += list(
            model.generate_image(batch, batch_size=2, num_steps=2, diffusion_noise=noise)
        )
    assert len(images) == 4
    again = model.generate_image(encoding, batch_size=1, num_steps=2, diffusion_noise=noise)
    assert np.abs(images[0].astype(int) - again[0]).max() <= 1
    # around one prompt
    step = tf.random.normal(tf.shape(encoding), stddev=0.01)
    for _ in range(2):
        walked = model.generate_image(encoding, batch_size=1, num_steps=1, seed=12345)
        assert walked.shape == (1, SIZE, SIZE, 3)
        encoding += step
    # in a circle of noises
    walk_noise_x, walk_noise_y = (tf.random.normal(noise.shape, dtype=tf.float64) for _ in "xy")
    angles = tf.linspace(0, 2, 4) * math.pi
    circle = tf.add(
        tf.tensordot(tf.cos(angles), walk_noise_x, axes=0),
        tf.tensordot(tf.sin(angles), walk_noise_y, axes=0),
    )
    for noises in tf.split(circle, 2):
        batch = model.generate_image(encoding, batch_size=2, num_steps=1, diffusion_noise=noises)
        assert batch.shape == (2, SIZE, SIZE, 3)


class Trainer(keras.Model):
    """As in the tutorial on fine-tuning."""

    def __init__(self, diffusion_model, vae, noise_scheduler, max_grad_norm=1.0):
        super().__init__()
        self.diffusion_model, self.vae = diffusion_model, vae
        self.noise_scheduler, self.max_grad_norm = noise_scheduler, max_grad_norm
        self.vae.trainable = False

    def train_step(self, inputs):
        images, encoded_text = inputs["images"], inputs["encoded_text"]
        with tf.GradientTape() as tape:
            noisy, embedding, target = noisy_latents(self.vae, self.noise_scheduler, images)
            model_pred = self.diffusion_model([noisy, embedding, encoded_text], training=True)
            loss = tf.reduce_mean(tf.square(target - tf.cast(model_pred, target.dtype)))
        trainable_vars = self.diffusion_model.trainable_variables
        gradients = tape.gradient(loss, trainable_vars)
        gradients = [tf.clip_by_norm(g, self.max_grad_norm) for g in gradients]
        self.optimizer.apply_gradients(zip(gradients, trainable_vars, strict=True))
        return {"loss": loss}

    def save_weights(self, filepath, overwrite=True):
        self.diffusion_model.save_weights(filepath=filepath, overwrite=overwrite)


def test_fine_tuning(half, tmp_path):
    tokenizer = SimpleTokenizer()
    tokens = tokenizer.encode("a drawing of a pokemon")
    row = np.array(tokens + [49407] * (MAX_PROMPT_LENGTH - len(tokens)), "float64")
    assert "a drawing of a pokemon" in tokenizer.decode(row)  # the tutorial shows its captions so
    text_encoder = TextEncoder(MAX_PROMPT_LENGTH)
    augmenter = keras_cv.layers.Augmenter(
        layers=[keras_cv.layers.CenterCrop(SIZE, SIZE), keras_cv.layers.RandomFlip(),
                keras.layers.Rescaling(scale=1.0 / 127.5, offset=-1)]
    )  # fmt: skip
    pictures = np.random.default_rng(0).integers(0, 256, (4, SIZE + 8, SIZE + 8, 3))
    dataset = tf.data.Dataset.from_tensor_slices((np.float32(pictures), np.stack([row] * 4)))
    dataset = dataset.batch(2).map(
        lambda images, tokens: {
            "images": augmenter(images),
            "encoded_text": text_encoder([tokens, POSITIONS], training=False),
        }
    )
    image_encoder = ImageEncoder()
    trainer = Trainer(
        diffusion_model=DiffusionModel(SIZE, SIZE, MAX_PROMPT_LENGTH),
        # the encoder without its last layer, which samples
        vae=keras.Model(image_encoder.input, image_encoder.layers[-2].output),
        noise_scheduler=NoiseScheduler(),
    )
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=1e-2, beta_1=0.9, epsilon=1e-8)
    trainer.compile(optimizer=optimizer, loss="mse", jit_compile=False)
    path = str(tmp_path / "finetuned.weights.h5")
    callback = keras.callbacks.ModelCheckpoint(path, save_weights_only=True, monitor="loss")
    history = trainer.fit(dataset, epochs=2, callbacks=[callback], verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    user = keras_cv.models.StableDiffusion(SIZE, SIZE, jit_compile=False)
    before = [np.array(weight) for weight in user.diffusion_model.weights]
    user.diffusion_model.load_weights(path)
    for weight, old, new in zip(
        user.diffusion_model.weights, before, trainer.diffusion_model.weights, strict=True
    ):
        np.testing.assert_array_equal(weight, new)
        assert not np.array_equal(weight, old)


def traverse_layers(layer):
    if hasattr(layer, "layers"):
        yield from layer.layers
    if hasattr(layer, "token_embedding"):
        yield layer.token_embedding
    if hasattr(layer, "position_embedding"):
        yield layer.position_embedding


class StableDiffusionFineTuner(keras.Model):
    """As in the tutorial on textual inversion: one row of one table learns."""

    def __init__(self, stable_diffusion, encoder, noise_scheduler, placeholder, **kwargs):
        super().__init__(**kwargs)
        self.stable_diffusion, self.encoder = stable_diffusion, encoder
        self.noise_scheduler, self.placeholder = noise_scheduler, placeholder

    def train_step(self, data):
        images, embeddings = data
        with tf.GradientTape() as tape:
            noisy, embedding, noise = noisy_latents(self.encoder, self.noise_scheduler, images)
            state = self.stable_diffusion.text_encoder([embeddings, POSITIONS])
            noise_pred = self.stable_diffusion.diffusion_model([noisy, embedding, state])
            loss = tf.reduce_mean(tf.square(noise_pred - noise))
        trainable_weights = self.stable_diffusion.text_encoder.trainable_weights
        grads = tape.gradient(loss, trainable_weights)
        # of the table only the new token's row learns
        condition = tf.expand_dims(grads[0].indices == self.placeholder, axis=-1)
        grads[0] = tf.IndexedSlices(
            values=tf.where(condition, grads[0].values, 0),
            indices=grads[0].indices, dense_shape=grads[0].dense_shape,
        )  # fmt: skip
        self.optimizer.apply_gradients(zip(grads, trainable_weights, strict=True))
        return {"loss": loss}


def test_textual_inversion(model):
    placeholder_token = "<my-funny-cat-token>"
    model.tokenizer.add_tokens(placeholder_token)
    tokens = model.tokenizer.encode(f"a photo of a {placeholder_token}")
    row = np.array(tokens + [49407] * (MAX_PROMPT_LENGTH - len(tokens)))
    # a larger table, whose last row begins as "cat"
    tokenized_initializer = model.tokenizer.encode("cat")[1]
    old = model.text_encoder
    new_weights = old.layers[2].token_embedding(tf.constant(tokenized_initializer))
    new_vocab_size = len(model.tokenizer.vocab)
    new = TextEncoder(MAX_PROMPT_LENGTH, vocab_size=new_vocab_size, download_weights=False)
    for index, layer in enumerate(old.layers):
        if index != 2:  # the layer of the tables
            new.layers[index].set_weights(layer.get_weights())
    old_token_weights = old.layers[2].token_embedding.get_weights()[0]
    new_token_weights = np.append(old_token_weights, np.expand_dims(new_weights, 0), axis=0)
    new.layers[2].token_embedding.set_weights([new_token_weights])
    new.layers[2].position_embedding.set_weights(old.layers[2].position_embedding.get_weights())
    model._text_encoder = new
    model._text_encoder.compile(jit_compile=True)
    wanted = model.encode_text("a photo of a cat")
    np.testing.assert_allclose(model.encode_text(f"a photo of a {placeholder_token}"), wanted,
                               atol=1e-5)  # fmt: skip

    model.diffusion_model.trainable = model.decoder.trainable = False
    model.text_encoder.trainable = True
    new.layers[2].trainable = True
    for layer in traverse_layers(model.text_encoder):
        layer.trainable = (
            isinstance(layer, keras.layers.Embedding) or "clip_embedding" in layer.name
        )
    new.layers[2].position_embedding.trainable = False
    assert len(model.text_encoder.trainable_weights) == 1

    encoder = keras.Model(model.image_encoder.input, model.image_encoder.layers[-2].output)
    trainer = StableDiffusionFineTuner(model, encoder, NoiseScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", train_timesteps=1000
    ), new_vocab_size - 1, name="trainer")  # fmt: skip
    trainer.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=False)
    images = np.random.default_rng(0).uniform(-1, 1, (2, SIZE, SIZE, 3)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((images, np.stack([row] * 2))).batch(2)
    trainer.fit(dataset, epochs=2, verbose=0)
    learnt = new.layers[2].token_embedding.get_weights()[0]
    np.testing.assert_array_equal(learnt[:-1], old_token_weights)
    assert np.abs(learnt[-1] - new_token_weights[-1]).max() > 1e-3
    given = model.encode_text(f"a photo of a {placeholder_token}")
    assert np.abs(given - wanted).max() > 1e-3
