"""A training run that is cut goes on as it was; what is wrong is named, on the command line too."""

import errno
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_checkpoint import write_checkpoint
from PIL import Image
from training_cases import CONFIG, run_eagerly, settings, table, trained, write_toml

from kerasdiff import files
from kerasdiff.checkpoints.checkpoint import open_checkpoint
from kerasdiff.checkpoints.safetensor_files import read_safetensors
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.cli import main
from kerasdiff.configs import TINY
from kerasdiff.training.checkpoints import latest
from kerasdiff.training.runs import checks, run
from kerasdiff.training.runs.command import EXAMPLE
from kerasdiff.training.runs.networks import open_model
from kerasdiff.training.runs.record import write_record
from kerasdiff.training.runs.settings import make_settings

eager = pytest.fixture(run_eagerly)


# Cut and resumed


def test_other_settings_or_pictures_on_an_old_folder_are_named(tmp_path, eager):
    trained(settings(tmp_path, steps=1))

    def again(**changes):
        changes = {"steps": 1, "output": str(tmp_path / "again")} | changes
        given = settings(tmp_path, checkpoints__folder=str(tmp_path / "result-training"), **changes)
        return trained(given)

    with pytest.raises(
        ValueError, match=r"optimizer.rate was 0.01 and is 0.5; seed was 0 and is 7"
    ):
        again(optimizer__rate=0.5, seed=7)
    assert again(steps=2, checkpoints__every=1)  # more steps at a constant rate are no other run
    with pytest.raises(ValueError, match="is at step 2 already, of 1"):
        again(output=str(tmp_path / "third"))
    (tmp_path / "pictures/0.txt").write_text("another caption")
    with pytest.raises(ValueError, match="pictures.sizes, captions and files was"):
        again(steps=3, output=str(tmp_path / "fourth"))


def test_errors_count_steps_as_settings_do(tmp_path, eager):
    given = {"optimizer__accumulate": 2, "optimizer__warmup": 0, "train": ["unet.*conv_out"]}
    trained(settings(tmp_path, steps=2, **given))
    folder, output = str(tmp_path / "result-training"), str(tmp_path / "again")
    with pytest.raises(ValueError, match="is at step 2 already, of 1$"):
        trained(settings(tmp_path, steps=1, checkpoints__folder=folder, output=output, **given))
    given |= {"optimizer__rate": 1e30, "optimizer__name": "sgd", "optimizer__clip": 0.0}
    with pytest.raises(FloatingPointError, match="at step 2: .*last good state is none"):
        trained(settings(tmp_path, steps=3, checkpoints__every=9, output=output, **given))


def test_other_pictures_of_the_same_names_and_captions_are_named(tmp_path):
    given = settings(tmp_path)
    write_record(given.folder, given, run.prepare(given).source)
    (given.folder / "step-00000001.safetensors").touch()
    assert run.prepare(given)
    Image.fromarray(np.zeros((16, 16, 3), "uint8")).save(tmp_path / "pictures/0.png")
    with pytest.raises(ValueError, match="pictures.sizes, captions and files was"):
        run.prepare(given)


def test_a_run_that_never_took_a_step_can_be_changed(tmp_path, eager, monkeypatch):
    def begin(**changes):
        given = settings(tmp_path, data__cache_latents=True, **changes)
        with pytest.raises(MemoryError):
            trained(given)
        (cached,) = (given.folder / "moments").iterdir()
        return given.folder, cached.stat().st_mtime_ns

    def fail(*given):
        raise MemoryError

    monkeypatch.setattr(run, "_fit", fail)
    assert begin(batch_size=4) == begin(batch_size=2)
    folder, _ = begin(batch_size=2, optimizer__rate=0.5)
    (folder / "step-00000001.safetensors").touch()
    with pytest.raises(ValueError, match="optimizer.rate was 0.5 and is 0.01"):
        begin(batch_size=2)


# What can go wrong


