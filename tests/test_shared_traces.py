"""A program traces layers of one kind and size once, and calls each with its own weights."""

import subprocess
import sys
from functools import partial

import keras
import numpy as np
import pytest

from kerasdiff.backend import Program, call_once, compilers, forms, product_forms
from kerasdiff.layers import Dense, ResBlock, SpatialTransformer, Upsample

X = np.random.default_rng(0).standard_normal((2, 4, 4, 8)).astype("float32")
CONTEXT = np.random.default_rng(1).standard_normal((2, 3, 6)).astype("float32")


class Counted(ResBlock):
    """Notes the name of each layer that is traced."""

    traced = ()

    def call(self, x, embedding=None):
        Counted.traced = (*Counted.traced, self.name)
        return super().call(x, embedding)


@pytest.fixture(autouse=True)
def nothing_traced(monkeypatch):
    monkeypatch.setattr(Counted, "traced", ())


def drawn(kind, *args, shapes=(X.shape,), seed=0):
    """A layer with weights that no other has."""
    layer = kind(*args, name=f"{getattr(kind, 'func', kind).__name__}-{seed}")
    layer.build(*shapes)
    rng = np.random.default_rng(seed)
    layer.set_weights([0.3 * rng.standard_normal(each.shape) for each in layer.get_weights()])
    return layer


def in_a_row(layers, *more, jit_compile=True):
    """What layers make of X one after another, by a program, and by none."""
    model = keras.Sequential(layers)

    def run(x):
        for layer in layers:
            x = layer(x, *more)
        return x

    wanted = keras.ops.convert_to_numpy(run(keras.ops.convert_to_tensor(X)))
    Counted.traced = ()
    program = Program(run, model, jit_compile)
    return program, keras.ops.convert_to_numpy(program(X)), wanted


@pytest.mark.parametrize("jit_compile", (True, False), ids=("by XLA", "a graph"))
def test_like_layers_are_traced_once_and_keep_their_own_weights(jit_compile):
    layers = [drawn(Counted, 8, 2, 1e-5, seed=seed) for seed in range(3)]
    _, got, wanted = in_a_row(layers, jit_compile=jit_compile)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert Counted.traced == ("Counted-0",)


def test_weights_assigned_later_count():
    layers = [drawn(Counted, 8, 2, 1e-5, seed=seed) for seed in range(3)]
    program, _, _ = in_a_row(layers)
    layers[2].set_weights(layers[0].get_weights())
    np.testing.assert_allclose(program(X), in_a_row(layers)[2], atol=1e-4)
    assert program.traces == 1


@pytest.mark.parametrize(
    "other", ((8, 4, 1e-5), (8, 2, 0.5)), ids=("other groups", "another epsilon")
)
def test_layers_of_other_settings_are_traced_apart(other):
    layers = [drawn(Counted, *args, seed=i) for i, args in enumerate(((8, 2, 1e-5), other))]
    _, got, wanted = in_a_row(layers)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert len(Counted.traced) == 2


def test_a_layer_with_another_part_is_traced_apart():
    class Doubling(Counted):
        PART = keras.layers.Identity

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.norm1 = self.PART()

    class Doubled(keras.layers.Identity):
        def call(self, x):
            return 2 * x

    layers = []
    for seed, part in enumerate((keras.layers.Identity, Doubled)):
        Doubling.PART = part
        layers.append(drawn(Doubling, 8, 2, 1e-5, seed=seed))
    _, got, wanted = in_a_row(layers)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    assert len(Counted.traced) == 2


def test_a_setting_that_only_its_own_config_tells_is_traced_apart():
    class Scaled(Counted):
        def __init__(self, *args, factor, **kwargs):
            super().__init__(*args, **kwargs)
            self.factor = factor

        def call(self, x, embedding=None):
            return self.factor * super().call(x, embedding)

        def get_config(self):
            return {**super().get_config(), "factor": self.factor}

    layers = [
        drawn(partial(Scaled, factor=factor), 8, 2, 1e-5, seed=seed)
        for seed, factor in enumerate((1.0, 2.0))
    ]
    _, got, wanted = in_a_row(layers)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    assert len(Counted.traced) == 2


@pytest.mark.parametrize("apart", ({"dtype": "mixed_bfloat16"}, {"trainable": False}))
def test_what_keras_itself_is_told_of_a_layer_is_told_apart(apart):
    layers = [
        drawn(partial(Counted, **settings), 8, 2, 1e-5, seed=seed)
        for seed, settings in enumerate(({}, apart))
    ]
    in_a_row(layers)
    assert len(Counted.traced) == 2


def test_a_layer_in_int8_is_traced_apart():
    layers = [drawn(Counted, 8, 2, 1e-5, seed=seed) for seed in range(2)]
    layers[1].conv1.quantize("int8")
    _, got, wanted = in_a_row(layers)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert len(Counted.traced) == 2


