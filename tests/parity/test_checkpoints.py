"""Folders that diffusers writes are read whole, and those written here are read by diffusers."""

import diffusers
import numpy as np
import pytest
import torch
from pipelines import KINDS, make_pipeline

from kerasdiff.checkpoints.checkpoint import open_checkpoint
from kerasdiff.checkpoints.load import state
from kerasdiff.checkpoints.names import from_diffusers
from kerasdiff.checkpoints.save import convert
from kerasdiff.checkpoints.tensors import cast
from kerasdiff.decoder import Decoder
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.image_encoder import ImageEncoder
from kerasdiff.layers import uninitialized
from kerasdiff.text_encoder import TextEncoder

PARTS = ("text_encoder", "text_encoder_2", "vae", "unet")


def tensors_of(pipeline):
    """Each part's tensors as the pipeline has them, under canonical names."""
    return {
        part: {
            from_diffusers(part, name): tensor.numpy()
            for name, tensor in getattr(pipeline, part).state_dict().items()
            if not name.endswith("position_ids")
        }
        for part in PARTS
        if getattr(pipeline, part, None) is not None
    }


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return make_pipeline(request.param, folder), folder / "pipeline"


def assert_same(found, expected):
    assert set(found) == set(expected)
    for part, arrays in expected.items():
        assert set(found[part]) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[part][name], array)


def test_a_folder_of_diffusers_opens(made):
    pipeline, folder = made
    assert_same(open_checkpoint(folder).parts, tensors_of(pipeline))


def test_its_parts_load_into_models(made):
    pipeline, folder = made
    checkpoint, expected = open_checkpoint(folder), tensors_of(pipeline)
    config = checkpoint.config
    with uninitialized():
        models = [("unet", DiffusionModel(config.diffusion_model))]
        models += [("vae", kind(config.autoencoder)) for kind in (ImageEncoder, Decoder)]
        models += [(f"text_encoder{'_2' * i}", TextEncoder(c)) for i, c in
                   enumerate(config.text_encoders)]  # fmt: skip
    for part, model in models:
        assert not checkpoint.load(part, model).fault
        for name, array in state(model).items():
            np.testing.assert_array_equal(array, expected[part][name])


def test_pickled_and_half_precision_weights_of_diffusers_open(made, tmp_path):
    pipeline, _ = made
    pipeline.save_pretrained(tmp_path / "bin", safe_serialization=False)
    pipeline.save_pretrained(tmp_path / "variant", variant="fp16")
    pipeline.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert list((tmp_path / "shards" / "unet").glob("*.index.json"))
    assert_same(open_checkpoint(tmp_path / "bin").parts, tensors_of(pipeline))
    assert_same(open_checkpoint(tmp_path / "shards").parts, tensors_of(pipeline))
    found = open_checkpoint(tmp_path / "variant", variant="fp16")
    assert_same(found.parts, tensors_of(pipeline))


def test_a_folder_written_here_opens_in_diffusers(made, tmp_path):
    pipeline, folder = made
    convert(folder, tmp_path / "single.safetensors")
    convert(tmp_path / "single.safetensors", tmp_path / "back")
    loaded = type(pipeline).from_pretrained(tmp_path / "back", torch_dtype=torch.float32)
    assert_same(tensors_of(loaded), tensors_of(pipeline))
    assert type(loaded.scheduler) is type(pipeline.scheduler)
    for name in ("tokenizer", "tokenizer_2"):
        if getattr(pipeline, name, None):
            text = ["a café, 東京 & <b>", ""]
            tokenizers = getattr(loaded, name), getattr(pipeline, name)
            found, expected = (t(text, padding="max_length").input_ids for t in tokenizers)
            assert found == expected


@pytest.mark.parametrize("family", ["sd1"])
def test_a_single_file_written_here_has_the_original_names(tmp_path, family):
    """Read by diffusers' own conversion of the original layout, which knows nothing of ours."""
    pipeline = make_pipeline(family, tmp_path)
    convert(tmp_path / "pipeline", tmp_path / "single.safetensors")
    unet = diffusers.UNet2DConditionModel.from_single_file(
        tmp_path / "single.safetensors", config=str(tmp_path / "pipeline"), subfolder="unet"
    )
    vae = diffusers.AutoencoderKL.from_single_file(
        tmp_path / "single.safetensors", config=str(tmp_path / "pipeline"), subfolder="vae"
    )
    for found, part in ((unet, pipeline.unet), (vae, pipeline.vae)):
        expected = part.state_dict()
        assert set(found.state_dict()) == set(expected)
        for name, tensor in found.state_dict().items():
            assert torch.equal(tensor, expected[name]), name


def test_small_weights_are_cast_where_the_processor_takes_them_for_zero():
    numbers = np.arange(2**10, dtype=np.uint16).view(np.float16)  # all without a leading one
    wanted = numbers.astype(np.float32)
    assert torch.set_flush_denormal(True)
    try:
        got = cast(numbers, np.dtype(np.float32))
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_array_equal(got, wanted)