def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_good_state(tmp_path, eager):
    given = settings(tmp_path, checkpoints__every=1, optimizer__rate=1e12, optimizer__warmup=0,
                     optimizer__name="sgd", optimizer__clip=0.0)  # fmt: skip
    with pytest.raises(FloatingPointError, match="loss is .* at step|holds NaN or infinity"):
        trained(given)
    path, step = latest(given.folder)
    assert step >= 1
    state = read_safetensors(path)
    assert all(np.isfinite(state[name]).all() for name in state)
    assert not Path(given.output).exists()


def test_a_full_disk_leaves_the_last_state_whole(tmp_path, eager, monkeypatch):
    given = settings(tmp_path, checkpoints__every=1)
    count = []

    def fill_up(descriptor):
        count.append(descriptor)
        if len(count) > 3:  # settings and two states
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fill_up)
    with pytest.raises(CheckpointError, match="step-00000003.*No space left on device"):
        trained(given)
    assert latest(given.folder)[1] == 2
    assert len(read_safetensors(latest(given.folder)[0])) > 50
    assert not list(given.folder.glob(".*.part"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data__folder": "empty"}, "empty: no picture with a caption"),
        ({"data__folder": "missing"}, "missing: no such folder"),
        ({"data__folder": None, "data__shards": "missing"}, "there is no TFRecord file"),
        ({"model": "missing"}, "'missing' is neither a file or folder nor a preset"),
        ({"data__size": 17}, "`data.size` must be a multiple of 2 for .*model, not 17"),
        ({"output": "pictures"}, "`output`: .*pictures exists already"),
        ({"output": "file/result"}, "`output`: .*file cannot be written to"),
        ({"output": "mounted"}, "`output`: mounted: is a mount point, .* a new folder inside it"),
        (
            {"output": "folder.safetensors"},
            "folder.safetensors: is a folder, which a file cannot replace",
        ),
        ({"output": "result.ckpt"}, "result.ckpt: .ckpt files are not written"),
        (
            {"model": "demo", "output": "a.safetensors"},
            "a single file has no place for a tokenizer",
        ),
        ({"samples__prompts": ["a", "word " * 20]}, "`samples`: the prompt has 20 tokens"),
        (
            {"samples__prompts": ["a"], "samples__steps": 10**6},
            "`samples`: `num_steps` must be",
        ),
        (
            {"samples__prompts": ["a"], "samples__guidance": 2000.0},
            "`samples`: `unconditional_guidance_scale` must be",
        ),
    ],
)
def test_what_is_not_there_or_in_the_way_is_named(tmp_path, changes, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "mounted", "folder.safetensors"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == tmp_path / "mounted")
    given = settings(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        run.prepare(given)


@pytest.mark.parametrize(
    "family, message",
    [("sd1-inpaint", "inpainting networks cannot"), ("sdxl", "two text encoders cannot")],
)
def test_networks_that_cannot_be_trained_are_named(tmp_path, family, message):
    write_checkpoint(tmp_path / "other", TINY[family])
    with pytest.raises(ValueError, match=message):
        open_model(settings(tmp_path, model=str(tmp_path / "other")))


def test_a_folder_of_a_variant_alone_is_opened_with_another_prediction_type(tmp_path):
    given = settings(tmp_path)
    for path in (tmp_path / "model").glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    with pytest.raises(ValueError, match="fp16"):
        open_model(given)
    given = settings(tmp_path, variant="fp16", prediction_type="v_prediction")
    assert open_model(given).config.schedule.prediction_type == "v_prediction"
    given = settings(tmp_path, model="sd1", vae=str(tmp_path / "model/vae"), variant="fp16")
    assert open_model(given).parts["vae"]


def test_damaged_records_are_named(tmp_path, eager):
    given = settings(tmp_path, steps=1)
    given.folder.mkdir()
    (given.folder / "settings.json").write_text("{")
    (given.folder / "step-00000001.safetensors").touch()
    with pytest.raises(ValueError, match="settings.json: is damaged"):
        trained(given)


def test_long_captions_are_an_error_before_the_first_step(tmp_path):
    given = settings(tmp_path)
    (tmp_path / "pictures/3.txt").write_text("a very long caption " * 4)
    with pytest.raises(ValueError, match=r"1 of 6 captions have more than 10 tokens \(3.png: 16\)"):
        run.prepare(given)
    assert run.prepare(settings(tmp_path, data__truncate_captions=True))


def test_a_broken_tokenizer_is_an_error_though_an_autoencoder_needs_none(tmp_path):
    given = settings(tmp_path, kind="autoencoder", train=["vae"])
    assert run.prepare(given)
    (tmp_path / "model" / "tokenizer" / "merges.txt").write_text("merges")
    with pytest.raises(ValueError, match="merges.txt: a merge must be two symbols"):
        run.prepare(given)


def test_what_can_be_known_is_an_error_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="'lora' is in no name"):
        run.prepare(settings(tmp_path, train=["unet", "lora"]))
    with pytest.raises(ValueError, match="`optimizer.options`: .*beta_9"):
        run.prepare(settings(tmp_path, optimizer__options={"beta_9": 0.9}))
    given = settings(tmp_path)
    write_record(given.folder, given, run.prepare(given).source)
    (given.folder / "step-00000001.safetensors").touch()
    assert run.prepare(given)
    with pytest.raises(ValueError, match="holds a run with other settings: optimizer.rate was"):
        run.prepare(settings(tmp_path, optimizer__rate=0.5))


