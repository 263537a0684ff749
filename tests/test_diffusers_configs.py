"""Every field of a diffusers folder is honoured, refused by name, or listed as without effect."""

import itertools
import json
import sys
from contextlib import suppress
from dataclasses import replace

import pytest
from config_changes import CHANGES, SCHEDULER_CHANGES, SD_CHANGES, XL_CHANGES

from kerasdiff.checkpoints import (
    autoencoder_json,
    diffusers_configs,
    diffusion_model_json,
    text_encoder_json,
)
from kerasdiff.checkpoints.diffusers_configs import pipeline_config, to_json
from kerasdiff.checkpoints.tensors import CheckpointError, naming
from kerasdiff.configs import FAMILIES, SD1, SDXL, TINY

ALL = list(FAMILIES.values()) + list(TINY.values())
NO_EFFECT = {
    "model_index": diffusers_configs.INDEX_NO_EFFECT,
    "unet": diffusion_model_json.NO_EFFECT,
    "vae": autoencoder_json.NO_EFFECT,
    "text_encoder": text_encoder_json.NO_EFFECT,
    "text_encoder_2": text_encoder_json.NO_EFFECT,
}

CASES = [
    (family, part, field, value)
    for family, own in (("sd1", SD_CHANGES), ("sdxl", XL_CHANGES))
    for part in CHANGES | own
    for field, value in (CHANGES.get(part, {}) | own.get(part, {})).items()
]


def changed(parts, part, **values):
    return parts | {part: parts[part] | values}


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.family)
def test_presets_survive_writing_and_parsing(config):
    parts = to_json(config)
    assert pipeline_config(parts) == config
    assert pipeline_config(json.loads(json.dumps(parts))) == config


@pytest.mark.parametrize("family, part, field, value", CASES)
def test_a_changed_field_gives_another_config_or_an_error(family, part, field, value):
    parts = to_json(TINY[family])
    if field in NO_EFFECT[part]:
        assert pipeline_config(changed(parts, part, **{field: value})) == TINY[family]
        return
    try:
        config = pipeline_config(changed(parts, part, **{field: value}))
    except CheckpointError as error:
        assert f"`{field}`" in str(error) or field in RELATED and RELATED[field] in str(error)
    else:
        assert config != TINY[family]


# Where two files no longer agree, the error names the other side of the disagreement.
RELATED = {
    "hidden_size": "`cross_attention_dim`", "latent_channels": "`in_channels`",
    "projection_dim": "`projection_class_embeddings_input_dim`",
    "addition_time_embed_dim": "`projection_class_embeddings_input_dim`",
    "max_position_embeddings": "number of tokens",
    "block_out_channels": "`norm_num_groups`",
}  # fmt: skip


def test_every_field_that_is_read_is_among_the_changes():
    for part, module in (
        ("unet", diffusion_model_json),
        ("vae", autoencoder_json),
    ):
        known = module.HONOURED.keys() | module.FIXED.keys() | module.NO_EFFECT.keys()
        assert known == CHANGES[part].keys()
    text = text_encoder_json
    assert text.HONOURED.keys() <= XL_CHANGES["text_encoder_2"].keys() | {"architectures"}


def test_absent_fields_have_the_defaults_of_diffusers_not_of_stable_diffusion():
    assert text_encoder_json.text_encoder_config({}).width == 512
    assert autoencoder_json.autoencoder_config({}).channels == (64,)
    assert diffusion_model_json.diffusion_model_config({}).context_dim == 1280


