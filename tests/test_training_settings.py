"""Settings of a training run: what a TOML file may say, and what is refused, by name."""

import subprocess
import sys

import keras
import pytest

from kerasdiff.training.averages import WarmedUp
from kerasdiff.training.data.captions import Truncating, check_captions
from kerasdiff.training.muon import Muon
from kerasdiff.training.runs.recipes import RECIPES
from kerasdiff.training.runs.run import make_optimizer
from kerasdiff.training.runs.sections import OPTIMIZERS
from kerasdiff.training.runs.settings import make_settings, read_settings

GOOD = {"kind": "diffusion", "model": "sd-v1-5", "output": "out", "data": {"folder": "pictures"}}
AUTOENCODER = {**GOOD, "kind": "autoencoder"}


def test_little_is_enough():
    settings = make_settings(GOOD)
    assert settings.train == ("unet",) and settings.fresh == () and not settings.from_nothing
    assert settings.data.size == 512 and settings.optimizer.name == "adamw"
    assert str(settings.folder) == "out-training"
    for output, state in (("model-1.5", "model-1.5-training"), ("m.safetensors", "m-training")):
        assert str(make_settings(GOOD | {"output": output}).folder) == state
    assert make_settings(AUTOENCODER).train == ("vae",)


def test_sections_numbers_and_lists():
    settings = make_settings(
        GOOD
        | {
            "output": "runs/model.safetensors",
            "train": ["attn2"],
            "data": {"shards": "s", "size": 256, "max_ratio": 3},
            "samples": {"prompts": ["a", "b"]},
            "loss": {"snr_gamma": 5},
        }
    )
    assert settings.data.max_ratio == 3.0 and isinstance(settings.data.max_ratio, float)
    assert settings.samples.prompts == ("a", "b") and settings.loss.snr_gamma == 5.0
    assert settings.folder.as_posix() == "runs/model-training"


def test_the_recipe_of_sd1_and_what_goes_before_it():
    settings = make_settings(
        {"recipe": "sd1", "model": "m", "output": "o", "data": {"folder": "p"}}
    )
    optimizer = settings.optimizer
    assert (optimizer.name, optimizer.rate, optimizer.warmup) == ("adamw", 1e-4, 10_000)
    assert optimizer.schedule == "constant" and 0 < optimizer.ema < 1
    assert settings.batch_size * optimizer.accumulate == 2048
    assert settings.data.caption_dropout == 0.1 and settings.fresh == settings.train == ("unet",)
    table = {"recipe": "sd1", "model": "m", "output": "o", "batch_size": 4, "fresh": []}
    changed = make_settings(table | {"data": {"folder": "p", "size": 256}})
    assert changed.batch_size == 4 and changed.data.size == 256 and changed.fresh == ()
    assert changed.data.caption_dropout == 0.1  # of the same table, untouched
    assert RECIPES["sd1"]["batch_size"] == 1024


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": None}, "`kind` is missing|`kind` must be one of diffusion, autoencoder"),
        ({"kind": "lora"}, "`kind` must be one of diffusion, autoencoder, not 'lora'"),
        ({"kind": ["diffusion"]}, "`kind` must be one of"),
        ({"recipe": "sd9"}, "`recipe` must be one of sd1, not 'sd9'"),
        ({"stepz": 3}, "unknown key `stepz`; did you mean `steps`.*allowed: kind, model"),
        ({"data": {"folder": "p", "sise": 3}}, "unknown key `data.sise`; did you mean `data.size`"),
        ({"data": {}}, "data: give either `folder` or `shards`"),
        ({"data": {"folder": "a", "shards": "b"}}, "data: give either `folder` or `shards`"),
        ({"data": "pictures"}, "`data` must be a table, not 'pictures'"),
        ({"model": ""}, "`model` must not be empty"),
        ({"model": 3}, "`model` must be a string, not 3"),
        ({"steps": 2.5}, "`steps` must be a whole number, not 2.5"),
        ({"steps": True}, "`steps` must be a whole number, not True"),
        ({"steps": 0}, "`steps` must be at least 1, not 0"),
        ({"remat": "yes"}, "`remat` must be true or false, not 'yes'"),
        ({"train": "unet"}, "`train` must be a list of strings, not 'unet'"),
        ({"train": []}, "`train` is empty"),
        ({"train": ["(unet"]}, r"'\(unet' is no regular expression"),
        ({"dtype": "float16"}, "`dtype` must be one of float32, mixed_bfloat16, mixed_float16"),
        ({"fresh": ["clip"]}, "`fresh` must be one of unet, text_encoder, vae, not 'clip'"),
        ({"fresh": ["vae"]}, 'train the "vae" first'),
        ({"model": "sd1"}, "'sd1' has no trained autoencoder: name one with `vae`"),
        ({"prediction_type": "x0"}, "`prediction_type` must be one of epsilon, v_prediction"),
        ({"model": "sd1", "prediction_type": "epsilon"}, "architecture 'sd1' has its own"),
        ({"optimizer": {"name": "adamv"}}, "`optimizer.name` must be one of .*adamw.*'adamv'"),
        ({"optimizer": {"rate": -1.0}}, "`optimizer.rate` must be at least 0, not -1.0"),
        ({"optimizer": {"rate": float("nan")}}, "`optimizer.rate` must be at least 0, not nan"),
        ({"optimizer": {"rate": float("inf")}}, "`optimizer.rate` must be finite"),
        ({"optimizer": {"ema": 1.0}}, "optimizer: `ema` must be below 1"),
        ({"optimizer": {"floor": 0.1}}, '`floor` is for schedule = "cosine"'),
        ({"optimizer": {"schedule": "cosine", "warmup": 1000}}, "nothing is left for the cosine"),
        ({"data": {"folder": "p", "caption_dropout": 1.5}}, "`data.caption_dropout` .* at most 1"),
        (
            {"data": {"folder": "p", "buckets": True, "cache_latents": True}},
            "`cache_latents` needs pictures of one size",
        ),
        ({"loss": {"l1": 1.0}}, "unknown key `loss.l1`.*allowed: snr_gamma"),
        ({"loss": {"snr_gamma": 0}}, "loss: `snr_gamma` must be above 0; without it"),
        ({"loss": {"snr_gamma": -5}}, "`loss.snr_gamma` must be at least 0, not -5"),
    ],
)
def test_bad_settings_are_named(changes, message):
    table = {k: v for k, v in (GOOD | changes).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        make_settings(table)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data": {"folder": "p", "cache_latents": True}}, "unknown key `data.cache_latents`"),
        ({"samples": {"prompts": ["a"]}}, "unknown key `samples`"),
        ({"dtype": "mixed_float16"}, "mixed_bfloat16"),
        ({"fresh": ["unet"]}, '`fresh` can only hold "vae"'),
        ({"loss": {"l1": 0.0, "kl": 0.0}}, "at least one weight must be above 0"),
        ({"model": "sd1", "output": "a.safetensors"}, "`output` must be a folder"),
    ],
)
def test_bad_settings_of_an_autoencoder_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make_settings(AUTOENCODER | changes)


