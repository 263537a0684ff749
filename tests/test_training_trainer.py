"""What all trainers share: batches of several sizes, several devices, and what may be trained."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from training_cases import CONFIG, autoencoder_batch, diffusion_batch, networks

from kerasdiff.backend import Forms, forms
from kerasdiff.layers import quantize
from kerasdiff.training.autoencoder import AutoencoderTrainer
from kerasdiff.training.data.batches import Batches, DiffusionDraw
from kerasdiff.training.data.lists import Pictures
from kerasdiff.training.diffusion import DiffusionTrainer
from kerasdiff.training.textual_inversion import TextualInversionTrainer
from kerasdiff.training.trainer import Trainer

SIZES = [(4, 4)] * 4 + [(4, 8)] * 2 + [(8, 4)] * 2


class Latents:
    """Latents in three sizes."""

    sizes = SIZES

    def __getitem__(self, i):
        return np.random.default_rng(i).standard_normal((*SIZES[i], 4), "float32")


def draw(latents, rng, stratum):
    """A row of a batch."""
    return {
        "latents": latents,
        "noise": rng.standard_normal(latents.shape, "float32"),
        "tokens": rng.integers(0, 9, 3).astype("int32"),
        "timesteps": rng.integers(0, 9, dtype="int32"),
    }


def batches(sizes, **options):
    """Batches of two, in an order in which the first ones have these sizes."""
    for seed in range(1000):
        made = Batches(Latents(), 2, draw, seed, **options)
        if [SIZES[made.indices(step)[0]] for step in range(len(sizes))] == sizes:
            return made
    raise AssertionError


class Scaling(Trainer):
    """Learns the number that makes noise of latents; notes the sizes that it is traced with."""

    def __init__(self):
        super().__init__(name="scaling")
        self.factor = self.add_weight((), "ones", name="factor")
        self.traced, self.built = [], True
        self.compile(keras.optimizers.SGD(0.1), jit_compile=False)

    def call(self, batch):
        self.traced.append(tuple(batch["latents"].shape[1:3]))
        error = ops.square(batch["noise"] - self.factor * batch["latents"])
        return ops.mean(error, axis=(1, 2, 3)) * ops.cast(1 + batch["timesteps"], "float32")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(y_pred)


def one_by_one(data, steps):
    """The mean of the losses and the factor after steps on the first batches."""
    trainer = Scaling()
    losses = [float(trainer.train_on_batch(data[step][0])) for step in range(steps)]
    return np.mean(losses), float(trainer.factor)


# Batches of several sizes


@pytest.mark.parametrize("workers", (1, 2))
def test_the_first_batches_say_nothing_of_the_sizes_of_others(workers):
    data, trainer = batches([(4, 4), (4, 4), (8, 4), (4, 8)], workers=workers), Scaling()
    history = trainer.fit(data, steps_per_epoch=4, shuffle=False, verbose=0).history
    loss, factor = one_by_one(data, 4)
    assert history["loss"] == pytest.approx([loss], rel=1e-5)
    assert float(trainer.factor) == pytest.approx(factor, rel=1e-5)
    assert set(trainer.traced) == {(4, 4), (4, 8), (8, 4)}  # none of unknown size


def test_epochs_go_on_where_the_one_before_ended():
    data, trainer = batches([(4, 4), (4, 4), (8, 4), (4, 8)]), Scaling()
    trainer.fit(data, epochs=2, steps_per_epoch=2, shuffle=False, verbose=0)
    assert float(trainer.factor) == pytest.approx(one_by_one(data, 4)[1], rel=1e-5)


class Failing(Latents):
    """Latents that, after some, cannot be read any more."""

    def __init__(self, sizes, error):
        self.sizes, self.error, self.count = sizes, error, 0

    def __getitem__(self, i):
        self.count += 1
        if self.count > 8:
            raise self.error
        return super().__getitem__(i)


@pytest.mark.parametrize("sizes, kind", ((SIZES[:4], ValueError), (SIZES, FileNotFoundError)))
def test_an_error_of_the_data_is_raised_as_it_was(sizes, kind):
    data = Batches(Failing(sizes, kind("oak.png")), 2, draw, workers=2)
    with pytest.raises(kind, match="^oak.png$"):
        Scaling().fit(data, steps_per_epoch=9, shuffle=False, verbose=0)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX's steps are Keras' own")
@pytest.mark.parametrize("by_xla", (False, True))
def test_steps_are_traced_with_the_forms_of_training(by_xla, monkeypatch):
    data, found = batches([(4, 4)]), []
    trainer = Scaling()
    call = trainer.call
    trainer.compile(keras.optimizers.SGD(0.1), jit_compile=by_xla)
    monkeypatch.setattr(trainer, "call", lambda batch: found.append(forms()) or call(batch))
    trainer.train_on_batch(data[0][0])
    assert set(found) == {Forms(regional=True)}
    assert forms() == Forms()


# Several devices

ON_TWO_DEVICES = """
import keras, numpy as np, tensorflow as tf
from training_cases import CONFIG, autoencoder_batch, diffusion_batch, networks
from kerasdiff.training import AutoencoderTrainer, DiffusionTrainer
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
BATCHES = {"diffusion": diffusion_batch(), "autoencoder": autoencoder_batch()}
BATCHES["diffusion"]["context"] = np.ones((4, 3, 8), "float32")

