"""Single files: what was saved opens as what it was, in every container and with every hint."""

import json
import shutil
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from torch_zip import write_state_dict

from kerasdiff.checkpoints import checkpoint as module
from kerasdiff.checkpoints.checkpoint import find_and_open, open_checkpoint
from kerasdiff.checkpoints.files import CheckpointError, open_tensors, write_safetensors
from kerasdiff.checkpoints.load import MismatchError, state
from kerasdiff.checkpoints.models import open_models
from kerasdiff.checkpoints.probe import probe
from kerasdiff.checkpoints.save import convert, save_file, save_folder
from kerasdiff.configs import TINY as SMALLEST
from kerasdiff.decoder import Decoder
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.image_encoder import ImageEncoder
from kerasdiff.layers import uninitialized
from kerasdiff.text_encoder import TextEncoder
from kerasdiff.tokenizer_files import clip_vocabulary, read_folder

# Files without our metadata say nothing of groups: they have the published 32.
TINY = {
    family: replace(
        config,
        autoencoder=replace(config.autoencoder, channels=(32, 64), norm_groups=32),
        diffusion_model=replace(config.diffusion_model, norm_groups=32),
    )
    for family, config in SMALLEST.items()
}


def models(config):
    """Each part's models, untrained."""
    found = {"unet": [DiffusionModel(config.diffusion_model)]}
    found["vae"] = [kind(config.autoencoder) for kind in (ImageEncoder, Decoder)]
    for name, text in zip(("text_encoder", "text_encoder_2"), config.text_encoders, strict=False):
        found[name] = [TextEncoder(text)]
    return found


_PARTS = {}


def parts_of(family):
    """Random tensors of each part of a tiny checkpoint, small enough for float16."""
    if family not in _PARTS:
        numbers = np.random.default_rng(0)
        _PARTS[family] = {
            part: {
                name: numbers.normal(size=shape).astype(np.float32)
                for model in found
                for name, shape in state(model).shapes.items()
            }
            for part, found in models(TINY[family]).items()
        }
    return _PARTS[family]


def assert_parts(checkpoint, parts, dtype=np.float32):
    assert set(checkpoint.parts) == set(parts)
    for part, arrays in parts.items():
        assert set(checkpoint.parts[part]) == set(arrays)
        for name, array in checkpoint.parts[part].items():
            assert array.dtype == dtype
            np.testing.assert_array_equal(array, arrays[name].astype(dtype))


@pytest.fixture
def single(tmp_path):
    def save(family="sd1", dtype=None):
        path = tmp_path / f"{family}.safetensors"
        save_file(path, TINY[family], parts_of(family), dtype)
        return path

    return save


@pytest.mark.parametrize("family", TINY)
def test_a_saved_file_opens_as_what_it_was(single, family):
    checkpoint = open_checkpoint(single(family))
    assert checkpoint.config == TINY[family]
    assert_parts(checkpoint, parts_of(family))
    assert checkpoint.skipped == () and checkpoint.tokenizer_folders == {}
    assert "metadata" in checkpoint.prediction_type_source


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_parts_load_into_models(single, family):
    checkpoint = open_checkpoint(single(family))
    config = checkpoint.config
    with uninitialized():
        made = models(config)
    for part, found in made.items():
        for model in found:
            report = checkpoint.load(part, model)
            assert not report.fault
            for name, array in state(model).items():
                np.testing.assert_array_equal(array, parts_of(family)[part][name])


def test_half_an_autoencoder_still_leaves_nothing_unexplained(single, tmp_path):
    parts = parts_of("sd1")
    for extra in ("decoder.new.weight", "encoder.new.weight", "new"):
        vae = parts["vae"] | {extra: np.ones(1, np.float32)}
        path = tmp_path / f"{extra}.safetensors"
        write_safetensors(path, vae)
        checkpoint = open_checkpoint(single(), vae=path)
        with pytest.raises(MismatchError, match=f"1 unexpected: {extra}"):
            for kind in (ImageEncoder, Decoder):
                checkpoint.load("vae", kind(TINY["sd1"].autoencoder))


def test_a_part_that_is_not_there_is_named(single):
    with pytest.raises(CheckpointError, match="has no text_encoder_2; it has"):
        open_checkpoint(single()).load("text_encoder_2", None)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state}])
