"""Diffusers folders: what is found in them, in which order, and what is missing is named."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from tokenizer_cases import END, small
from torch_zip import write_state_dict

from kerasdiff.checkpoints.checkpoint import open_checkpoint
from kerasdiff.checkpoints.files import CheckpointError, write_safetensors
from kerasdiff.checkpoints.folders import TOKENIZERS
from kerasdiff.checkpoints.save import save_folder
from kerasdiff.configs import TINY
from kerasdiff.tokenizer_files import read_folder


def few(*names):
    """A few tensors of a part, which is all that opening a folder looks at."""
    return {name: np.full((2, 3), i + 0.5, np.float32) for i, name in enumerate(names)}


PARTS = {
    "text_encoder": few("embeddings.token_embedding.weight", "final_layer_norm.bias"),
    "text_encoder_2": few("final_layer_norm.weight", "text_projection.weight"),
    "vae": few("decoder.conv_in.weight", "decoder.mid_block.attentions.0.to_q.weight"),
    "unet": few("conv_in.weight", "conv_out.bias"),
}


def words(tmp_path, family):
    """The family's tokenizers, of a few words."""
    (tmp_path / "words").mkdir(exist_ok=True)
    return {
        name: small(
            tmp_path / "words" / f"{family}-{name}",
            added_tokens={"cat": 9},
            special_tokens_map={"pad_token": END if encoder.pad_token_id else "!"},
        )
        for name, encoder in zip(TOKENIZERS, TINY[family].text_encoders, strict=False)
    }


@pytest.fixture
def tokenizer(tmp_path):
    return words(tmp_path, "sd1")["tokenizer"]


@pytest.fixture
def saved(tmp_path):
    """A function that saves a folder of a family and gives its path."""

    def save(family="sd1", dtype=None):
        path = tmp_path / family
        folders = words(tmp_path, family)
        save_folder(path, TINY[family], PARTS, dtype, folders)
        return path

    return save


def assert_equal(tensors, arrays):
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.asarray(tensors[name], np.float32), array)


@pytest.mark.parametrize("family", ["sd1", "sd1-inpaint", "sd2-base", "sd2", "sdxl"])
def test_a_saved_folder_opens_as_what_it_was(saved, tmp_path, family):
    checkpoint = open_checkpoint(saved(family))
    assert checkpoint.config == TINY[family]
    for part, tensors in checkpoint.parts.items():
        assert_equal(tensors, PARTS[part])
    assert ("text_encoder_2" in checkpoint.parts) == (family == "sdxl")
    wanted = {name: read_folder(path) for name, path in words(tmp_path, family).items()}
    found = {name: read_folder(path) for name, path in checkpoint.tokenizer_folders.items()}
    assert found == wanted
    assert checkpoint.skipped == ()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_weights_are_written_in_the_dtype_asked_for(saved, dtype):
    checkpoint = open_checkpoint(saved(dtype=dtype))
    types = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
    assert checkpoint.parts["unet"].dtype("conv_in.weight") == types[dtype]
    assert_equal(checkpoint.parts["unet"], PARTS["unet"])


def test_names_of_transformers_4_and_5_are_both_read_and_4_is_written(saved):
    path = saved("sdxl")
    file = path / "text_encoder_2" / "model.safetensors"
    from kerasdiff.checkpoints.files import open_tensors

    names = set(open_tensors(file))
    assert names == {"text_model.final_layer_norm.weight", "text_projection.weight"}
    write_safetensors(file, PARTS["text_encoder_2"])
    assert_equal(open_checkpoint(path).parts["text_encoder_2"], PARTS["text_encoder_2"])


def test_old_attention_names_and_shapes_are_read(saved):
    path = saved()
    old = {
        "decoder.mid_block.attentions.0.query.weight": np.ones((2, 3, 1, 1), np.float32),
        "decoder.mid_block.attentions.0.proj_attn.bias": np.ones(2, np.float32),
    }
    write_safetensors(path / "vae" / "diffusion_pytorch_model.safetensors", old)
    assert open_checkpoint(path).parts["vae"].shapes == {
        "decoder.mid_block.attentions.0.to_q.weight": (2, 3),
        "decoder.mid_block.attentions.0.to_out.0.bias": (2,),
    }


def test_position_ids_are_skipped_and_reported(saved):
    path = saved()
    ids = {"text_model.embeddings.position_ids": np.arange(3)[None]}
    write_safetensors(path / "text_encoder" / "model.safetensors", PARTS["text_encoder"] | ids)
    checkpoint = open_checkpoint(path)
    assert checkpoint.skipped == ("text_encoder/text_model.embeddings.position_ids",)
    assert_equal(checkpoint.parts["text_encoder"], PARTS["text_encoder"])


