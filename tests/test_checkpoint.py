"""Single files: what was saved opens as what it was, in every container and with every hint."""

import json

import numpy as np
import pytest
from checkpoint_cases import TINY, assert_parts, models, parts_of
from torch_zip import write_state_dict

from kerasdiff.checkpoints import checkpoint as module
from kerasdiff.checkpoints.checkpoint import find_and_open, open_checkpoint
from kerasdiff.checkpoints.files import CheckpointError, open_tensors, write_safetensors
from kerasdiff.checkpoints.load import MismatchError, state
from kerasdiff.checkpoints.models import open_models
from kerasdiff.checkpoints.probe import probe
from kerasdiff.checkpoints.save import convert
from kerasdiff.decoder import Decoder
from kerasdiff.image_encoder import ImageEncoder
from kerasdiff.layers import uninitialized


@pytest.mark.parametrize("family", TINY)
def test_a_saved_file_opens_as_what_it_was(single, family):
    checkpoint = open_checkpoint(single(family))
    assert checkpoint.config == TINY[family]
    assert_parts(checkpoint, parts_of(family))
    assert checkpoint.skipped == () and checkpoint.tokenizer_folders == {}
    assert "metadata" in checkpoint.prediction_type_source


@pytest.mark.parametrize("name", ("sd1.safetensors", "sd1.ckpt", "folder"))
def test_what_was_opened_is_read_from_another_current_folder(single, tmp_path, monkeypatch, name):
    path = single()
    if name == "folder":
        convert(path, tmp_path / name)
    elif name == "sd1.ckpt":
        write_state_dict(tmp_path / name, dict(open_tensors(path)))
    monkeypatch.chdir(tmp_path)
    opened = open_models(name, vae="sd1.safetensors", prediction_type="epsilon")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_parts(opened.checkpoint, parts_of("sd1"))
    assert opened.make("tokenizer").vocab_size == 49408
    assert opened.checkpoint.path == tmp_path / name


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


def test_a_schedule_that_plms_does_not_know_is_ddim_s(single, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_probe", refuse_to_probe)
    schedule = open_checkpoint(bare(single, tmp_path, "sd1", ["v_pred", "ztsnr"])).config.schedule
    assert schedule.zero_terminal_snr and schedule.sampler == "ddim"
    assert open_checkpoint(bare(single, tmp_path, "sd1")).config.schedule.sampler == "plms"


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