def test_published_stable_diffusion_1_files_are_the_preset():
    # as in the repositories of Stable Diffusion 1.5: old writers, foreign fields, few defaults
    parts = to_json(SD1)
    parts["scheduler"] = {
        "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
        "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
        "trained_betas": None, "clip_sample": False,
    }  # fmt: skip
    parts["unet"] = {
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu",
        "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False, "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4,
        "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05,
        "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    }  # fmt: skip
    assert pipeline_config(parts) == SD1


def test_pipelines_of_stable_diffusion_1_switch_clipping_off_and_offset_steps():
    parts = to_json(TINY["sd2"])
    loose = changed(parts, "scheduler", clip_sample=True, steps_offset=0)
    assert pipeline_config(loose) == TINY["sd2"]
    del loose["scheduler"]["clip_sample"]
    assert pipeline_config(loose) == TINY["sd2"]
    paints = to_json(TINY["sd1-inpaint"])  # whose pipeline in diffusers clips, where told
    with pytest.raises(CheckpointError, match="`clip_sample`"):
        paints["model_index"]["scheduler"] = ["diffusers", "DDIMScheduler"]
        pipeline_config(changed(paints, "scheduler", clip_sample=True))
    with pytest.raises(CheckpointError, match="`clip_sample`"):
        xl = to_json(replace(TINY["sdxl"], schedule=replace(SDXL.schedule, sampler="ddim")))
        pipeline_config(changed(xl, "scheduler", clip_sample=True))


def test_the_index_decides_the_class_of_the_scheduler():
    parts = to_json(TINY["sdxl"])
    parts = changed(parts, "model_index", scheduler=["diffusers", "HeunDiscreteScheduler"])
    assert pipeline_config(parts).schedule.sampler == "heun"


def test_sample_size_may_be_a_pair_and_is_at_least_64_in_old_files():
    parts = to_json(TINY["sd1"])
    assert pipeline_config(changed(parts, "unet", sample_size=[8, 24])).image_size == (16, 48)
    old = changed(parts, "unet", sample_size=32, _diffusers_version="0.6.0")
    assert pipeline_config(old).image_size == (128, 128)
    new = changed(parts, "unet", sample_size=32, _diffusers_version="0.10.2")
    assert pipeline_config(new).image_size == (64, 64)


def test_blocks_with_and_without_attention_mix_freely():
    unet = diffusion_model_json.diffusion_model_config({
        "block_out_channels": [32, 64, 96], "norm_num_groups": 8, "cross_attention_dim": 16,
        "layers_per_block": [1, 2, 1], "attention_head_dim": [2, 4, 6],
        "transformer_layers_per_block": [1, 2, 3],
        "reverse_transformer_layers_per_block": [3, 1, 2],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"],
    })  # fmt: skip
    assert (unet.depth, unet.up_depth, unet.mid_depth) == ((0, 2, 0), (3, 0, 2), 3)
    assert (unet.heads, unet.layers_per_block) == ((2, 4, 6), (1, 2, 1))
    again = diffusion_model_json.diffusion_model_json(unet, (8, 8))
    assert diffusion_model_json.diffusion_model_config(again) == unet


def test_padding_is_read_from_the_tokenizer():
    parts = to_json(TINY["sd1"])
    for token in ("!", {"content": "!", "lstrip": False}):
        parts["tokenizer"] = {"pad_token": token}
        assert pipeline_config(parts).text_encoders[0].pad_token_id == 0
    del parts["tokenizer"]
    assert pipeline_config(parts) == TINY["sd1"]


@pytest.mark.parametrize("value", ["many", -1, 0, 2.0, True, None, [1, 2], 10**9, {}])
@pytest.mark.parametrize(
    "part, field",
    [("unet", "in_channels"), ("vae", "latent_channels"), ("vae", "layers_per_block"),
     ("text_encoder", "hidden_size"), ("text_encoder", "vocab_size"), ("unet", "norm_num_groups"),
     ("scheduler", "num_train_timesteps"), ("unet", "cross_attention_dim")],
)  # fmt: skip
def test_sizes_of_the_wrong_type_or_absurd_are_refused(part, field, value):
    with pytest.raises(CheckpointError, match=f"`{field}`"):
        pipeline_config(changed(to_json(TINY["sd1"]), part, **{field: value}))


@pytest.mark.parametrize("value", ["x", float("nan"), float("inf"), -1, True, [], 10**400])
@pytest.mark.parametrize(
    "part, field",
    [("unet", "norm_eps"), ("vae", "scaling_factor"), ("text_encoder", "layer_norm_eps"),
     ("scheduler", "beta_start")],
)  # fmt: skip
def test_numbers_of_the_wrong_type_or_not_finite_are_refused(part, field, value):
    with pytest.raises(CheckpointError, match=f"`{field}`"):
        pipeline_config(changed(to_json(TINY["sd1"]), part, **{field: value}))


@pytest.mark.parametrize(
    "field, value",
    [("block_out_channels", []), ("block_out_channels", [32, 10**9]), ("block_out_channels", 32),
     ("block_out_channels", [32] * 100), ("attention_head_dim", [2, 4, 8]),
     ("attention_head_dim", 5), ("down_block_types", ["CrossAttnDownBlock2D"]),
     ("transformer_layers_per_block", [[1, 1], [1, 1]]), ("norm_num_groups", 7),
     ("mid_block_type", "UNetMidBlock2D"), ("freq_shift", 2), ("time_cond_proj_dim", 7),
     ("sample_size", [8, 8, 8]),
     ("reverse_transformer_layers_per_block", [1])],
)  # fmt: skip
def test_lists_that_do_not_fit_are_refused(field, value):
    with pytest.raises(CheckpointError, match=f"`{field}`"):
        pipeline_config(changed(to_json(TINY["sd1"]), "unet", **{field: value}))


NESTED = [[]]
for _ in range(sys.getrecursionlimit()):
    NESTED = [NESTED]
VALUES = [None, True, -1, 2.5, 1e400, "x", [], {}, [[]], [{}], ["diffusers", []], NESTED]


@pytest.mark.parametrize("family, part", [(c.family, p) for c in TINY.values() for p in to_json(c)])
def test_a_value_of_any_kind_gives_a_config_or_one_kind_of_error(family, part):
    parts = to_json(TINY[family])
    changes = CHANGES | (XL_CHANGES if family == "sdxl" else SD_CHANGES)
    fields = [None, "pad_token", *parts[part], *changes.get(part, SCHEDULER_CHANGES)]
    for field, value in itertools.product(fields, VALUES):
        with suppress(CheckpointError), naming("folder"):
            pipeline_config(parts | {part: parts[part] | {field: value} if field else value})


@pytest.mark.parametrize("part", ["model_index", "unet", "vae", "text_encoder", "scheduler"])
def test_missing_parts_and_unknown_fields_are_named(part):
    parts = to_json(TINY["sd1"])
    with pytest.raises(CheckpointError, match=part):
        pipeline_config({name: table for name, table in parts.items() if name != part})
    with pytest.raises(CheckpointError, match="`quantization_config` of " + part):
        pipeline_config(changed(parts, part, quantization_config={"bits": 4}))
    with pytest.raises(CheckpointError, match=part):
        pipeline_config(parts | {part: ["a", "list"]})


def test_parts_that_do_not_fit_each_other_are_refused():
    with pytest.raises(CheckpointError, match="`addition_embed_type`|`projection_class"):
        parts = to_json(TINY["sd1"])
        xl = to_json(TINY["sdxl"])["unet"] | {"cross_attention_dim": 32}
        pipeline_config(parts | {"unet": xl})


@pytest.mark.parametrize(
    "change, name",
    [({"image_size": (33, 32)}, "image_size"), ({"zero_empty_negative": True}, "zero_empty"),
     ({"diffusion_model": replace(TINY["sd1"].diffusion_model, transformer_epsilon=1e-5)},
      "transformer_epsilon"),
     ({"diffusion_model": replace(TINY["sd1"].diffusion_model, controlnet_residuals=True)},
      "controlnet_residuals"),
     ({"text_encoders": (replace(TINY["sd1"].text_encoders[0], output_layer=-2),)},
      "output_layer"),
     ({"schedule": replace(SD1.schedule, sampler="mystery")}, "mystery")],
)  # fmt: skip
def test_configs_that_the_files_cannot_say_are_not_written(change, name):
    with pytest.raises(CheckpointError, match=name):
        to_json(replace(TINY["sd1"], **change))