def test_files_are_named_in_errors(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('kind = "diffusion"\nmodel = \n')
    with pytest.raises(ValueError, match="config.toml: is not TOML: .*line 2"):
        read_settings(path)
    path.write_text('kind = "diffusion"\nmodel = "m"\noutput = "o"\nsteps = "many"\n')
    with pytest.raises(ValueError, match="config.toml: `steps` must be a whole number"):
        read_settings(path)
    with pytest.raises(OSError):
        read_settings(tmp_path / "none.toml")
    path.write_bytes(b'model = "\xff"')
    with pytest.raises(ValueError, match="config.toml: is not TOML"):
        read_settings(path)


def test_arguments_go_before_the_file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('kind = "diffusion"\nmodel = "m"\noutput = "o"\n[data]\nfolder = "p"\n')
    assert read_settings(path, steps=7).steps == 7
    assert read_settings(path, steps=None).steps == 1000


def test_settings_need_no_framework():
    code = "import sys, kerasdiff.training.runs.settings, kerasdiff.training.runs.command\n"
    code += "assert not {'keras', 'tensorflow', 'jax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_can_be_made(name):
    optimizer = make_optimizer(
        make_settings(
            GOOD | {"optimizer": {"name": name, "rate": 0.5, "ema": 0.81, "accumulate": 2}}
        )
    )
    assert isinstance(optimizer, Muon) == (name == "muon")
    assert optimizer.gradient_accumulation_steps == 2 and optimizer.global_clipnorm == 1.0
    assert optimizer.ema_momentum == pytest.approx(0.9)  # twice a step
    assert isinstance(optimizer, WarmedUp)
    assert float(optimizer.learning_rate) == pytest.approx(0.5)


def test_options_of_an_optimizer_reach_it_or_are_refused():
    table = GOOD | {"optimizer": {"options": {"beta_2": 0.9}, "clip": 0.0}}
    optimizer = make_optimizer(make_settings(table))
    assert optimizer.beta_2 == 0.9 and optimizer.global_clipnorm is None
    with pytest.raises(ValueError, match="`optimizer.options`: .*beta_9"):
        make_optimizer(make_settings(GOOD | {"optimizer": {"options": {"beta_9": 0.9}}}))


def test_float16_scales_the_loss():
    optimizer = make_optimizer(make_settings(GOOD | {"dtype": "mixed_float16"}))
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


class Words:
    """A tokenizer of words: as many tokens as letters a word, in six places."""

    max_length = 6

    def encode(self, text):
        return [0, *range(10, 10 + len(text.split())), 1]

    def pack(self, ids):
        assert len(ids) <= self.max_length
        return list(ids)


class Captions:
    names, captions = ["a.png", "b.png"], ["one two three four", "one two three four five"]


def test_captions_that_are_too_long_are_named():
    with pytest.raises(
        ValueError, match=r"1 of 2 captions .* 4 tokens \(b.png: 5\).*truncate_capt"
    ):
        check_captions(Captions(), Words())


def test_captions_are_cut_where_that_is_wanted():
    tokenizer = Truncating(Words())
    assert tokenizer.pack("one two three four") == [0, 10, 11, 12, 13, 1]
    assert tokenizer.pack("one two three four five six") == [0, 10, 11, 12, 13, 1]
    assert tokenizer.pack("") == [0, 1]
