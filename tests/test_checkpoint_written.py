"""What is written, as a file or a folder, and what is refused before anything is."""

import json
import shutil
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from checkpoint_cases import TINY, assert_parts, parts_of
from tokenizer_cases import END, fast, small

from kerasdiff.checkpoints.checkpoint import open_checkpoint
from kerasdiff.checkpoints.files import CheckpointError, open_tensors, write_safetensors
from kerasdiff.checkpoints.models import open_models
from kerasdiff.checkpoints.save import convert, save_file, save_folder
from kerasdiff.tokenizer_files import clip_vocabulary, read_folder

TABLE = "text_model.embeddings.token_embedding.weight"


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


def velocity(family, snr):
    schedule = replace(
        TINY[family].schedule, prediction_type="v_prediction", zero_terminal_snr=snr, sampler="ddim"
    )
    return replace(TINY[family], schedule=schedule)


@pytest.mark.parametrize(
    "config, markers",
    [
        (TINY["sdxl"], set()),
        (velocity("sdxl", False), {"v_pred"}),
        (velocity("sdxl", True), {"v_pred", "ztsnr"}),
        (velocity("sd2", True), set()),
    ],
)
def test_a_single_file_says_what_it_predicts_where_others_look(tmp_path, config, markers):
    path = tmp_path / "model.safetensors"
    save_file(path, config, parts_of(config.family))
    tensors = open_tensors(path)
    assert {name for name in ("v_pred", "ztsnr") if name in tensors} == markers
    said = "v" if config.schedule.prediction_type == "v_prediction" else "epsilon"
    assert tensors.metadata["modelspec.prediction_type"] == said
    assert open_checkpoint(path).config == config
    write_safetensors(path, tensors, {"format": "pt"})  # as programs do that keep tensors alone
    if markers:
        schedule = open_checkpoint(path).config.schedule
        assert schedule.prediction_type == "v_prediction"
        assert schedule.zero_terminal_snr == config.schedule.zero_terminal_snr


def test_metadata_that_stays_true_is_carried_over(tmp_path):
    kept = {"modelspec.title": "Cats", "ss_output_name": "cats"}
    stale = dict.fromkeys(
        ["modelspec.hash_sha256", "sshs_model_hash", "modelspec.predict_key"], "x"
    )
    path, anew = tmp_path / "model.safetensors", tmp_path / "anew.safetensors"
    save_file(path, TINY["sdxl"], parts_of("sdxl"))
    own = open_tensors(path).metadata
    others = {"format": "np", "prediction_type": "epsilon"} | kept | stale
    write_safetensors(path, dict(open_tensors(path)), others)
    convert(path, anew, "float16", prediction_type="v_prediction")
    found = open_tensors(anew).metadata
    assert set(found) == set(own) | set(kept) and found["format"] == "pt"
    assert kept.items() <= found.items() and found["modelspec.prediction_type"] == "v"


def test_a_target_that_cannot_be_is_named(single, tmp_path):
    for name in ("x.png", "model.ckpt", "model.Safetensors"):
        with pytest.raises(CheckpointError, match=f"{name}: .* files are not written: name a .saf"):
            convert(single(), tmp_path / name)
        assert not (tmp_path / name).exists()
    with pytest.raises(CheckpointError, match="cannot be written"):
        convert(single(), tmp_path / "missing" / "model.safetensors")
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="x.safetensors: is a folder, which a file cannot re"):
        convert(single(), tmp_path / "x.safetensors")


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
    weights = path.with_name("model.safetensors")
    tensors = {name: np.array(array) for name, array in open_tensors(weights).items()}
    tensors[TABLE] = tensors[TABLE][:1000]
    write_safetensors(weights, tensors)
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


def swap(vocabulary):
    return vocabulary | {"cat</w>": vocabulary["dog</w>"], "dog</w>": vocabulary["cat</w>"]}


def with_whole_token(settings):
    added = settings["added_tokens_decoder"] | {"2368": {"content": "cat</w>"}}
    return settings | {"added_tokens_decoder": added}


OWN = {  # file, what it becomes
    "ids": ("vocab.json", swap),
    "length": ("tokenizer_config.json", lambda settings: settings | {"model_max_length": 50}),
    "whole tokens": ("tokenizer_config.json", with_whole_token),
}


