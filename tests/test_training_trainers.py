"""The trainers' losses against formulas in NumPy, and how steps change weights."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from training_cases import CONFIG, autoencoder_batch, diffusion_batch, networks

from kerasdiff.diffusion_model import DiffusionModel, timestep_embedding
from kerasdiff.training.autoencoder import AutoencoderTrainer, patch_discriminator
from kerasdiff.training.averages import averaged
from kerasdiff.training.diffusion import DiffusionTrainer
from kerasdiff.training.runs.networks import choose_trained


def scheduled(**changes):
    return replace(CONFIG, schedule=replace(CONFIG.schedule, **changes))


def alphas_cumprod():
    """Of Stable Diffusion's schedule, in float64."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.cumprod(1.0 - betas)


def sgd(rate=1.0, **options):
    return keras.optimizers.SGD(rate, **options)


def values(variables):
    return [np.array(variable.value) for variable in variables]


def step(trainer, *batches, **options):
    """The changes of the trained variables by steps of SGD, run eagerly."""
    before = values(trainer.trainable_variables)
    trainer.compile(optimizer=sgd(**options), run_eagerly=True)
    for batch in batches:
        trainer.train_on_batch(batch)
    after = values(trainer.trainable_variables)
    return [new - old for new, old in zip(after, before, strict=True)]


def close(ones, others, tolerance=2e-5):
    for one, other in zip(ones, others, strict=True):
        scale = max(np.abs(other).max(), 1e-3)
        np.testing.assert_allclose(one, other, atol=tolerance * scale, rtol=0)


# Diffusion


def squared_errors(trainer, batch, kind):
    """Each row's mean squared error, from the definition."""
    abar = alphas_cumprod()[batch["timesteps"]][:, None, None, None]
    signal, spread = np.sqrt(abar), np.sqrt(1.0 - abar)
    latents, noise = batch["latents"].astype("float64"), batch["noise"].astype("float64")
    context = trainer.text_encoder({"tokens": batch["tokens"], "positions": np.arange(12)[None]})
    predicted = trainer.diffusion_model(
        {
            "latent": np.float32(signal * latents + spread * noise),
            "timestep_embedding": np.asarray(timestep_embedding(batch["timesteps"], 8)),
            "context": np.asarray(context),
        }
    )
    targets = {
        "epsilon": noise,
        "v_prediction": signal * noise - spread * latents,
        "sample": latents,
    }
    return np.mean((np.asarray(predicted, "float64") - targets[kind]) ** 2, axis=(1, 2, 3))


@pytest.mark.parametrize("kind", ("epsilon", "v_prediction", "sample"))
def test_the_loss_is_the_squared_error_of_what_is_predicted(kind):
    trainer = DiffusionTrainer(scheduled(prediction_type=kind), *networks()[:2])
    batch = diffusion_batch()
    np.testing.assert_allclose(trainer(batch), squared_errors(trainer, batch, kind), rtol=2e-5)
    trainer.compile(optimizer=sgd(0.0), run_eagerly=True)
    loss = trainer.train_on_batch(batch)
    assert loss == pytest.approx(squared_errors(trainer, batch, kind).mean(), rel=2e-5)


@pytest.mark.parametrize("gamma", (1.0, 5.0))
def test_min_snr_weights_are_those_of_the_paper(gamma):
    """arXiv 2303.09556: min(SNR, gamma) / SNR for noise, min(SNR, gamma) / (SNR + 1) for v."""
    abar = alphas_cumprod()
    snr = abar / (1.0 - abar)
    expected = {
        "epsilon": np.minimum(snr, gamma) / snr,
        "v_prediction": np.minimum(snr, gamma) / (snr + 1.0),
        "sample": np.minimum(snr, gamma),
    }
    unet = networks()[0]
    for kind, weights in expected.items():
        trainer = DiffusionTrainer(scheduled(prediction_type=kind), unet, snr_gamma=gamma)
        np.testing.assert_allclose(trainer.weights_of_timesteps, weights, rtol=2e-4)
    zero = scheduled(prediction_type="v_prediction", zero_terminal_snr=True)
    weights = DiffusionTrainer(zero, unet, snr_gamma=gamma).weights_of_timesteps
    assert weights[-1] == 0.0 and np.isfinite(weights).all()


