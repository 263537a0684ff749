"""Kernels in int8: small, near, and refused where they would be lost."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal
from stable_diffusion_cases import tiny_checkpoint, tiny_model

from kerasdiff import StableDiffusion
from kerasdiff.backend import Forms, Program, with_forms
from kerasdiff.checkpoints.load import load, state
from kerasdiff.checkpoints.models import kept_in_float
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.configs import SD1
from kerasdiff.diffusion_model import DiffusionModel, timestep_embedding
from kerasdiff.layers import Dense, GroupNorm, PaddedConv2D, quantize, without_memory
from kerasdiff.layers import rounded as round_kernel

folder = pytest.fixture(tiny_checkpoint, scope="module")
LAYERS = {
    "dense": lambda: Dense(24, name="dense"),
    "dense without bias": lambda: Dense(24, use_bias=False, name="dense"),
    "convolution": lambda: PaddedConv2D(24, 3, padding=1, name="conv"),
    "strided convolution": lambda: PaddedConv2D(24, 3, padding=(0, 1), strides=2, name="conv"),
}


def picture(model):
    return model.text_to_image("a red house", num_steps=2, seed=1, progress=False)


def rounded(kernel):
    """What int8 leaves of a kernel, by its definition, in float64."""
    kernel = np.asarray(kernel, "float64")
    step = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))) / 127
    return np.rint(kernel / step) * step


def resident(field):
    """Of this process, in MB: `"VmRSS"` now, `"VmHWM"` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells of peaks")
@pytest.mark.parametrize("dtype, turns", [("int8", 2), ("bfloat16", 1), ("float16", 1)])
def test_a_program_casts_kernels_one_after_another(dtype, turns):
    """Twelve kernels of 17 MB in float32: all at once they would take 200 MB."""
    policy = "float32" if dtype == "int8" else dtype
    layers = (Dense(2048, dtype=policy) for _ in range(12))
    model = keras.Sequential([keras.Input((2048,), dtype=policy), *layers])
    if dtype == "int8":
        quantize(model)

    def run(x):
        if turns == 1:
            return model(x)
        return ops.while_loop(lambda i, _: i < turns, lambda i, x: (i + 1, model(x)), (0, x))[1]

    program, x = Program(run, model, jit_compile=True), np.ones((4, 2048), policy)
    program(x)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = resident("VmRSS")
    program(x)
    assert resident("VmHWM") - before < 80


@pytest.mark.parametrize("number", (np.nan, np.inf))
def test_what_is_not_finite_stays_so(number):
    layer, x = Dense(24), np.ones((2, 16), "float32")
    layer(x)
    layer.quantize("int8")
    finite = np.asarray(layer(x))
    x[0, 0] = number
    y = np.asarray(layer(x))
    assert not np.isfinite(y[0]).any()
    assert_array_equal(y[1], finite[1])


SIZES = {  # kernel, bytes of it at once: parts
    "whole": ((64, 512), 2**17, 1),
    "matrix": ((64, 512), 2**17 - 1, 2),
    "never of few channels": ((64, 512), 2**10, 4),
    "convolution": ((3, 3, 16, 768), 2**17, 4),
    "of an odd number": ((64, 640 + 5), 2**10, 1),
}