def test_a_layer_that_somebody_hooked_into_is_traced_apart():
    layers = [drawn(Counted, 8, 2, 1e-5, seed=seed) for seed in range(2)]
    call = layers[1].conv1.call
    layers[1].conv1.call = lambda x: 2 * call(x)
    _, got, wanted = in_a_row(layers)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert len(Counted.traced) == 2


def test_transformers_that_merge_tokens_are_traced_apart():
    settings, shapes = (2, 1, 2, 1e-5), (X.shape, CONTEXT.shape)
    layers = [drawn(SpatialTransformer, *settings, shapes=shapes, seed=i) for i in range(2)]
    layers[1].token_merging = 0.5
    _, got, wanted = in_a_row(layers, keras.ops.convert_to_tensor(CONTEXT))
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    layers[1].token_merging = 0.0
    plain = in_a_row(layers, keras.ops.convert_to_tensor(CONTEXT))[1]
    assert np.abs(plain - got).max() > 1e-2


def test_what_travels_to_other_machines_is_traced_plainly():
    layers = [drawn(Counted, 8, 2, 1e-5, seed=seed) for seed in range(2)]
    program = Program(lambda x: layers[1](layers[0](x)), keras.Sequential(layers), True, True)
    program(X)
    assert Counted.traced == ("Counted-0", "Counted-1")


def test_a_function_of_arrays_is_traced_once_for_each_of_their_shapes():
    shapes = []

    def double(array):
        shapes.append(tuple(array.shape))
        return 2 * array

    layer = Dense(8)
    layer.build(X.shape)
    program = Program(
        lambda x: [call_once(double, each) for each in (x, x + 1, layer.kernel, layer.bias)], layer
    )
    got = program(X)
    assert shapes == [X.shape, (8, 8), (8,)]
    for each, wanted in zip(got, (X, X + 1, layer.kernel, layer.bias), strict=True):
        np.testing.assert_allclose(each, 2 * np.asarray(wanted), rtol=1e-6)
    call_once(double, X)
    assert len(shapes) == 4  # nothing is shared outside a program


class Noting:
    """Notes how what a layer's `call` traces may be computed."""

    found = ()

    def call(self, *args, **kwargs):
        Noting.found = (*Noting.found, forms())
        return super().call(*args, **kwargs)


PARTS = {  # (layer, its arguments, height and width, whether XLA compiles it)
    "small residual block": (ResBlock, (8, 2, 1e-5), (16, 16), True),
    "large residual block": (ResBlock, (8, 2, 1e-5), (16, 17), False),
    "transformer": (SpatialTransformer, (2, 1, 2, 1e-5), (20, 20), True),
    "to a small picture": (Upsample, (8,), (8, 8), True),
    "to a large picture": (Upsample, (8,), (8, 9), False),
}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own kernels")
@pytest.mark.parametrize("kind, args, size, by_xla", PARTS.values(), ids=PARTS)
def test_where_tensorflow_convolves_xla_compiles_the_rest(kind, args, size, by_xla, monkeypatch):
    """On processors that compute in bfloat16."""
    for module in (product_forms, compilers):
        monkeypatch.setattr(module, "computes_in_bfloat16", lambda: True)
    monkeypatch.setattr(Noting, "found", ())
    layer = type(f"Noting{kind.__name__}", (Noting, kind), {})(*args, dtype="bfloat16")
    given = [np.random.default_rng(0).standard_normal((2, *size, 8)), CONTEXT]
    given = [keras.ops.cast(each, "bfloat16") for each in given[: 1 + (kind is SpatialTransformer)]]
    layer.build(*(each.shape for each in given))
    wanted = keras.ops.convert_to_numpy(keras.ops.cast(layer(*given), "float32"))
    Noting.found = ()
    got = Program(lambda *given: layer(*given), layer)(*given)
    assert [each.native for each in Noting.found] == [by_xla]
    assert [each.regional for each in Noting.found] == [not by_xla]
    np.testing.assert_allclose(keras.ops.cast(got, "float32"), wanted, atol=0.1, rtol=0.05)
    Noting.found = ()
    Program(lambda *given: layer(*given), layer, jit_compile=False)(*given)
    assert not Noting.found[0].native and not Noting.found[0].regional


ON_TWO_DEVICES = """
import keras, numpy as np, tensorflow as tf
from kerasdiff.backend import Program
from kerasdiff.layers import PaddedConv2D, ResBlock
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.random.default_rng(0).standard_normal((1, 16, 16, 128)).astype("float32")
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    for kind, settings in ((ResBlock, (128, 2, 1e-5)), (PaddedConv2D, (128, 3, 1))):
        model = keras.Sequential([kind(*settings) for _ in range(2)])
        wanted = model(x)
        for jit_compile in (True, False):
            np.testing.assert_allclose(Program(model, model, jit_compile)(x), wanted, atol=1e-4)
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's strategies")
def test_layers_made_for_several_devices_keep_their_own_weights():
    done = subprocess.run([sys.executable, "-c", ON_TWO_DEVICES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
