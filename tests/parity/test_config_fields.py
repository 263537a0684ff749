"""No field of a config is forgotten: our tables against the classes that write the configs."""

import ast
import inspect
import json
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from config_changes import CHANGES, XL_CHANGES
from diffusers.training_utils import EMAModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from kerasdiff.checkpoints import (
    autoencoder_json,
    config_fields,
    diffusers_configs,
    diffusion_model_json,
    schedule_json,
    text_encoder_json,
)
from kerasdiff.checkpoints.diffusers_configs import pipeline_config, to_json
from kerasdiff.checkpoints.schedule_json import CLASSES, SAMPLERS, SOLVERS, schedule_config
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.configs import TINY

MODELS = {
    "unet": (diffusers.UNet2DConditionModel, diffusion_model_json,
             diffusion_model_json.diffusion_model_config),
    "vae": (diffusers.AutoencoderKL, autoencoder_json, autoencoder_json.autoencoder_config),
}  # fmt: skip
SWITCHES = {"clip_sample": False, "skip_prk_steps": True}  # diffusers' own defaults are refused
GENERIC_TEXT = {"model_type", "architectures", "_name_or_path"}


def parameters(kind):
    """The arguments of a class with their defaults."""
    if hasattr(kind, "_backends"):  # a stand-in: a library that only its methods need is missing
        return source_parameters(kind.__name__)
    found = inspect.signature(kind.__init__).parameters.values()
    return {p.name: p.default for p in found if p.name not in ("self", "args", "kwargs")}