def take(kind, strategy):
    with strategy.scope():
        unet, _, encoder, decoder = networks()
        trainer = DiffusionTrainer(CONFIG, unet)
        if kind == "autoencoder":
            trainer = AutoencoderTrainer(encoder, decoder, kl=0.1)
        trainer.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    before = [np.array(v.value) for v in trainer.trainable_variables]
    data = tf.data.Dataset.from_tensors((BATCHES[kind],))
    loss = trainer.fit(data, shuffle=False, verbose=0).history["loss"][0]
    return loss, [np.array(v.value) - old for v, old in zip(trainer.trainable_variables, before)]

for kind in ("diffusion", "autoencoder"):
    loss, changes = take(kind, mirrored)
    wanted_loss, wanted = take(kind, tf.distribute.get_strategy())
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
    for change, right in zip(changes, wanted, strict=True):
        np.testing.assert_allclose(change, right, atol=1e-4 * max(np.abs(right).max(), 1e-2))
    assert max(np.abs(change).max() for change in wanted) > 1e-2
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's strategies")
def test_steps_on_two_devices_are_those_of_one():
    tests = Path(__file__).parent
    path = f"import sys; sys.path.insert(0, {str(tests)!r})"
    command = [sys.executable, "-c", path + ON_TWO_DEVICES]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


# What can be trained


def narrow(place, dtype):
    """One of the networks in a dtype, or in int8."""
    network = networks(dtype=None if dtype == "int8" else dtype)[place]
    if dtype == "int8":
        quantize(network)
    return network


def diffusion(unet, text=None):
    trainer = DiffusionTrainer(CONFIG, unet, text)
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    return trainer


@pytest.mark.parametrize("dtype", ("bfloat16", "float16"))
def test_weights_of_few_bits_are_refused(dtype):
    trainer = diffusion(*networks(dtype=dtype)[:2])
    with pytest.raises(ValueError, match=f'is {dtype}, in .* make its .*"mixed_bfloat16"'):
        trainer.train_on_batch(diffusion_batch())
    with pytest.raises(ValueError, match=f"is {dtype}"):
        trainer.fit([(diffusion_batch(),)], verbose=0)


def test_autoencoders_of_few_bits_are_refused():
    trainer = AutoencoderTrainer(*networks(dtype="bfloat16")[2:])
    trainer.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="is bfloat16"):
        trainer.train_on_batch(autoencoder_batch())


def test_int8_layers_are_refused():
    with pytest.raises(ValueError, match="is int8 and cannot be trained: make its .* `int8`"):
        diffusion(narrow(0, "int8"), networks()[1]).train_on_batch(diffusion_batch())


@pytest.mark.parametrize("dtype", ("bfloat16", "int8"))
def test_what_is_frozen_may_have_few_bits(dtype):
    unet, text = networks()[0], narrow(1, dtype)
    text.trainable = False
    before = np.array(unet.trainable_variables[0].value)
    diffusion(unet, text).train_on_batch(diffusion_batch())
    assert np.abs(np.array(unet.trainable_variables[0].value) - before).max() > 0