def test_pickled_weights_are_read_where_there_are_no_safetensors(saved):
    path = saved()
    (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (path / "text_encoder" / "model.safetensors").unlink()
    write_state_dict(path / "unet" / "diffusion_pytorch_model.bin", PARTS["unet"])
    write_state_dict(path / "text_encoder" / "pytorch_model.bin", PARTS["text_encoder"])
    checkpoint = open_checkpoint(path)
    assert_equal(checkpoint.parts["unet"], PARTS["unet"])
    assert_equal(checkpoint.parts["text_encoder"], PARTS["text_encoder"])


@pytest.mark.parametrize(
    "index", ["{s}.safetensors.index{v}.json", "{s}{v}.safetensors.index.json"]
)
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_sharded_weights_are_read_as_one(saved, index, variant):
    path = saved()
    stem, middle = "diffusion_pytorch_model", f".{variant}" if variant else ""
    (path / "unet" / f"{stem}.safetensors").unlink()
    shards = {}
    for i, (name, array) in enumerate(PARTS["unet"].items()):
        shards[name] = f"{stem}{middle}-{i}.safetensors"
        write_safetensors(path / "unet" / shards[name], {name: array})
    text = json.dumps({"metadata": {}, "weight_map": shards})
    (path / "unet" / index.format(s=stem, v=middle)).write_text(text)
    assert_equal(open_checkpoint(path, variant=variant).parts["unet"], PARTS["unet"])


def test_a_variant_is_preferred_part_by_part(saved):
    path = saved()
    half = {name: array * 2 for name, array in PARTS["unet"].items()}
    write_safetensors(path / "unet" / "diffusion_pytorch_model.fp16.safetensors", half)
    assert_equal(open_checkpoint(path).parts["unet"], PARTS["unet"])
    checkpoint = open_checkpoint(path, variant="fp16")
    assert_equal(checkpoint.parts["unet"], half)
    assert_equal(checkpoint.parts["vae"], PARTS["vae"])
    with pytest.raises(CheckpointError, match="no part has weights of the variant 'bf16'"):
        open_checkpoint(path, variant="bf16")


def test_what_diffusers_folders_hold_besides_is_left_alone(saved):
    path = saved()
    for name in ("safety_checker", "feature_extractor"):
        (path / name).mkdir()
        (path / name / "config.json").write_text("{not read")
    assert open_checkpoint(path).config == TINY["sd1"]


@pytest.mark.parametrize(
    ("part", "file", "complaint"),
    [
        ("unet", "config.json", "unet/config.json: no such file"),
        (
            "vae",
            "diffusion_pytorch_model.safetensors",
            "has no diffusion_pytorch_model.safetensors",
        ),
        ("scheduler", "scheduler_config.json", "scheduler_config.json: no such file"),
        ("text_encoder_2", "model.safetensors", "it holds config.json"),
        (".", "model_index.json", "model_index.json: no such file"),
        ("vae", None, "vae/config.json: no such file"),
    ],
)
def test_a_missing_file_is_named(saved, part, file, complaint):
    path = saved("sdxl")
    if file:
        (path / part / file).unlink()
    else:
        shutil.rmtree(path / part)
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(path)
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("part", "file", "field"),
    [
        ("unet", "config.json", {"act_fn": "relu"}),
        ("vae", "config.json", {"scaling_factor": -1}),
        ("text_encoder", "config.json", {"hidden_act": "relu"}),
        ("scheduler", "scheduler_config.json", {"beta_schedule": "magic"}),
        (".", "model_index.json", {"_class_name": "MagicPipeline"}),
    ],
)
def test_a_config_that_cannot_be_honoured_is_named_with_its_folder(saved, part, file, field):
    path = saved()
    config = path / part / file
    config.write_text(json.dumps(json.loads(config.read_text()) | field))
    part, name = part.replace(".", "model_index"), *field
    with pytest.raises(CheckpointError, match=f"^{path}: `{name}` of {part} must be"):
        open_checkpoint(path)
    if part == "vae":
        with pytest.raises(CheckpointError, match=f"^{config}: `{name}` of vae must be"):
            open_checkpoint(saved("sdxl"), vae=path)