def test_rows_are_weighted_by_their_timesteps():
    trainer = DiffusionTrainer(CONFIG, *networks()[:2], snr_gamma=5.0)
    batch = diffusion_batch()
    weights = np.asarray(trainer.weights_of_timesteps)[batch["timesteps"]]
    expected = weights * squared_errors(trainer, batch, "epsilon")
    np.testing.assert_allclose(trainer(batch), expected, rtol=2e-5)


def test_latents_come_from_pictures_moments_or_as_they_are():
    unet, text, encoder, _ = networks()
    trainer = DiffusionTrainer(CONFIG, unet, text, encoder)
    batch = diffusion_batch()
    rng = np.random.default_rng(3)
    posterior = rng.standard_normal(batch["latents"].shape, "float32")
    pictures = rng.integers(0, 256, (4, 16, 16, 3), dtype="uint8")
    moments = np.asarray(encoder.moments(np.float32(pictures / 127.5 - 1.0)))
    mean, log_variance = np.split(moments, 2, axis=-1)
    scale = CONFIG.autoencoder.scaling_factor
    latents = (mean + np.exp(0.5 * log_variance) * posterior) * scale
    rest = {name: batch[name] for name in ("noise", "timesteps", "tokens")}
    expected = np.asarray(trainer(rest | {"latents": latents}))
    given = rest | {"posterior_noise": posterior}
    np.testing.assert_allclose(trainer(given | {"pictures": pictures}), expected, rtol=1e-5)
    np.testing.assert_allclose(trainer(given | {"moments": moments}), expected, rtol=1e-5)


def test_what_cannot_be_trained_is_refused():
    unet = networks()[0]
    with pytest.raises(ValueError, match="`snr_gamma` must be positive"):
        DiffusionTrainer(CONFIG, unet, snr_gamma=0.0)
    with pytest.raises(ValueError, match="zero terminal SNR"):
        DiffusionTrainer(scheduled(zero_terminal_snr=True), unet, snr_gamma=5.0)


def test_networks_for_inpainting_are_refused():
    network = replace(CONFIG.diffusion_model, in_channels=9)
    with pytest.raises(ValueError, match="for inpainting"):
        DiffusionTrainer(CONFIG, DiffusionModel(network))


# Autoencoder


def test_the_autoencoders_losses_are_their_definitions():
    _, _, encoder, decoder = networks()
    trainer = AutoencoderTrainer(encoder, decoder, l1=1.0, mse=2.0, kl=3.0, gradient=4.0)
    batch = autoencoder_batch()
    mean, log_variance = np.split(np.asarray(encoder.moments(batch["pictures"]), "float64"), 2, -1)
    sample = mean + np.exp(0.5 * log_variance) * batch["noise"]
    painted = decoder(np.float32(sample * CONFIG.autoencoder.scaling_factor))
    error = np.asarray(painted, "float64") - batch["pictures"]
    down, right = error[:, 1:] - error[:, :-1], error[:, :, 1:] - error[:, :, :-1]
    expected = {
        "l1": np.abs(error).mean(),
        "mse": (error**2).mean(),
        "kl": 0.5 * (mean**2 + np.exp(log_variance) - 1.0 - log_variance).mean(),
        "gradient": np.abs(down).mean() + np.abs(right).mean(),
    }
    losses = trainer.losses_of(batch)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(value, rel=2e-5), name
    total = sum(w * e for w, e in zip((1.0, 2.0, 3.0, 4.0), expected.values(), strict=True))
    assert float(trainer(batch)) == pytest.approx(total, rel=2e-5)


