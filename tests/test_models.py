"""The networks: numbers of the references, ways to call, and formulas by hand."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from model_cases import (
    CASES,
    KINDS,
    MODELS,
    TEXT,
    TEXTS,
    UNETS,
    VAE,
    call,
    error,
    fill,
    inputs_of,
    numbers,
    picture,
    tokens,
    unet_inputs,
)

from kerasdiff.configs import AutoencoderConfig
from kerasdiff.decoder import Decoder
from kerasdiff.diffusion_model import DiffusionModel, timestep_embedding
from kerasdiff.image_encoder import ImageEncoder, sample_moments
from kerasdiff.layers import ResBlock
from kerasdiff.text_encoder import TextEncoder

TOLERANCE = 2e-5  # relative to the largest value
GOLDEN = Path(__file__).parent / "golden" / "models.npz"


def largest_error(kind, name, golden):
    outputs = KINDS[kind][1](name)
    wanted = [golden[key] for key in golden.files if key.startswith(f"{kind}/{name}/")]
    assert len(outputs) == len(wanted) > 0
    return max(error(ours, theirs) for ours, theirs in zip(outputs, wanted, strict=True))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_outputs_are_those_of_the_reference(kind, name):
    with np.load(GOLDEN) as golden:
        assert largest_error(kind, name, golden) < TOLERANCE


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


@pytest.mark.parametrize("name", ("sd1", "levels", "sd2", "late"))
@pytest.mark.parametrize("rows", (1, 2))
def test_what_comes_before_the_text_is_computed_once_for_all_texts(rows, name, monkeypatch):
    late = {"depth": (0, 2), "up_depth": (2, 0)} if name == "late" else {}
    name = "sd1" if late else name
    model = fill(DiffusionModel(replace(UNETS[name][0], **late)))
    inputs = unet_inputs(name)
    latent, context = inputs["latent"][:rows], inputs["context"]
    context = np.concatenate([context[:rows], context[:rows] + 1, context[:rows] * 2])
    embedding = inputs["timestep_embedding"][:1]
    wanted = model(
        {
            "latent": np.concatenate([latent] * 3),
            "timestep_embedding": np.repeat(embedding, 3 * rows, axis=0),
            "context": context,
        }
    )
    seen, call = [], ResBlock.call
    monkeypatch.setattr(
        ResBlock, "call", lambda self, x, *rest: seen.append(x.shape[0]) or call(self, x, *rest)
    )
    found = model({"latent": latent, "timestep_embedding": embedding, "context": context})
    assert error(np.asarray(found), np.asarray(wanted)) < TOLERANCE
    first = 2 if late else 1
    assert seen == [rows] * first + [3 * rows] * (len(seen) - first)


def test_rows_of_texts_that_are_no_multiple_of_the_latents_are_refused():
    model, inputs = DiffusionModel(UNETS["sd1"][0]), unet_inputs("sd1")
    for rows in (1, 3):
        context = np.zeros((rows, *inputs["context"].shape[1:]), "float32")
        with pytest.raises(ValueError, match="batches of `key` .* differ"):
            model(inputs | {"context": context})


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
