"""Training runs from settings to a checkpoint: what comes out."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_cases import CONFIG, run_eagerly, settings, tensors, trained, write_pictures

from kerasdiff.checkpoints.checkpoint import open_checkpoint
from kerasdiff.checkpoints.folders import open_autoencoder_folder
from kerasdiff.checkpoints.safetensor_files import read_safetensors
from kerasdiff.configs import FAMILIES
from kerasdiff.training.checkpoints import latest
from kerasdiff.training.data.pictures import PictureFolder
from kerasdiff.training.data.shards import write_shards
from kerasdiff.training.runs import run

eager = pytest.fixture(run_eagerly)


def test_shards_a_cosine_and_less_memory(tmp_path, eager):
    pictures = write_pictures(tmp_path / "pictures")
    source = PictureFolder(pictures, size=16)
    write_shards(source, tmp_path / "shards")
    given = settings(
        tmp_path, steps=3, data__folder=None, data__shards=str(tmp_path / "shards"),
        optimizer__schedule="cosine", optimizer__warmup=1, remat=True, output_dtype="float16",
        checkpoints__every=1, checkpoints__keep=1,
    )  # fmt: skip
    result = trained(given)
    assert {entry.dtype.name for entry in result.parts["unet"].entries.values()} == {"float16"}
    lines = [json.loads(line) for line in (given.folder / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["rate"] == pytest.approx(0.005)  # half way from the peak to nothing
    assert [path.name for path in given.folder.glob("step-*")] == ["step-00000003.safetensors"]


def test_a_run_that_scales_its_loss_goes_on_where_it_was_cut(tmp_path):
    options = {"dtype": "mixed_float16", "jit_compile": False, "train": ["unet.*conv_out"]}
    trained(settings(tmp_path, steps=1, optimizer__warmup=0, **options))
    given = settings(
        tmp_path, steps=2, output=str(tmp_path / "more"), optimizer__warmup=0,
        checkpoints__folder=str(tmp_path / "result-training"), **options,
    )  # fmt: skip
    assert trained(given) and latest(given.folder)[1] == 2


def test_a_run_gives_a_checkpoint_samples_scores_and_a_log(tmp_path, eager):
    given = settings(
        tmp_path, steps=4, train=["unet"], samples__prompts=["a", "b", "c"], samples__every=3,
        samples__steps=2, data__workers=2, optimizer__accumulate=2,
    )  # fmt: skip
    result = trained(given, score=lambda pictures: {"brightness": pictures.mean()})
    before = open_checkpoint(given.model)
    assert result.config == before.config and result.tokenizer_folders.keys() == {"tokenizer"}
    for part in ("text_encoder", "vae"):
        old, new = tensors(before.parts[part]), tensors(result.parts[part])
        assert old.keys() == new.keys()
        assert all(np.array_equal(old[name], new[name]) for name in old)
    old, new = tensors(before.parts["unet"]), tensors(result.parts["unet"])
    assert all(np.abs(old[name] - new[name]).max() > 0 for name in old)
    for step in (3, 4):
        with Image.open(given.folder / f"samples/step-0000000{step}.png") as grid:
            assert grid.width == 2 * 16 + 4 and grid.height > 2 * 16 + 4  # prompts below
    lines = [json.loads(line) for line in (given.folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "brightness" in line] == [3, 4]
    (last,) = [line for line in lines if "loss" in line]
    assert last["step"] == 4 and last["rate"] == pytest.approx(0.01)
    assert latest(given.folder)[1] == 8  # batches
    assert len(list(given.folder.glob("step-*"))) == 2


def test_what_is_saved_is_the_average(tmp_path, eager):
    given = settings(
        tmp_path, steps=2, train=["conv_out"], output=str(tmp_path / "one.safetensors")
    )
    result = trained(given)
    state = read_safetensors(latest(given.folder)[0])
    (average,) = [np.array(state[n]) for n in state if "conv_out_kernel_average" in n]
    (raw,) = [np.array(state[n]) for n in state if n.split("/")[2:] == ["conv_out", "kernel"]]
    saved = result.parts["unet"]["conv_out.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(saved, average)
    assert np.abs(average - raw).max() > 0


def test_latents_can_be_cached(tmp_path, eager):
    kept = trained(settings(tmp_path, steps=2, output=str(tmp_path / "kept"),
                            data__cache_latents=True))  # fmt: skip
    plain = trained(settings(tmp_path, steps=2, output=str(tmp_path / "plain")))
    assert (tmp_path / "kept-training/moments/moments-00000000-00000006.npz").exists()
    for name, tensor in tensors(plain.parts["unet"]).items():  # moments are kept as float16
        np.testing.assert_allclose(kept.parts["unet"][name], tensor, atol=5e-3)


@pytest.mark.parametrize("dtype", ("mixed_bfloat16", "mixed_float16"))
def test_mixed_precision_keeps_float32_weights_and_averages(tmp_path, eager, dtype):
    given = {"dtype": dtype, "checkpoints__folder": str(tmp_path / "state")}
    trained(settings(tmp_path, steps=2, **given))
    more = trained(settings(tmp_path, steps=3, output=str(tmp_path / "more"), **given))  # resumed
    exact = trained(settings(tmp_path, steps=3, output=str(tmp_path / "exact")))
    state = read_safetensors(latest(tmp_path / "state")[0])
    (average,) = [np.array(state[n]) for n in state if n.endswith("conv_norm_out_gamma_average")]
    np.testing.assert_array_equal(more.parts["unet"]["conv_norm_out.weight"], average)
    start = open_checkpoint(tmp_path / "model").parts["unet"]["conv_out.weight"]
    moved, expected = (result.parts["unet"]["conv_out.weight"] - start for result in (more, exact))
    assert moved.dtype == np.float32 and np.abs(moved).max() > 0
    if dtype == "mixed_bfloat16":
        assert np.corrcoef(moved.ravel(), expected.ravel())[0, 1] > 0.9
    else:  # steps whose scaled gradients overflow are left out, each at half the scale before
        scalars = {n.split("/", 2)[2]: np.array(state[n]) for n in state if state.shape(n) == ()}
        left_out = np.log2(2.0**15 / scalars["loss_scale/dynamic_scale"])
        assert left_out + scalars["optimizer/iteration"] == 3


def test_buckets_keep_aspect_ratios(tmp_path, eager):
    write_pictures(tmp_path / "pictures", 4)
    write_pictures(tmp_path / "pictures" / "wide", 4, (8, 32))
    given = settings(tmp_path, steps=4, data__buckets=True, data__bucket_multiple=8,
                     data__max_ratio=4.0)  # fmt: skip
    plan = run.prepare(given)
    assert set(plan.source.sizes) == {(16, 16), (8, 32)}
    assert "16x16, " in plan.describe()[1] or ", 16x16" in plan.describe()[1]
    run.train(plan, progress=False)
    assert open_checkpoint(given.output)


def test_an_autoencoder_from_nothing_measures_its_scale(tmp_path, eager):
    given = settings(
        tmp_path, kind="autoencoder", train=["vae"], fresh=["vae"], steps=3,
        loss={"mse": 1.0, "adversarial": 0.1}, optimizer__name="muon",
    )  # fmt: skip
    trained(given)
    before, after = open_checkpoint(given.model), open_checkpoint(given.output)
    scale = after.config.autoencoder.scaling_factor
    assert scale != before.config.autoencoder.scaling_factor and 0 < scale < 100
    assert np.array_equal(
        after.parts["unet"]["conv_in.weight"], before.parts["unet"]["conv_in.weight"]
    )


def test_an_autoencoder_of_an_architecture_is_saved_alone(tmp_path, eager, monkeypatch):
    monkeypatch.setitem(FAMILIES, "micro", CONFIG)
    given = settings(tmp_path, kind="autoencoder", train=["vae.decoder"], model="micro", steps=1)
    trained(given)
    config, parts, _ = open_autoencoder_folder(Path(given.output))
    assert config.channels == CONFIG.autoencoder.channels and "decoder.conv_in.weight" in parts


def test_an_autoencoder_alone_is_trained_on(tmp_path, eager, monkeypatch):
    monkeypatch.setitem(FAMILIES, "micro", CONFIG)
    given = settings(
        tmp_path, kind="autoencoder", train=["vae.decoder"], model="micro", steps=2,
        vae=str(tmp_path / "model/vae"), loss={"kl": 0.0},
    )  # fmt: skip
    trained(given)
    before, after = (open_autoencoder_folder(Path(path)) for path in (given.vae, given.output))
    assert after[0] == before[0]
    old, new = tensors(before[1]), tensors(after[1])
    change = {name: np.abs(new[name] - old[name]).max() for name in old}
    assert all((change[name] > 0) == name.startswith("decoder.") for name in change)
    assert old.keys() == new.keys() and max(change.values()) < 0.05