def test_one_adversarial_loss_gives_the_gradients_of_two():
    ratio, batch = 0.3, autoencoder_batch(side=16)
    _, _, encoder, decoder = networks()
    keras.utils.set_random_seed(1)
    judge = patch_discriminator((4, 8))
    options = {"l1": 0.5, "kl": 0.0, "adversarial": ratio, "discriminator": judge}
    joint = AutoencoderTrainer(encoder, decoder, **options)

    class Halves(AutoencoderTrainer):
        """The two losses as they are written for two optimizers."""

        def painted(self, batch):
            mean, log_variance = keras.ops.split(self.moments(batch["pictures"]), 2, axis=-1)
            sample = mean + keras.ops.exp(0.5 * log_variance) * batch["noise"]
            return self.decoder(sample * CONFIG.autoencoder.scaling_factor)

        def call(self, batch, training=None):
            painted, ops = self.painted(batch), keras.ops
            if self.side == "decoder":
                error = ops.mean(ops.abs(painted - batch["pictures"]))
                return 0.5 * error - ratio * ops.mean(self.discriminator(painted))
            real = ops.mean(ops.relu(1.0 - self.discriminator(batch["pictures"])))
            return real + ops.mean(ops.relu(1.0 + self.discriminator(painted)))

    start = values(joint.trainable_variables)
    changes = step(joint, batch)
    expected = {}
    for side in ("decoder", "discriminator"):
        for variable, value in zip(joint.trainable_variables, start, strict=True):
            variable.assign(value)
        halves = Halves(encoder, decoder, **options)
        halves.side = side
        expected[side] = step(halves, batch)
    known = {id(variable) for variable in judge.variables}
    for i, variable in enumerate(joint.trainable_variables):
        side = "discriminator" if id(variable) in known else "decoder"
        close([changes[i]], [expected[side][i]], 1e-4)
    assert any(np.abs(changes[i]).max() > 1e-4 for i, v in enumerate(joint.trainable_variables)
               if id(v) in known)  # fmt: skip


def test_halves_of_different_autoencoders_are_refused():
    _, _, encoder, decoder = networks()
    other = type(decoder)(replace(CONFIG.autoencoder, scaling_factor=1.0))
    with pytest.raises(ValueError, match="same config"):
        AutoencoderTrainer(encoder, other)
    for options in ({"adversarial": 0.5}, {"discriminator": patch_discriminator((4,))}):
        with pytest.raises(ValueError, match="need one another"):
            AutoencoderTrainer(encoder, decoder, **options)


# Steps


def test_two_half_batches_are_one_batch():
    batch = diffusion_batch(4)
    halves = [{name: array[at : at + 2] for name, array in batch.items()} for at in (0, 2)]
    whole = step(DiffusionTrainer(CONFIG, *networks()[:2]), batch)
    parts = step(DiffusionTrainer(CONFIG, *networks()[:2]), *halves, gradient_accumulation_steps=2)
    close(parts, whole)
    assert max(np.abs(change).max() for change in whole) > 1e-2


def test_what_is_frozen_stays_and_patterns_choose():
    unet, text, encoder, _ = networks()
    trainer = DiffusionTrainer(CONFIG, unet, text, encoder)
    named = {"diffusion_model": unet, "text_encoder": text}
    count = choose_trained(named, ["unet.*attn2", r"text_encoder.*fc1\.bias"])
    assert count == len(trainer.trainable_variables) == 3 * 5 + 1
    before = {id(v): np.array(v.value) for v in trainer.variables}
    batch = diffusion_batch()
    pictures = np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3)).astype("float32")
    batch |= {"pictures": pictures, "posterior_noise": batch.pop("latents")}
    step(trainer, batch)
    for variable in [*unet.variables, *text.variables, *encoder.variables]:
        path = variable.path
        moved = "attn2" in path or path.endswith("fc1/bias")
        assert np.array_equal(before[id(variable)], np.array(variable.value)) != moved, path


def test_patterns_that_choose_nothing_are_named():
    unet, text, *_ = networks()
    named = {"diffusion_model": unet, "text_encoder": text}
    with pytest.raises(ValueError, match="'attn3' is in no name.*unet, text_encoder"):
        choose_trained(named, ["unet", "attn3"])


def test_the_average_is_what_it_is_said_to_be():
    trainer = DiffusionTrainer(CONFIG, *networks()[:2])
    trainer.compile(optimizer=sgd(0.1, use_ema=True, ema_momentum=0.75), run_eagerly=True)
    expected, batch = None, diffusion_batch()
    for _ in range(3):
        trainer.train_on_batch(batch)
        now = values(trainer.trainable_variables)
        if expected is None:
            expected = now
        expected = [0.75 * mean + 0.25 * new for mean, new in zip(expected, now, strict=True)]
    with averaged(trainer):
        close(values(trainer.trainable_variables), expected, 1e-6)
    close(values(trainer.trainable_variables), now, 0.0)


def test_several_steps_an_execution_are_refused():
    network, text_encoder, image_encoder, _ = networks()
    trainer = DiffusionTrainer(CONFIG, network, text_encoder, image_encoder)
    trainer.compile(sgd(), steps_per_execution=4)
    with pytest.raises(ValueError, match="`steps_per_execution` must be 1 here, not 4"):
        trainer.fit([(diffusion_batch(),)], verbose=0)