@pytest.mark.parametrize("dtype", ("bfloat16", "int8"))
def test_a_token_is_learnt_through_a_frozen_network_of_few_bits(dtype):
    unet, text = narrow(0, dtype), networks()[1]
    trainer = TextualInversionTrainer(CONFIG, unet, text, np.zeros((1, 8)))
    trainer.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    batch = diffusion_batch()
    batch["tokens"][:, 3] = CONFIG.text_encoders[0].vocab_size
    trainer.train_on_batch(batch)
    assert np.abs(np.array(trainer.rows.value)).max() > 0


@pytest.mark.parametrize("dtype, scales", (("mixed_float16", True), ("mixed_bfloat16", False)))
def test_a_loss_is_scaled_where_a_network_computes_in_float16(dtype, scales):
    unet = networks(dtype=dtype)[0]
    scaling = keras.optimizers.LossScaleOptimizer
    assert isinstance(diffusion(unet).optimizer, scaling) is scales
    trainer = DiffusionTrainer(CONFIG, unet)
    own = scaling(keras.optimizers.SGD(0.1), initial_scale=8.0)
    trainer.compile(own)
    assert trainer.optimizer is own
    trainer.compile("sgd", auto_scale_loss=False)
    assert not isinstance(trainer.optimizer, scaling)


def test_a_network_that_a_trainer_froze_is_not_trained_silently():
    unet, text, *_ = networks()
    TextualInversionTrainer(CONFIG, unet, text, np.zeros((1, 8)))
    trainer = diffusion(unet, text)
    with pytest.raises(ValueError, match="nothing of diffusion_trainer is trainable: set"):
        trainer.train_on_batch(diffusion_batch())
    with pytest.raises(ValueError, match="nothing of"):
        trainer.fit([(diffusion_batch(),)], verbose=0)
    unet.trainable = True
    before = np.array(unet.trainable_variables[0].value)
    diffusion(unet, text).train_on_batch(diffusion_batch())
    assert np.abs(np.array(unet.trainable_variables[0].value) - before).max() > 0


def test_an_image_encoder_that_a_trainer_froze_is_said_to_be():
    unet, _, encoder, decoder = networks()
    DiffusionTrainer(CONFIG, unet, image_encoder=encoder)
    with pytest.raises(ValueError, match="`image_encoder` is frozen.* or `kl=0.0` to train the de"):
        AutoencoderTrainer(encoder, decoder)
    alone = AutoencoderTrainer(encoder, decoder, kl=0.0)
    assert len(alone.trainable_variables) == len(decoder.trainable_variables)
    encoder.trainable = True
    both = len(encoder.moments.trainable_variables) + len(decoder.trainable_variables)
    assert len(AutoencoderTrainer(encoder, decoder).trainable_variables) == both


def test_pure_noise_that_would_have_no_weight_is_refused():
    def trainer(gamma, **changes):
        config = replace(CONFIG, schedule=replace(CONFIG.schedule, **changes))
        made = DiffusionTrainer(config, networks()[0], snr_gamma=gamma)
        made.compile("sgd", run_eagerly=True)
        return made

    def batches(**options):
        draw = DiffusionDraw([], CONFIG, **options)
        return Batches(Pictures(np.zeros((2, 16, 16, 3), "uint8")), 2, draw)

    zero = {"prediction_type": "v_prediction", "zero_terminal_snr": True}
    half = batches(pure_noise=0.5)
    with pytest.raises(ValueError, match="`snr_gamma` gives the weight 0 .* `pure_noise` asks for"):
        trainer(5.0, **zero).fit(half, steps_per_epoch=1, shuffle=False, verbose=0)

    class Taken(Exception):
        """The first batch was asked for."""

    def begin(*_):
        raise Taken

    for made, data in (
        (trainer(5.0), half), (trainer(None, **zero), half), (trainer(5.0, **zero), batches()),
    ):  # fmt: skip
        made.train_step = begin
        with pytest.raises(Taken):
            made.fit(data, steps_per_epoch=1, shuffle=False, verbose=0)