def source_parameters(name):
    """The same, of a scheduler's source that cannot be imported."""
    for path in (Path(diffusers.__file__).parent / "schedulers").glob("scheduling_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                init = next(item for item in node.body if getattr(item, "name", "") == "__init__")
                names = [argument.arg for argument in init.args.args[1:]]
                return dict(zip(names, map(ast.literal_eval, init.args.defaults), strict=True))
    raise AssertionError(name)


def tables(module):
    return module.HONOURED.keys() | module.FIXED.keys() | module.NO_EFFECT.keys()


def saved(model, folder):
    model.save_pretrained(folder)
    return json.loads(next(folder.glob("*config.json")).read_text())


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("part", MODELS)
def test_each_argument_of_a_model_has_its_place(part):
    kind, module, parse = MODELS[part]
    defaults = parameters(kind)
    own = {name for name in tables(module) if not name.startswith("_")}
    assert defaults.keys() == own - config_fields.AVERAGING.keys()
    assert parse(json.loads(json.dumps(defaults))) == parse({})


@pytest.mark.parametrize("name", CLASSES)
def test_each_argument_of_a_scheduler_has_its_place(name):
    defaults = parameters(getattr(diffusers, name))
    assert defaults.keys() == set(CLASSES[name])
    switches = {key: value for key, value in SWITCHES.items() if key in defaults}
    said = json.loads(json.dumps(defaults)) | switches | {"_class_name": name}
    unsaid = schedule_config({"_class_name": name} | switches)
    assert replace(schedule_config(said), spacing=None, solver_type=None) == unsaid
    known = tables(schedule_json)
    assert defaults.keys() <= known


def test_each_field_of_a_text_encoder_has_its_place():
    fields = CLIPTextConfig().to_dict()
    assert fields.keys() <= tables(text_encoder_json)
    text_encoder = text_encoder_json.text_encoder_config
    assert text_encoder(fields | {"architectures": None}) == text_encoder({})


@pytest.mark.parametrize("name", [*diffusers_configs.SD, *diffusers_configs.SDXL])
def test_each_argument_of_a_pipeline_has_its_place(name):
    known = {
        *diffusers_configs.INDEX_HONOURED,
        *diffusers_configs.INDEX_FIXED,
        *diffusers_configs.INDEX_NO_EFFECT,
    }
    assert parameters(getattr(diffusers, name)).keys() <= known


def build(part, table, seed=0):
    """diffusers' own model of a config, with weights that follow from the seed alone."""
    torch.manual_seed(seed)
    if part in MODELS:
        return MODELS[part][0].from_config(table).eval()
    kind = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
    return kind(CLIPTextConfig.from_dict(table)).eval()


def output(part, model):
    """What a model makes of fixed inputs."""
    generator = torch.Generator().manual_seed(1)
    config = model.config

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        if part == "vae":
            latents = model.encode(draw(1, config.in_channels, 16, 16)).latent_dist.mean
            return model.decode(latents / 0.5).sample
        if part == "unet":
            added = config.projection_class_embeddings_input_dim or 0
            added -= 6 * (config.addition_time_embed_dim or 0)
            conditions = {"text_embeds": draw(1, added), "time_ids": torch.arange(6.0)[None]}
            guidance = config.time_cond_proj_dim
            return model(
                draw(1, config.in_channels, 8, 8),
                torch.tensor([500]),
                draw(1, 5, config.cross_attention_dim),
                timestep_cond=draw(1, guidance) if guidance else None,
                added_cond_kwargs=conditions if added else None,
            ).sample
        tokens = torch.tensor([[3, 9, 4, 7, 2, 99]])
        return model(tokens)[0]


@pytest.mark.parametrize("part", MODELS)
def test_a_network_as_training_scripts_save_its_averages_is_the_network(tmp_path, part):
    kind, _, parse = MODELS[part]
    model = build(part, to_json(TINY["sd1"])[part])
    averages = EMAModel(model.parameters(), model_cls=kind, model_config=model.config)
    plain = saved(model, tmp_path / "plain")
    averages.save_pretrained(tmp_path / "averages")
    config = json.loads((tmp_path / "averages" / "config.json").read_text())
    assert config.keys() - plain.keys() == config_fields.AVERAGING.keys()
    assert parse(config) == parse(plain)


FIELDS = [
    ("sd1", part, field) for part in ("unet", "vae", "text_encoder") for field in CHANGES[part]
] + [("sdxl", "unet", field) for field in ("use_linear_projection", "addition_time_embed_dim",
                                           "projection_class_embeddings_input_dim")]  # fmt: skip
# Only the pipeline reads these: sizes of pictures, scales of latents and tokens.
OUTSIDE = {"sample_size", "scaling_factor", "shift_factor", "eos_token_id"}


@pytest.mark.parametrize("family, part, field", FIELDS)
def test_what_is_honoured_matters_to_diffusers_and_what_has_no_effect_does_not(family, part, field):
    table = to_json(TINY[family])[part] | ({"vocab_size": 100} if "text" in part else {})
    values = CHANGES[part] | (XL_CHANGES.get(part, {}) if family == "sdxl" else {})
    changed = table | {field: values[field]}
    if field == "vocab_size":
        changed[field] = 120
    module, parse = (text_encoder_json, text_encoder_json.text_encoder_config)
    if part in MODELS:
        _, module, parse = MODELS[part]
    try:
        before, after = parse(table), parse(changed)
    except CheckpointError:
        return
    honoured = before != after
    assert honoured or field in module.NO_EFFECT or field in OUTSIDE
    if field in OUTSIDE or field.startswith("_") or field == "transformers_version":
        return
    ours, theirs = build(part, table), build(part, changed)
    if shapes(ours) != shapes(theirs):
        assert honoured
        return
    theirs.load_state_dict(ours.state_dict())
    same = torch.equal(output(part, ours), output(part, theirs))
    assert same != honoured


VARIANTS = [
    {"block_out_channels": (32, 64, 96), "layers_per_block": (1, 2, 1),
     "attention_head_dim": (2, 4, 6), "transformer_layers_per_block": (1, 2, 3),
     "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
     "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")},
    {"block_out_channels": (32,), "down_block_types": ("CrossAttnDownBlock2D",),
     "up_block_types": ("CrossAttnUpBlock2D",), "mid_block_type": None},
    {"block_out_channels": (16, 32), "down_block_types": ("CrossAttnDownBlock2D",) * 2,
     "up_block_types": ("CrossAttnUpBlock2D",) * 2, "time_cond_proj_dim": 8,
     "transformer_layers_per_block": (1, 2), "reverse_transformer_layers_per_block": (3, 1),
     "use_linear_projection": True, "in_channels": 9, "sample_size": (8, 16),
     "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
     "projection_class_embeddings_input_dim": 32, "only_cross_attention": [False, False]},
]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_unets_that_diffusers_saves_come_back_with_the_same_shapes(tmp_path, variant):
    model = diffusers.UNet2DConditionModel(**{
        "norm_num_groups": 8, "cross_attention_dim": 16, "layers_per_block": 1, **variant,
    })  # fmt: skip
    table = saved(model, tmp_path)
    config = diffusion_model_json.diffusion_model_config(table)
    size = diffusion_model_json.latent_size(table) or (8, 8)
    again = json.loads(json.dumps(diffusion_model_json.diffusion_model_json(config, size)))
    assert shapes(diffusers.UNet2DConditionModel.from_config(again)) == shapes(model)
    assert diffusion_model_json.diffusion_model_config(again) == config


