"""Networks come back from files and configs, have their own dtype, and refuse what cannot be."""

import json
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from model_cases import (
    MODELS,
    TEXT,
    UNET,
    VAE,
    call,
    error,
    fill,
    inputs_of,
    unet_inputs,
    unet_outputs,
)

from kerasdiff.configs import CLIP_L, SD1, TINY, DiffusionModelConfig
from kerasdiff.decoder import Decoder
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.image_encoder import ImageEncoder
from kerasdiff.layers import tensor_name, uninitialized
from kerasdiff.text_encoder import TextEncoder


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_from_its_file(name, tmp_path):
    kind, config = MODELS[name]
    model, inputs = fill(kind(config, name="mine")), inputs_of(name)
    model.trainable = False
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is kind and again.config == config and again.name == "mine"
    assert not again.trainable_variables
    assert [tensor_name(v) for v in again.variables] == [tensor_name(v) for v in model.variables]
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = kind(config)
    fresh.load_weights(tmp_path / "model.weights.h5")
    for other in (again, fresh):
        for ours, wanted in zip(call(other, inputs), call(model, inputs), strict=True):
            np.testing.assert_array_equal(ours, wanted)
    assert keras.saving.get_registered_object(f"kerasdiff>{kind.__name__}") is kind


@pytest.mark.parametrize("name", MODELS)
def test_configs_are_json(name):
    kind, config = MODELS[name]
    model = kind(config, dtype="mixed_bfloat16")
    text = json.dumps(model.get_config())
    again = kind.from_config(json.loads(text))
    assert again.config == config and again.dtype_policy.name == "mixed_bfloat16"
    assert json.dumps(again.get_config()) == text


DTYPES = {"float32": 0, "bfloat16": 3e-2, "mixed_bfloat16": 3e-2, "float16": 4e-3}
DTYPES["mixed_float16"] = DTYPES["float16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_its_own_dtype_under_any_global_policy(name, dtype):
    kind, config = MODELS[name]
    inputs, before = inputs_of(name), keras.config.dtype_policy()
    expected = call(fill(kind(config)), inputs)
    keras.config.set_dtype_policy("bfloat16" if dtype == "float16" else "float16")
    try:
        model = fill(kind(config, dtype=dtype))
        outputs = call(model, inputs)
    finally:
        keras.config.set_dtype_policy(before)
    policy = keras.dtype_policies.get(dtype)
    assert model.compute_dtype == policy.compute_dtype
    assert {variable.dtype for variable in model.variables} == {policy.variable_dtype}
    for ours, wanted in zip(outputs, expected, strict=True):
        assert error(ours, wanted) <= DTYPES[dtype]


def test_the_default_is_float32_whatever_the_global_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float16")
    try:
        output = fill(DiffusionModel(UNET))(unet_inputs("sd1"))
    finally:
        keras.config.set_dtype_policy(before)
    np.testing.assert_array_equal(output, unet_outputs("sd1")[0])


@pytest.mark.parametrize("dtype", ["int8", "float64", "half", 32])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match=rf"`dtype` must be one of float32, .*, not '?{dtype}"):
        Decoder(VAE, dtype=dtype)


def test_without_initialisation_no_random_numbers_are_drawn(monkeypatch):
    def draw(*shape, **options):
        raise RuntimeError("drawn")

    for kind in (keras.initializers.VarianceScaling, keras.initializers.RandomNormal):
        monkeypatch.setattr(kind, "__call__", draw)
    for kind, config in MODELS.values():
        with pytest.raises(RuntimeError, match="drawn"):
            kind(config)
        with uninitialized():
            variables = kind(config).variables
        starts = {"gamma": 1.0, "beta": 0.0, "bias": 0.0}
        for variable in variables:
            leaf = variable.path.split("/")[-1]
            if leaf in starts:
                assert np.unique(np.asarray(variable.value)) == starts[leaf], variable.path


def test_models_that_learn_start_alive():
    for kind, config in MODELS.values():
        for variable in kind(config).variables:
            if variable.path.endswith(("kernel", "embeddings")):
                spread = float(np.std(np.asarray(variable.value)))
                assert 0.01 < spread < 1.0, variable.path


def test_the_summary_shows_the_blocks(capsys):
    DiffusionModel(UNET).summary(line_length=120)
    text = capsys.readouterr().out
    for name in ("conv_in", "down_blocks.0.attentions.0", "up_blocks.0.upsamplers.0", "conv_out"):
        assert f" {name} " in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_groups": 7}, "resnets.0.norm1: `groups` must divide the 32 channels, not be 7"),
        ({"channels": (32, 60)}, "`groups` must divide the 60 channels, not be 8"),
        ({"heads": (3, 4)}, "attn1: `heads` must divide the 32 channels, not be 3"),
        ({"depth": (1,)}, "`depth` must have one entry for each of the 2 levels"),
        ({"layers_per_block": (1, 1, 1)}, "`layers_per_block` must have one entry"),
        ({"up_depth": ()}, "`up_depth` must have one entry"),
        ({"heads": (2,)}, "`heads` must have one entry"),
    ],
)
def test_impossible_unets_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DiffusionModel(replace(UNET, **change))


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (ImageEncoder, replace(VAE, norm_groups=5), "`groups` must divide"),
        (Decoder, replace(VAE, channels=(16, 36)), "the 36 channels, not be 8"),
        (Decoder, replace(VAE, scaling_factor=0.0), "`scaling_factor` must not be 0"),
        (TextEncoder, replace(TEXT, heads=5), "`heads` must divide the 32 channels, not be 5"),
        (TextEncoder, replace(TEXT, activation="relu"), "`activation` must be one of .*'relu'"),
        (TextEncoder, replace(TEXT, output_layer=0), "`output_layer` must be from -3 to -1, not 0"),
        (TextEncoder, replace(TEXT, output_layer=-4), "from -3 to -1, not -4"),
    ],
)
def test_impossible_configs_are_refused(kind, config, message):
    with pytest.raises(ValueError, match=message):
        kind(config)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("latent", (2, 8, 12, 5)),
        ("latent", (2, 8, 12)),
        ("timestep_embedding", (2, 31)),
        ("context", (2, 7, 33)),
    ],
)
def test_inputs_of_other_shapes_are_refused(key, shape):
    inputs = unet_inputs("sd1") | {key: np.zeros(shape, "float32")}
    with pytest.raises(ValueError, match=f"{key}.*|expected shape|incompatible"):
        DiffusionModel(UNET)(inputs)


def test_pictures_with_other_channels_are_refused():
    with pytest.raises(ValueError, match="incompatible|expected shape"):
        ImageEncoder(VAE)(np.zeros((1, 8, 8, 4), "float32"))
    with pytest.raises(ValueError, match="incompatible|expected shape"):
        Decoder(VAE)(np.zeros((1, 8, 8, 3), "float32"))


def test_defaults_are_stable_diffusion_1():
    assert DiffusionModel.CONFIG() == DiffusionModelConfig() == SD1.diffusion_model
    assert ImageEncoder.CONFIG() == SD1.autoencoder and TextEncoder.CONFIG() == CLIP_L
    assert TINY["sd1"].autoencoder != SD1.autoencoder


def test_keras_finds_the_classes_in_a_new_process(tmp_path):
    kind, config = MODELS["decoder"]
    kind(config).save(tmp_path / "decoder.keras")
    code = "import keras, kerasdiff; print(keras.saving.load_model({!r}).name)"
    done = subprocess.run(
        [sys.executable, "-c", code.format(str(tmp_path / "decoder.keras"))],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "decoder"