def test_a_batch_that_devices_cannot_share_is_an_error_before_anything_is_read(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(checks, "shared_devices", lambda: 4)
    assert run.prepare(settings(tmp_path, batch_size=8))
    message = "`batch_size` must be a multiple of 4, .*devices.*, not 6: take 8, or fewer devices"
    with pytest.raises(ValueError, match=message):
        run.prepare(settings(tmp_path, batch_size=6, model="not there"))


@pytest.mark.parametrize("kind, gamma", [("epsilon", None), ("epsilon", 5), ("v_prediction", 5)])
@pytest.mark.parametrize("zero", [False, True])
def test_timesteps_that_cannot_be_weighed_are_an_error_before_anything_is_trained(
    tmp_path, kind, gamma, zero
):
    schedule = replace(CONFIG.schedule, prediction_type=kind, zero_terminal_snr=zero)
    write_checkpoint(tmp_path / "model", replace(CONFIG, schedule=schedule))
    given = settings(tmp_path, loss={} if gamma is None else {"snr_gamma": gamma})
    if (kind, gamma, zero) == ("epsilon", 5, True):
        with pytest.raises(ValueError, match="`loss.snr_gamma`: .*zero terminal SNR.* leave"):
            run.prepare(given)
    else:
        assert run.prepare(given)


def test_text_encoders_from_nothing_must_train(tmp_path):
    given = settings(tmp_path, fresh=["unet", "text_encoder"], train=["unet"])
    with pytest.raises(ValueError, match="starts from nothing and is not in `train`"):
        open_model(given)


# The command line


def test_the_command_checks_and_trains(tmp_path, capsys, eager):
    path = write_toml(tmp_path / "config.toml", table(tmp_path))
    assert main(["train", str(path), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "6 pictures, 0 left out" in out and "6 steps of 2 pictures" in out
    assert not (tmp_path / "result").exists()
    assert main(["train", str(path), "--steps", "1"]) == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'result'}\n")
    assert open_checkpoint(tmp_path / "result")
    assert main(["train", str(path)]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, message",
    [
        ("a = 1\nkind = \n", "line 2"),
        ('kind = "cats"', "must be one of diffusion"),
        ("a = 1", "`kind`"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, capsys, text, message):
    path = tmp_path / "config.toml"
    path.write_text(text)
    assert main(["train", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "config.toml" in err and message in err


def test_help_has_an_example_that_is_right(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "[optimizer]" in capsys.readouterr().out
    text = EXAMPLE.partition("\n")[2].partition("\nrecipe")[0]
    assert make_settings(tomllib.loads(text)).optimizer.accumulate == 2