def test_a_ckpt_opens_like_a_safetensors_file(single, tmp_path, wrap):
    path = tmp_path / "model.ckpt"
    write_state_dict(path, dict(open_tensors(single("sd1"))), wrap)
    checkpoint = open_checkpoint(path)
    assert_parts(checkpoint, parts_of("sd1"))
    assert checkpoint.config.family == "sd1"


def bare(single, tmp_path, family, extra=()):
    """The file as others write it, without our metadata."""
    tensors = dict(open_tensors(single(family))) | {n: np.zeros(1, np.float32) for n in extra}
    path = tmp_path / "bare.safetensors"
    write_safetensors(path, tensors)
    return path


def refuse_to_probe(*_):
    raise AssertionError("the network was asked")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bare.json", json.dumps({"prediction_type": "v_prediction"})),
        ("bare.yaml", 'model:\n  params:\n    parameterization: "v"\n    linear_start: 0.00085\n'),
    ],
)
def test_a_config_beside_the_file_decides(single, tmp_path, monkeypatch, name, text):
    monkeypatch.setattr(module, "_probe", refuse_to_probe)
    path = bare(single, tmp_path, "sd2-base")
    (tmp_path / name).write_text(text)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config.schedule.prediction_type == "v_prediction"
    assert "beside the file" in checkpoint.prediction_type_source
    assert open_checkpoint(path, prediction_type="epsilon").prediction_type_source == "the argument"


def test_a_config_beside_the_file_that_makes_no_sense_is_named_with_the_file(single, tmp_path):
    path = bare(single, tmp_path, "sd1")
    (tmp_path / "bare.json").write_text(json.dumps({"prediction_type": "magic"}))
    with pytest.raises(CheckpointError, match=f"^{path}: `prediction_type` of the config beside"):
        open_checkpoint(path)