@pytest.mark.parametrize("shape, at_once, parts", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("number", (0, np.nan))
def test_a_large_kernel_is_used_in_parts_that_stay_in_the_cache(shape, at_once, parts, number):
    *size, _, filters = shape
    layer = PaddedConv2D(filters, 3, padding=1) if size else Dense(filters)
    x = np.random.default_rng(3).standard_normal((2, 4, 4, shape[-2])).astype("float32")
    x[0, 0, 0, 0] = number
    layer(x)
    layer.quantize("int8")
    whole, taken, product = np.asarray(layer(x)), [], layer.product
    layer.product = lambda x, kernel: taken.append(kernel.shape) or product(x, kernel)
    with with_forms(Forms(kernel_bytes=at_once)):
        got = np.asarray(layer(x))
    assert taken == [(*shape[:-1], filters // parts)] * parts
    assert_allclose(got, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_layer_computes_with_the_rounded_kernel(kind):
    keras.utils.set_random_seed(1)
    layer, again = LAYERS[kind](), LAYERS[kind]()
    x = np.random.default_rng(2).standard_normal((2, 6, 8, 16)).astype("float32")
    exact = np.asarray(layer(x))
    again(x)
    for target, source in zip(again.variables, layer.variables, strict=True):
        target.assign(rounded(source) if "kernel" in source.path else source.value)
    layer.quantize("int8")
    assert_allclose(np.asarray(layer(x)), np.asarray(again(x)), atol=1e-5)
    assert 1e-4 < np.abs(np.asarray(layer(x)) - exact).max() < 0.05
    assert layer.kernel.dtype == "int8" and layer.scale.dtype == "float32"
    assert len(layer.variables) == len(again.variables) + 1


def test_a_channel_of_zeros_stays_zero():
    layer = Dense(3, name="dense")
    layer.build((None, 4))
    layer.kernel.assign(np.float32([[0, 1, -2]] * 4))
    layer.quantize("int8")
    assert_allclose(np.asarray(layer(np.ones((1, 4), "float32"))), [[0, 4, -8]], rtol=1e-6)


def test_bfloat16_stays_bfloat16():
    layer = Dense(3, name="dense", dtype="bfloat16")
    x = keras.ops.ones((1, 4), "bfloat16")
    layer(x)
    layer.quantize("int8")
    assert layer(x).dtype == "bfloat16" and layer.scale.dtype == "float32"


def test_a_second_time_changes_nothing():
    layer = Dense(3, name="dense")
    layer.build((None, 4))
    layer.quantize("int8")
    before = np.asarray(layer.kernel)
    layer.quantize("int8")
    assert_array_equal(np.asarray(layer.kernel), before)


def test_other_modes_are_refused():
    layer = Dense(3, name="dense")
    layer.build((None, 4))
    with pytest.raises(ValueError, match='must be "int8"'):
        layer.quantize("int4")


@pytest.mark.parametrize("jit_compile", (True, False))
def test_the_picture_is_near_and_the_ways_in_and_out_stay_float(folder, jit_compile):
    exact = tiny_model(folder)
    model = StableDiffusion.from_preset(folder, int8=True, jit_compile=jit_compile)
    difference = np.abs(picture(model).astype(int) - picture(exact))
    assert 0 < difference.max() and difference.mean() < 3
    kinds = {v.path.split("/")[-2]: v.dtype for v in model.diffusion_model.variables
             if v.path.endswith("kernel")}  # fmt: skip
    floats = {name.partition(".resnets")[0] for name in kinds if kinds[name] != "int8"}
    assert floats == {
        "conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2",
        "down_blocks.0", "up_blocks.1",
    }  # fmt: skip
    assert {v.dtype for v in model.text_encoder.variables} == {"float32"}


def test_a_checkpoint_is_rounded_as_it_is_read(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("kerasdiff.layers.int8.rounded", lambda *_: pytest.fail("rounded afterwards"))
        ours = StableDiffusion.from_preset(folder, int8=True).diffusion_model
    network = tiny_model(folder).diffusion_model
    quantize(network, kept_in_float(network.config))
    assert {v.path for v in ours.variables} == {v.path for v in network.variables}
    theirs = {v.path: np.asarray(v) for v in network.variables}
    for variable in ours.variables:
        assert variable.dtype == theirs[variable.path].dtype
        assert_array_equal(np.asarray(variable), theirs[variable.path])


def test_more_rows_than_are_rounded_at_once():
    kernel = np.random.default_rng(0).standard_normal((3, 3, 300, 5)).astype("float32")
    out = np.zeros(kernel.shape, "int8")
    scale = round_kernel(kernel, out)
    assert_allclose(out * scale, rounded(kernel), rtol=1e-5)


def test_a_damaged_kernel_is_not_rounded(folder):
    model = tiny_model(folder).diffusion_model
    arrays = {name: np.array(array) for name, array in state(model).items()}
    name = next(name for name in arrays if name.endswith("conv1.weight"))
    arrays[name][0, 0] = np.nan
    quantize(model)
    with pytest.raises(CheckpointError, match=f"{name}.*NaN"):
        load(model, arrays)


def test_full_size_weights_take_a_quarter_of_float32s_memory():
    variables = without_memory(lambda: DiffusionModel(SD1.diffusion_model)).variables
    keep = kept_in_float(SD1.diffusion_model)
    all_, kernels = (
        sum(math.prod(v.shape) for v in some)
        for some in (
            variables,
            [v for v in variables
             if v.path.endswith("kernel") and not v.path.split("/")[-2].startswith(keep)],
        )
    )  # fmt: skip
    assert kernels + 4 * (all_ - kernels) < 0.27 * 4 * all_


def test_a_trained_networks_output_is_within_two_percent():
    config = StableDiffusion.from_preset("demo").config.diffusion_model
    draw = np.random.default_rng(0).standard_normal
    times = np.float32([50, 300, 500, 700, 900])
    inputs = {
        "latent": draw((5, 16, 16, 4)).astype("float32"),
        "timestep_embedding": timestep_embedding(times, config.channels[0]),
        "context": draw((5, 24, config.context_dim)).astype("float32"),
    }
    exact, ours = (
        np.asarray(StableDiffusion.from_preset("demo", int8=int8).diffusion_model(inputs))
        for int8 in (False, True)
    )
    assert 0 < np.linalg.norm(ours - exact) < 0.02 * np.linalg.norm(exact)


def test_nothing_is_trained_in_int8(folder):
    model = StableDiffusion.from_preset(folder, int8=True).diffusion_model
    assert all(v.dtype != "int8" and "scale" not in v.path for v in model.trainable_variables)


def test_norms_are_left_alone():
    inputs = keras.Input((4, 4, 8))
    model = keras.Model(inputs, GroupNorm(2, 1e-5, name="norm")(inputs))
    quantize(model)
    assert {v.dtype for v in model.variables} == {"float32"}


def test_it_is_not_written(folder, tmp_path):
    model = StableDiffusion.from_preset(folder, int8=True).diffusion_model
    with pytest.raises(ValueError, match="int8, which no checkpoint has"):
        state(model)
    with pytest.raises(ValueError, match="int8, which is not saved"):
        model.save_weights(tmp_path / "unet.weights.h5")
    with pytest.raises(ValueError, match="int8, which is not saved"):
        model.save(tmp_path / "unet.keras")


def test_streamed_weights_are_not_rounded(folder):
    with pytest.raises(ValueError, match='do not go with `memory` "low"'):
        StableDiffusion.from_preset(folder, int8=True, memory="low")


@pytest.mark.parametrize("dtype", ("float16", "mixed_float16"))
def test_int8_does_not_go_with_float16(folder, dtype):
    with pytest.raises(ValueError, match="`int8` goes with float32 or bfloat16"):
        StableDiffusion.from_preset(folder, dtype=dtype, int8=True)