@pytest.mark.parametrize(
    "variant",
    [{}, {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 8},
     {"mid_block_add_attention": False, "layers_per_block": 2, "in_channels": 1,
      "out_channels": 1}],
)  # fmt: skip
def test_autoencoders_that_diffusers_saves_come_back_with_the_same_shapes(tmp_path, variant):
    model = diffusers.AutoencoderKL(**{
        "block_out_channels": (8, 16), "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2, **variant,
    })  # fmt: skip
    config = autoencoder_json.autoencoder_config(saved(model, tmp_path))
    again = autoencoder_json.autoencoder_json(config)
    assert shapes(diffusers.AutoencoderKL.from_config(again)) == shapes(model)


@pytest.mark.parametrize("kind", [CLIPTextModel, CLIPTextModelWithProjection])
def test_text_encoders_that_transformers_saves_come_back_with_the_same_shapes(tmp_path, kind):
    made = CLIPTextConfig(
        vocab_size=120, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, projection_dim=24, eos_token_id=2, bos_token_id=0,
    )  # fmt: skip
    model = kind(made)
    config = text_encoder_json.text_encoder_config(saved(model, tmp_path))
    projected = kind is CLIPTextModelWithProjection
    assert config.projection_dim == (24 if projected else None)
    again = CLIPTextConfig.from_dict(text_encoder_json.text_encoder_json(config))
    assert shapes(kind(again)) == shapes(model)


@pytest.mark.parametrize("sampler", [*SAMPLERS, *SOLVERS])
def test_schedulers_open_what_we_write_and_we_what_they_write(tmp_path, sampler):
    schedule = replace(TINY["sdxl"].schedule, sampler=sampler)
    table = json.loads(json.dumps(schedule_json.schedule_json(schedule)))
    kind = getattr(diffusers, table["_class_name"])
    if hasattr(kind, "_backends"):
        pytest.skip(f"{kind.__name__} needs a library that is missing")
    scheduler = kind.from_config(table)
    again = saved(scheduler, tmp_path)
    assert replace(schedule_config(again), solver_type=None) == schedule
    for name in CLASSES[table["_class_name"]]:
        if name in table:
            assert scheduler.config[name] == table[name], name


@pytest.mark.parametrize("family", TINY)
def test_written_folders_open_in_diffusers(family):
    parts = to_json(TINY[family])
    assert pipeline_config(parts) == TINY[family]
    for name, table in parts.items():
        if name in MODELS:
            model = MODELS[name][0].from_config(table)
            defaults = parameters(MODELS[name][0])
            assert table.keys() - {"_class_name"} <= defaults.keys()
            assert sum(p.numel() for p in model.parameters())