def test_a_marker_decides(single, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_probe", refuse_to_probe)
    checkpoint = open_checkpoint(bare(single, tmp_path, "sd2-base", ["v_pred", "ztsnr"]))
    assert checkpoint.config.schedule.prediction_type == "v_prediction"
    assert checkpoint.config.schedule.zero_terminal_snr
    assert set(checkpoint.skipped) == {"v_pred", "ztsnr"}


def test_a_preset_s_word_spares_a_look(single, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_probe", refuse_to_probe)
    path = bare(single, tmp_path, "sd2-base")
    monkeypatch.setattr(module, "find", lambda name: path)
    checkpoint = find_and_open("sd-v2-1")
    assert checkpoint.config.schedule.prediction_type == "v_prediction"
    assert checkpoint.prediction_type_source == "the preset sd-v2-1"
    checkpoint = find_and_open("sd-v2-1", prediction_type="epsilon", vae="sd-vae-ft-mse")
    assert checkpoint.config.schedule.prediction_type == "epsilon"
    assert checkpoint.prediction_type_source == "the argument"


@pytest.mark.parametrize(("sign", "kind"), [(1, "epsilon"), (-1, "v_prediction")])
def test_the_network_is_asked_last(single, tmp_path, monkeypatch, sign, kind):
    noise = np.random.default_rng(0).normal(size=(1, 4, 4, 4))
    monkeypatch.setattr(module, "_probe", lambda config, unet: (sign * noise, noise))
    path = bare(single, tmp_path, "sd2-base")
    assert open_checkpoint(path).config.schedule.prediction_type == kind


def test_the_probe_runs_the_network(single):
    checkpoint = open_checkpoint(single("sd2-base"))
    unet = TINY["sd2-base"].diffusion_model
    output, noise = probe(unet, checkpoint.parts["unet"])
    assert output.shape == noise.shape == (1, 32, 32, 4)
    assert np.isfinite(output).all() and output.std() > 0 and abs(noise.std() - 1) < 0.1


def test_a_file_without_an_autoencoder_takes_another(single, tmp_path):
    tensors = dict(open_tensors(single("sd1")))
    path = tmp_path / "no-vae.safetensors"
    write_safetensors(path, {n: a for n, a in tensors.items() if not n.startswith("first_stage")})
    with pytest.raises(CheckpointError, match="no-vae.safetensors.*autoencoder is missing"):
        open_checkpoint(path)
    vae = tmp_path / "vae.safetensors"
    prefix = "first_stage_model."
    alone = {n.removeprefix(prefix): a for n, a in tensors.items() if n.startswith(prefix)}
    write_safetensors(vae, alone)
    assert_parts(open_checkpoint(single(), vae=vae), parts_of("sd1"))


def test_arguments_that_do_not_fit_are_named(single):
    with pytest.raises(ValueError, match="variant 'fp16' is for folders"):
        open_checkpoint(single(), variant="fp16")
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint(single().with_name("none.ckpt"))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_file_to_folder_to_file(single, tmp_path, family):
    source = single(family)
    convert(source, tmp_path / "folder", "float16")
    checkpoint = open_checkpoint(tmp_path / "folder")
    assert checkpoint.config == TINY[family]
    assert_parts(checkpoint, parts_of(family), np.float16)
    convert(tmp_path / "folder", tmp_path / "back.safetensors")
    back, first = open_tensors(tmp_path / "back.safetensors"), open_tensors(source)
    assert back.shapes == first.shapes
    convert(source, source, "bfloat16")  # over itself
    assert_parts(open_checkpoint(source), parts_of(family), ml_dtypes.bfloat16)


def test_a_target_that_cannot_be_is_named(single, tmp_path):
    for name in ("x.png", "model.ckpt", "model.Safetensors"):
        with pytest.raises(CheckpointError, match=f"{name}: .* files are not written: name a .saf"):
            convert(single(), tmp_path / name)
        assert not (tmp_path / name).exists()
    with pytest.raises(CheckpointError, match="cannot be written"):
        convert(single(), tmp_path / "missing" / "model.safetensors")


def test_a_folder_s_name_may_have_dots(single, tmp_path):
    (tmp_path / "my.model").mkdir()  # which cannot be meant as a file
    for name in ("model-1.5", "model-1.5-fp16", "my.model"):
        convert(single(), tmp_path / name)
        assert (tmp_path / name / "model_index.json").is_file()


def test_clip_s_own_vocabulary_is_written_where_no_tokenizer_is_given(tmp_path):
    save_folder(tmp_path / "sd2", TINY["sd2"], parts_of("sd2"))
    found, own = read_folder(tmp_path / "sd2" / "tokenizer"), clip_vocabulary()
    assert found.ids == own.ids and found.merges == own.merges
    assert (found.start, found.end, found.pad) == (own.start, own.end, "!")
    assert open_checkpoint(tmp_path / "sd2").config == TINY["sd2"]


def test_clip_s_vocabulary_is_not_taken_for_another(tmp_path):
    save_folder(tmp_path / "sd1", TINY["sd1"], parts_of("sd1"))
    shutil.rmtree(tmp_path / "sd1" / "tokenizer")
    assert open_models(tmp_path / "sd1").make("tokenizer").vocab_size == 49408
    path = tmp_path / "sd1" / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 1000}))
    fault = "has no tokenizer, and CLIP's of 49408 tokens is not for a text encoder of 1000"
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'sd1'}: {fault}"):
        open_models(tmp_path / "sd1").make("tokenizer")
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'new'}: {fault}"):
        convert(tmp_path / "sd1", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    fault = "a single file has no place for a tokenizer, and this text encoder of 1000 tokens"
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'one.safetensors'}: {fault}"):
        convert(tmp_path / "sd1", tmp_path / "one.safetensors")
    assert not (tmp_path / "one.safetensors").exists()


def test_how_to_call_a_model_is_no_part_of_its_folder(tmp_path):
    config = replace(TINY["sd1"], num_steps=10, guidance_scale=3.0)
    save_folder(tmp_path / "sd1", config, parts_of("sd1"))
    assert open_checkpoint(tmp_path / "sd1").config == TINY["sd1"]


@pytest.mark.parametrize("dtype", (None, "float32", "float16"))
@pytest.mark.parametrize("target", ("folder", "file.safetensors"))
def test_weights_that_are_not_finite_are_not_written_on(tmp_path, target, dtype):
    parts = parts_of("sd1")
    name = next(iter(parts["unet"]))
    broken = parts["unet"] | {name: np.full_like(parts["unet"][name], np.nan)}
    with pytest.raises(CheckpointError, match=f"{name}.*NaN"):
        save = save_file if "file" in target else save_folder
        save(tmp_path / target, TINY["sd1"], parts | {"unet": broken}, dtype)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named_as_it_was_given(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kerasdiff.files.os.fsync", full_disk)
    with pytest.raises(CheckpointError) as caught:
        save_folder(tmp_path / "out", TINY["sd1"], parts_of("sd1"))
    assert str(caught.value).startswith(f"{tmp_path / 'out'}/") and ".part" not in str(caught.value)
    assert str(caught.value).endswith("cannot be written: No space left on device")
    assert list(tmp_path.iterdir()) == []
