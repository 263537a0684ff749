"""Muon, rates and averages of weights."""

import keras
import numpy as np
import pytest

from kerasdiff.training.averages import averaged, warmed_up
from kerasdiff.training.checkpoints import load_state, save_state
from kerasdiff.training.muon import Muon
from kerasdiff.training.rates import Rate


def muon(rate=0.1, **options):
    return Muon(rate, weight_decay=None, adam_weight_decay=None, **options)


def variable(shape, path="layer/kernel", seed=0):
    values = np.random.default_rng(seed).normal(size=shape).astype("float32")
    layer, name = path.split("/")
    with keras.name_scope(layer):
        return keras.Variable(values, name=name)


def stepped(optimizer, shape, path="layer/kernel"):
    """The change of a variable and the gradient that made it."""
    parameter = variable(shape, path)
    gradient = np.random.default_rng(1).normal(size=shape).astype("float32")
    before = np.array(parameter.value)
    optimizer.build([parameter])
    optimizer.apply([keras.ops.convert_to_tensor(gradient)])
    return np.array(parameter.value) - before, gradient


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (3, 3, 5, 8), (1, 1, 16, 4)])
def test_muon_steps_along_the_nearest_orthogonal_matrix(shape):
    change, gradient = stepped(muon(ns_steps=5), shape)
    matrix = gradient.reshape(-1, shape[-1])
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    step = -change.reshape(matrix.shape) / (0.1 * 0.2 * max(matrix.shape) ** 0.5)
    # Five iterations bring singular values near 1 (0.7 to 1.2), and leave the directions.
    values = np.diag(u.T @ step @ v.T)
    assert values.min() > 0.6 and values.max() < 1.3
    rest = u.T @ step @ v.T - np.diag(values)
    assert np.abs(rest).max() < 0.02


@pytest.mark.parametrize(
    "shape, path",
    [
        ((7,), "layer/bias"),
        ((9, 4), "token_embedding/embeddings"),
        ((3, 3, 4, 4), "conv_in/kernel"),
    ],
)
def test_muon_leaves_vectors_embeddings_and_the_excluded_to_adam(shape, path):
    change, gradient = stepped(muon(adam_lr_ratio=0.5, exclude_layers=["conv_in"]), shape, path)
    # Adam's first step is the rate times the gradient's sign.
    np.testing.assert_allclose(change, -0.05 * np.sign(gradient), rtol=1e-2)


def test_muon_has_momentum_on_convolutions():
    parameter = variable((3, 3, 2, 4))
    optimizer = muon()
    optimizer.build([parameter])
    gradient = keras.ops.ones((3, 3, 2, 4))
    optimizer.apply([gradient])
    after_one = np.array(parameter.value)
    optimizer.apply([keras.ops.zeros((3, 3, 2, 4))])
    assert np.abs(np.array(parameter.value) - after_one).max() > 1e-3


def test_muon_comes_back_from_its_config():
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(muon(0.03, adam_lr_ratio=0.3, exclude_layers=["a"]))
    )
    assert isinstance(again, Muon)
    assert again.adam_lr_ratio == 0.3 and again.exclude_layers == ["a"]


def test_a_rate_warms_up_holds_and_comes_down():
    rate = Rate(0.1, warmup=10, hold=20, decay=40, floor=0.1)
    values = np.array([float(rate(step)) for step in range(100)])
    np.testing.assert_allclose(values[:10], 0.01 * np.arange(1, 11), rtol=1e-5)
    np.testing.assert_allclose(values[10:31], 0.1, rtol=1e-5)
    np.testing.assert_allclose(values[50], 0.055, rtol=1e-4)  # half-way down
    np.testing.assert_allclose(values[70:], 0.01, rtol=1e-4)
    assert np.all(np.diff(values[30:70]) < 0)


def test_a_rate_without_hold_stays_for_ever():
    rate = Rate(1e-4, warmup=10_000)
    assert float(rate(0)) == pytest.approx(1e-8)
    assert float(rate(9_999)) == float(rate(10**9)) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    "arguments, word",
    [({"peak": -1.0}, "negative"), ({"peak": 1.0, "decay": 5}, "hold")],
)
def test_a_rate_that_makes_no_sense_is_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        Rate(**arguments)


def trained(use_ema):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.1, use_ema=use_ema, ema_momentum=0.5), "mse")
    values = []
    for _ in range(3):
        model.train_on_batch(np.ones((4, 2), "float32"), np.ones((4, 1), "float32"))
        values.append(np.array(model.trainable_variables[0].value))
    return model, values


def test_averages_stand_in_for_the_weights_and_go_again():
    model, (first, second, third) = trained(use_ema=True)
    weight = model.trainable_variables[0]
    with averaged(model):
        expected = 0.5 * (0.5 * first + 0.5 * second) + 0.5 * third
        np.testing.assert_allclose(np.array(weight.value), expected, rtol=1e-6)
    np.testing.assert_array_equal(np.array(weight.value), third)


def test_without_averages_nothing_changes():
    model, values = trained(use_ema=False)
    with averaged(model):
        np.testing.assert_array_equal(np.array(model.trainable_variables[0].value), values[-1])


def test_weights_come_back_after_an_error():
    model, values = trained(use_ema=True)
    with pytest.raises(RuntimeError), averaged(model):
        raise RuntimeError
    np.testing.assert_array_equal(np.array(model.trainable_variables[0].value), values[-1])


def stepping(kind, accumulate):
    """A model of two weights with a long average, not trained yet; and a step that it can take."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    options = {"gradient_accumulation_steps": accumulate if accumulate > 1 else None}
    model.compile(kind(0.05, use_ema=True, ema_momentum=0.6, **options), "mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)

    def step():
        model.train_on_batch(np.ones((4, 2), "float32"), np.ones((4, 1), "float32"))
        return np.array(model.trainable_variables[0].value)

    return model, step


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_warmed_up_average_follows_latent_diffusion_s_rule_and_resumes(tmp_path, accumulate):
    path, warm = tmp_path / "state.safetensors", warmed_up(keras.optimizers.SGD)
    model, step = stepping(keras.optimizers.SGD, accumulate)  # whose states fit
    expected = 0.0
    for n in range(20):
        if n in (0, 7):
            save_state(model, path)
            model, step = stepping(warm, accumulate)
            load_state(model, path)
        weight, momentum = step(), min(0.6, (1 + n) / (10 + n)) if n >= accumulate else 0.0
        expected = momentum * expected + (1 - momentum) * weight
        with averaged(model):
            average = np.array(model.trainable_variables[0].value)
        np.testing.assert_allclose(average, expected, rtol=1e-6)
    assert (1 + 7) / (10 + 7) < 0.6 == momentum  # on both sides of the state