@pytest.mark.parametrize("file, change", OWN.values(), ids=OWN)
def test_a_tokenizer_of_its_own_is_not_lost_in_a_single_file(tmp_path, file, change):
    source, target = tmp_path / "sd1", tmp_path / "one.safetensors"
    save_folder(source, TINY["sd1"], parts_of("sd1"))
    convert(source, target)
    before, path = target.read_bytes(), source / "tokenizer" / file
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    fault = f"{target}: a single file has no place for a tokenizer, and {path.parent} is not the"
    with pytest.raises(CheckpointError, match=fault):
        convert(source, target)
    assert target.read_bytes() == before
    convert(source, tmp_path / "new")
    assert read_folder(tmp_path / "new" / "tokenizer") == read_folder(path.parent)


FORMS = {
    "fast": {"tokenizer": fast()},
    "older": {
        "special_tokens_map": {"pad_token": {"content": "!", "normalized": True}},
        "added_tokens": {"cat": 9},
        "tokenizer_config": {"model_max_length": 50, "additional_special_tokens": ["cat"]},
    },
    "newer": {"tokenizer_config": {"added_tokens_decoder": {
        "8": {"content": END}, "9": {"content": "A Cat", "normalized": True}}}},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_tokenizers_of_every_form_are_written_as_they_are_read(single, tmp_path, form):
    convert(single("sdxl"), tmp_path / "source")
    shutil.rmtree(tmp_path / "source" / "tokenizer_2")
    wanted = small(tmp_path / "source" / "tokenizer_2", **FORMS[form])
    (wanted / "notes.txt").write_text("not of a tokenizer")
    convert(tmp_path / "source", tmp_path / "new")
    written = tmp_path / "new" / "tokenizer_2"
    assert read_folder(written) == read_folder(wanted)
    assert {path.name for path in written.iterdir()} == {
        "vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.parametrize("link", ("of secrets", "of a tokenizer beside secrets", "of each file"))
def test_what_a_tokenizer_links_to_is_not_copied(single, tmp_path, link):
    convert(single(), tmp_path / "source")
    folder, private = tmp_path / "source" / "tokenizer", tmp_path / "private"
    if link == "of secrets":
        shutil.rmtree(folder)
        private.mkdir()
    else:
        folder.rename(private)
    (private / "id_rsa").write_text("a secret")
    if link == "of each file":  # as in the folders of Hugging Face's cache
        folder.mkdir()
        for path in private.iterdir():
            (folder / path.name).symlink_to(path)
    else:
        folder.symlink_to(private, target_is_directory=True)
    if link == "of secrets":
        with pytest.raises(CheckpointError, match="tokenizer/vocab.json: no such file"):
            convert(tmp_path / "source", tmp_path / "new")
        assert not (tmp_path / "new").exists()
    else:
        convert(tmp_path / "source", tmp_path / "new")
        assert read_folder(tmp_path / "new" / "tokenizer") == read_folder(private)
        assert not [*(tmp_path / "new").rglob("id_rsa")]


def test_a_broken_tokenizer_is_refused_before_anything_is_written(single, tmp_path, monkeypatch):
    convert(single(), tmp_path / "source")
    (tmp_path / "source" / "tokenizer" / "merges.txt").write_text("merges")
    monkeypatch.setattr("kerasdiff.checkpoints.save.whole_folder", None)
    with pytest.raises(CheckpointError, match="merges.txt: a merge must be two symbols"):
        convert(tmp_path / "source", tmp_path / "new")
    with pytest.raises(CheckpointError, match="merges.txt: a merge must be two symbols"):
        open_models(tmp_path / "source").make("tokenizer")


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


@pytest.mark.parametrize("target", ("out", "out.safetensors"))
def test_a_checkpoint_that_lacks_a_tensor_is_not_written_on(single, tmp_path, target):
    convert(single(), tmp_path / "model")
    path = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = {name: np.array(array) for name, array in open_tensors(path).items()}
    lacking = {name: array for name, array in tensors.items() if name != "conv_out.bias"}
    misshapen = tensors | {"conv_out.bias": np.ones(9, "float32")}
    for other, complaint in ((lacking, "1 missing"), (misshapen, r"1 misshapen.*\(9,\)")):
        write_safetensors(path, other)
        with pytest.raises(CheckpointError, match=rf"the unet: {complaint}"):
            convert(tmp_path / "model", tmp_path / target)
        assert not (tmp_path / target).exists()


def test_a_folder_that_cannot_be_written_is_named_as_it_was_given(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kerasdiff.files.os.fsync", full_disk)
    with pytest.raises(CheckpointError) as caught:
        save_folder(tmp_path / "out", TINY["sd1"], parts_of("sd1"))
    assert str(caught.value).startswith(f"{tmp_path / 'out'}/") and ".part" not in str(caught.value)
    assert str(caught.value).endswith("cannot be written: No space left on device")
    assert list(tmp_path.iterdir()) == []