def test_a_variant_alone_is_pointed_out(saved):
    path = saved()
    file = path / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with pytest.raises(CheckpointError, match=r"it holds .*fp16.*variant 'fp16'"):
        open_checkpoint(path)


def test_another_autoencoder_takes_the_place_of_the_checkpoint_s(saved, tmp_path):
    path, other = saved("sd1"), saved("sdxl")
    arrays = few("encoder.conv_in.weight", "decoder.conv_out.bias")
    write_safetensors(other / "vae" / "diffusion_pytorch_model.safetensors", arrays)
    for vae in (other, other / "vae"):
        checkpoint = open_checkpoint(path, vae=vae)
        assert_equal(checkpoint.parts["vae"], arrays)
        assert checkpoint.config.autoencoder == TINY["sdxl"].autoencoder
        assert checkpoint.config.diffusion_model == TINY["sd1"].diffusion_model
    write_safetensors(tmp_path / "diffusers.safetensors", arrays)
    original = {"decoder.mid.attn_1.q.weight": np.ones((2, 3, 1, 1), np.float32), "loss.x": [1.0]}
    original = {name: np.asarray(array, np.float32) for name, array in original.items()}
    write_safetensors(tmp_path / "original.safetensors", original)
    assert_equal(open_checkpoint(path, vae=tmp_path / "diffusers.safetensors").parts["vae"], arrays)
    tensors = open_checkpoint(path, vae=tmp_path / "original.safetensors").parts["vae"]
    assert tensors.shapes == {"decoder.mid_block.attentions.0.to_q.weight": (2, 3)}
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint(path, vae=tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "field, fault",
    [({"shift_factor": 0.1}, "`shift_factor` of vae, 0.1, must be 0"),
     ({"latent_channels": 16}, "`in_channels` of the unet is 4, where .* make 16 or 33")],
)  # fmt: skip
def test_another_autoencoder_must_fit_the_unet(saved, field, fault):
    path, other = saved("sd1"), saved("sdxl")
    config = other / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | field))
    with pytest.raises(CheckpointError, match=f"^{other}: {fault}"):
        open_checkpoint(path, vae=other)


def test_guidance_is_that_of_diffusers_pipelines(saved):
    assert open_checkpoint(saved("sd1")).config.guidance_scale == 7.5
    index = saved("sdxl") / "model_index.json"
    assert open_checkpoint(index.parent).config.guidance_scale == 5.0
    inpainting = {"_class_name": "StableDiffusionXLInpaintPipeline"}
    index.write_text(json.dumps(json.loads(index.read_text()) | inpainting))
    unet = index.parent / "unet" / "config.json"
    unet.write_text(json.dumps(json.loads(unet.read_text()) | {"in_channels": 9}))
    assert open_checkpoint(index.parent).config.guidance_scale == 7.5


def test_the_prediction_type_can_be_overruled(saved):
    path = saved()
    checkpoint = open_checkpoint(path)
    assert checkpoint.prediction_type_source == "the scheduler's config"
    checkpoint = open_checkpoint(path, prediction_type="v_prediction")
    assert checkpoint.config.schedule.prediction_type == "v_prediction"
    assert checkpoint.prediction_type_source == "the argument"
    with pytest.raises(ValueError, match="`prediction_type` must be one of .*, not 'v'"):
        open_checkpoint(path, prediction_type="v")


def test_a_folder_is_written_whole_or_not_at_all(saved, tmp_path, tokenizer):
    path = saved()
    with pytest.raises(CheckpointError, match="exists and is not an empty folder"):
        save_folder(path, TINY["sd1"], PARTS, None, {"tokenizer": tokenizer})
    target = tmp_path / "new"
    target.mkdir()
    huge = PARTS | {"unet": {"conv_in.weight": np.array([1e6], np.float32)}}
    with pytest.raises(CheckpointError, match="'conv_in.weight' holds NaN or infinity as float16"):
        save_folder(target, TINY["sd1"], huge, "float16", {"tokenizer": tokenizer})
    with pytest.raises(CheckpointError, match="unet to save is missing"):
        parts = {name: PARTS[name] for name in ("text_encoder", "vae")}
        save_folder(target, TINY["sd1"], parts, None, {"tokenizer": tokenizer})
    assert list(target.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "sd1", "words"]
    save_folder(target, TINY["sd1"], PARTS, None, {"tokenizer": tokenizer})
    assert open_checkpoint(target).config == TINY["sd1"]
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_folder(tmp_path / "file" / "x", TINY["sd1"], PARTS, None, {"tokenizer": tokenizer})
