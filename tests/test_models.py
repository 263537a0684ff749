"""The networks: numbers of the references, ways to call, files, precision, backends, errors."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from model_cases import (
    AUTOENCODERS,
    CASES,
    KINDS,
    TEXTS,
    UNETS,
    error,
    fill,
    numbers,
    picture,
    tokens,
    unet_inputs,
    unet_outputs,
)

from kerasdiff.configs import CLIP_L, SD1, TINY, AutoencoderConfig, DiffusionModelConfig
from kerasdiff.decoder import Decoder
from kerasdiff.diffusion_model import DiffusionModel, timestep_embedding
from kerasdiff.image_encoder import ImageEncoder, sample_moments
from kerasdiff.layers import tensor_name, uninitialized
from kerasdiff.text_encoder import TextEncoder

TOLERANCE = 2e-5  # relative to the largest value
GOLDEN = Path(__file__).parent / "golden" / "models.npz"
VAE, UNET, TEXT = AUTOENCODERS["two"], UNETS["sd1"][0], TEXTS["projected"]
MODELS = {
    "text_encoder": (TextEncoder, TEXT),
    "image_encoder": (ImageEncoder, VAE),
    "decoder": (Decoder, VAE),
    "diffusion_model": (DiffusionModel, UNETS["sdxl"][0]),
}


def inputs_of(name):
    """A list of inputs for a model of `MODELS`."""
    ids = tokens("projected")
    return {
        "text_encoder": [ids, np.arange(ids.shape[1])[None]],
        "image_encoder": [picture("two")],
        "decoder": [numbers("decoder", (2, 3, 4, 4))],
        "diffusion_model": list(unet_inputs("sdxl").values()),
    }[name]


def call(model, inputs):
    """All outputs as float32 arrays."""
    output = model(inputs if len(inputs) > 1 else inputs[0])
    return [np.asarray(ops.cast(part, "float32")) for part in keras.tree.flatten(output)]


def largest_error(kind, name, golden):
    outputs = KINDS[kind][1](name)
    wanted = [golden[key] for key in golden.files if key.startswith(f"{kind}/{name}/")]
    assert len(outputs) == len(wanted) > 0
    return max(error(ours, theirs) for ours, theirs in zip(outputs, wanted, strict=True))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_outputs_are_those_of_the_reference(kind, name):
    with np.load(GOLDEN) as golden:
        assert largest_error(kind, name, golden) < TOLERANCE


ON_JAX = """
import keras, numpy as np
from model_cases import *
from kerasdiff.backend import Program
assert keras.backend.backend() == "jax"
golden, ids = np.load("golden/models.npz"), tokens("clip-l")
runs = {
    "unet/controlnet/0": (DiffusionModel(UNETS["controlnet"][0]), unet_inputs("controlnet")),
    "autoencoder/two/1": (ImageEncoder(AUTOENCODERS["two"]), picture("two")),
    "autoencoder/two/2": (Decoder(AUTOENCODERS["two"]), latents("two")),
    "text/clip-l/0": (TextEncoder(TEXTS["clip-l"]), [ids, np.arange(ids.shape[1])[None]]),
}
outputs = {key: Program(fill(model), model, True)(inputs) for key, (model, inputs) in runs.items()}
print(max(error(np.asarray(output), golden[key]) for key, output in outputs.items()))
"""


def test_outputs_are_the_same_on_jax():
    done = subprocess.run(
        [sys.executable, "-c", ON_JAX],
        capture_output=True, text=True, cwd=Path(__file__).parent,
        env=os.environ | {
            "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < TOLERANCE


@pytest.mark.parametrize("name", ["sdxl", "guided", "controlnet"])
def test_every_input_counts(name):
    model, inputs = fill(DiffusionModel(UNETS[name][0])), unet_inputs(name)
    before = np.asarray(model(inputs))
    for key, value in inputs.items():
        changed = {**inputs, key: value + 0.5 * numbers(f"other {key}", value.shape)}
        assert error(np.asarray(model(changed)), before) > 1e-3, key


@pytest.mark.parametrize("name", MODELS)
def test_lists_and_dicts_are_taken(name):
    kind, config = MODELS[name]
    model, inputs = fill(kind(config)), inputs_of(name)
    expected = call(model, inputs)
    named = dict(zip([tensor.name for tensor in model.inputs], inputs, strict=True))
    mixed = {**named, model.inputs[0].name: ops.convert_to_tensor(inputs[0])}
    for order in (named, dict(reversed(named.items())), mixed, list(mixed.values())):
        for ours, wanted in zip(keras.tree.flatten(model(order)), expected, strict=True):
            np.testing.assert_array_equal(ours, wanted)
    with pytest.raises(ValueError, match=f"{name}: `inputs` must have the keys .*, not extra"):
        model({"extra": inputs[0]})
    with pytest.raises(ValueError, match="must have the keys"):
        model({**named, "extra": inputs[0]})


def test_inputs_have_keras_cv_s_names():
    def names(model):
        return [tensor.name for tensor in model.inputs]

    assert names(TextEncoder(TEXT)) == ["tokens", "positions"]
    unet = replace(UNETS["sdxl"][0], time_cond_dim=8, controlnet_residuals=True)
    assert names(DiffusionModel(unet)) == [
        "latent", "timestep_embedding", "context", "added_embedding", "guidance_embedding",
        *(f"controlnet_down_{i}" for i in range(4)), "controlnet_mid",
    ]  # fmt: skip


def test_ids_of_any_numeric_type_are_taken():
    model, ids = fill(TextEncoder(TEXTS["clip-l"])), tokens("clip-l")
    expected = model([ids, np.arange(9)[None]])
    for dtype in ("int32", "float32", "float64"):
        rows = np.tile(np.arange(9, dtype=dtype), (3, 1))
        np.testing.assert_array_equal(model([ids.astype(dtype), rows]), expected)


def test_later_tokens_do_not_reach_back_and_pooling_takes_the_end():
    model, ids = fill(TextEncoder(TEXT)), tokens("projected")
    places = np.arange(9)[None]
    before, changed = model([ids, places]), ids.copy()
    changed[0, 3:] = 5  # after the first row's end token, at 2
    after = model([changed, places])
    np.testing.assert_allclose(after["context"][0, :3], before["context"][0, :3], atol=1e-6)
    assert np.abs(np.asarray(after["context"] - before["context"])[0, 3:]).max() > 0.1
    np.testing.assert_allclose(after["pooled"], before["pooled"], atol=1e-6)


def test_latents_of_any_size_give_the_same_size():
    model = DiffusionModel(UNETS["levels"][0])
    for height, width in ((1, 1), (2, 7), (5, 4)):
        inputs = unet_inputs("levels") | {"latent": numbers("any", (2, height, width, 4))}
        assert model(inputs).shape == (2, height, width, 4)


def test_moments_are_the_last_layer_but_one_and_share_its_weights():
    encoder, image = fill(ImageEncoder(VAE)), picture("two")
    moments = np.asarray(encoder.moments(image))
    assert encoder.moments is encoder.moments
    assert encoder.layers[-2].output is encoder.moments.output
    assert {id(v) for v in encoder.moments.variables} == {id(v) for v in encoder.variables}
    mean = (moments[..., :4] - VAE.shift_factor) * VAE.scaling_factor
    np.testing.assert_allclose(np.asarray(encoder(image)), mean, rtol=1e-6)
    assert encoder.moments.compute_dtype == "float32"


def test_samples_of_moments():
    config = AutoencoderConfig(latent_channels=1, scaling_factor=2.0, shift_factor=0.5)
    moments = np.array([[3.0, 0.0], [3.0, 2 * np.log(4)], [3.0, -99.0], [3.0, 99.0]])
    noise = np.array([1.0, -1.0, 1.0, 1.0]).reshape(4, 1, 1, 1)
    sample = np.asarray(sample_moments(moments.reshape(4, 1, 1, 2), noise, config))
    expected = [7.0, -3.0, 5.0 + 2 * np.exp(-15.0), 5.0 + 2 * np.exp(10.0)]
    np.testing.assert_allclose(sample.ravel(), expected, rtol=1e-6)
    assert sample.dtype == np.float32
    with pytest.raises(
        ValueError, match=r"`noise` must have half .* \(4, 1, 1, 2\), not shape \(4, 1"
    ):
        sample_moments(moments.reshape(4, 1, 1, 2), np.zeros((4, 1, 1, 2)), config)


def test_the_decoder_undoes_scale_and_shift():
    plain = replace(VAE, scaling_factor=1.0, shift_factor=0.0)
    latent = numbers("latent", (1, 3, 3, 4))
    scaled = (latent - VAE.shift_factor) * VAE.scaling_factor
    expected = np.asarray(fill(Decoder(plain))(latent))
    assert error(np.asarray(fill(Decoder(VAE))(scaled)), expected) < TOLERANCE


def test_timestep_embeddings_by_hand():
    t, slow = 7.0, 7.0 * 10000.0**-0.5
    sines, cosines = [np.sin(t), np.sin(slow)], [np.cos(t), np.cos(slow)]
    embedding = np.asarray(timestep_embedding([0.0, t], 4))
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, [[1, 1, 0, 0], cosines + sines], atol=1e-6)
    flipped = np.asarray(timestep_embedding([t], 4, flip_sin_to_cos=False))
    np.testing.assert_allclose(flipped, [sines + cosines], atol=1e-6)
    shifted = np.asarray(timestep_embedding([t], 4, False, freq_shift=1.0, max_period=100.0))
    expected = [np.sin(t), np.sin(t / 100), np.cos(t), np.cos(t / 100)]
    np.testing.assert_allclose(shifted, [expected], atol=1e-6)
    for width in (0, -2, 5):
        with pytest.raises(ValueError, match=f"`width` must be even and positive, not {width}"):
            timestep_embedding([1.0], width)


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
    for ours, wanted in zip(call(again, inputs), call(model, inputs), strict=True):
        np.testing.assert_array_equal(ours, wanted)


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


def test_without_initialisation_only_norms_are_not_zero():
    with uninitialized():
        models = [kind(config) for kind, config in MODELS.values()]
    for variable in (variable for model in models for variable in model.variables):
        values = np.unique(np.asarray(variable.value))
        assert values.tolist() == [1.0 if variable.path.endswith("gamma") else 0.0], variable.path


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
