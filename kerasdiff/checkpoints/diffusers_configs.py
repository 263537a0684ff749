"""The configs of a diffusers folder as one `StableDiffusionConfig`, and back.

Every field of every file is honoured, refused by name, or listed as without effect with the
reason; the lists stand in `text_encoder_json.py`, `autoencoder_json.py`,
`diffusion_model_json.py`, `schedule_json.py` and, for `model_index.json`, here. A field that is
absent has diffusers' own default.
"""

from dataclasses import fields as fields_of
from dataclasses import replace

from kerasdiff.checkpoints.autoencoder_json import autoencoder_config, autoencoder_json
from kerasdiff.checkpoints.config_fields import DIFFUSERS_RECORDS, Fields
from kerasdiff.checkpoints.diffusion_model_json import (
    diffusion_model_config,
    diffusion_model_json,
    latent_size,
)
from kerasdiff.checkpoints.schedule_json import schedule_config, schedule_json
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.checkpoints.text_encoder_json import (
    CLIP_PAD,
    OPENCLIP_PAD,
    text_encoder_config,
    text_encoder_json,
)
from kerasdiff.configs import StableDiffusionConfig

__all__ = [
    "autoencoder_config",
    "diffusion_model_config",
    "pipeline_config",
    "schedule_config",
    "text_encoder_config",
    "to_json",
    "with_family",
]

SD = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")
SDXL = tuple(name.replace("Diffusion", "DiffusionXL") for name in SD)
PAD_TOKENS = {"<|endoftext|>": CLIP_PAD, "!": OPENCLIP_PAD}
GUIDANCE = {"sdxl": 5.0}  # 7.5 of all others, SDXL's for inpainting too
LATENTS = {SD: (64, 64), SDXL: (128, 128)}  # diffusers' sizes where the UNet's config has none

CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
PARTS = {  # the classes that each part may have
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": CLIP_TOKENIZERS,
    "tokenizer_2": CLIP_TOKENIZERS,
}
INDEX_HONOURED = dict.fromkeys(["_class_name", "scheduler", *PARTS]) | {
    "force_zeros_for_empty_prompt": True
}
INDEX_FIXED = {"requires_aesthetics_score": (False,), "add_watermarker": (None, False)}
INDEX_NO_EFFECT = DIFFUSERS_RECORDS | {
    "safety_checker": "judges pictures, does not make them",
    "requires_safety_checker": "judges pictures, does not make them",
    "feature_extractor": "prepares pictures for the safety checker",
    "image_encoder": "is used with an IP-Adapter only, which is given separately",
}


def pipeline_config(parts):
    """The config of a diffusers folder.

    Args:
        parts: dict of the parsed JSON files: "model_index", "unet", "vae", "text_encoder",
            "scheduler", for SDXL "text_encoder_2", and optionally "tokenizer" and "tokenizer_2"
            (each `tokenizer_config.json`, for the token that prompts are padded with).

    As the pipelines of Stable Diffusion 1 and 2 in diffusers do, those classes take
    `steps_offset` for 1 whatever the scheduler's file says, the inpainting one takes
    `skip_prk_steps` for true and the others `clip_sample` for false, and a UNet written before
    diffusers 0.9 has a `sample_size` of at least 64.

    Raises:
        CheckpointError: naming the part, the field, its value and what is supported.
    """
    index = Fields(
        "model_index", _part(parts, "model_index"), INDEX_HONOURED, INDEX_FIXED, INDEX_NO_EFFECT
    )
    pipeline = index.choice("_class_name", SD + SDXL)
    for name, classes in PARTS.items():
        _check_class(index, name, classes)
    has_second = index["text_encoder_2"] not in (None, [None, None])
    if has_second != (pipeline in SDXL):
        expected = "a part" if pipeline in SDXL else f"absent in a {pipeline}"
        index.refuse("text_encoder_2", index["text_encoder_2"], expected)
    autoencoder = autoencoder_config(_part(parts, "vae"))
    unet = diffusion_model_config(_part(parts, "unet"))
    height, width = _latents(pipeline, _part(parts, "unet"))
    config = StableDiffusionConfig(
        family="",
        text_encoders=_text_encoders(pipeline, parts),
        autoencoder=autoencoder,
        diffusion_model=unet,
        schedule=_schedule(index, pipeline, _part(parts, "scheduler")),
        image_size=(height * autoencoder.factor, width * autoencoder.factor),
        zero_empty_negative=pipeline in SDXL and index.flag("force_zeros_for_empty_prompt"),
    )
    check_parts(config)
    return with_family(config)


def to_json(config):
    """The JSON files of a diffusers folder; `pipeline_config` reversed, `family` aside.

    Returns:
        dict of parts, as `pipeline_config` takes them. diffusers and transformers open them all;
        the tokenizers' tables hold what the config knows and go beside a vocabulary.

    Raises:
        CheckpointError: naming what these files cannot say.
    """
    sized = config.diffusion_model.size_embed_dim is not None
    factor = config.autoencoder.factor
    if any(size % factor for size in config.image_size):
        raise CheckpointError(f"`image_size` {config.image_size} must be divisible by {factor}")
    sample_size = tuple(size // factor for size in config.image_size)
    index = {
        "_class_name": (SDXL if sized else SD)[2 if config.paints else 0],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    index |= {"force_zeros_for_empty_prompt": config.zero_empty_negative} if sized else {
        "safety_checker": [None, None],
        "requires_safety_checker": False,
    }  # fmt: skip
    parts = {
        "model_index": index | {"feature_extractor": [None, None], "image_encoder": [None, None]},
        "unet": diffusion_model_json(config.diffusion_model, sample_size),
        "vae": autoencoder_json(config.autoencoder),
        "scheduler": schedule_json(config.schedule),
    }
    index["scheduler"] = ["diffusers", parts["scheduler"]["_class_name"]]
    for i, encoder in enumerate(config.text_encoders):
        suffix = "_2" if i else ""
        table = parts[f"text_encoder{suffix}"] = text_encoder_json(encoder)
        parts[f"tokenizer{suffix}"] = _tokenizer_json(encoder)
        index[f"text_encoder{suffix}"] = ["transformers", *table["architectures"]]
        index[f"tokenizer{suffix}"] = ["transformers", CLIP_TOKENIZERS[0]]
    parts["model_index"] |= index
    _check_round_trip(config, pipeline_config(parts))
    return parts


def _family_of(config):
    """The name for reports of what a config amounts to, such as `"sd2-inpaint"`.

    Two text encoders make SDXL; OpenCLIP's activation or Dense projections make SD 2, which is
    "sd2" with velocity prediction and "sd2-base" without; the rest is SD 1.
    """
    unet = config.diffusion_model
    if len(config.text_encoders) == 2:
        family = "sdxl"
    elif unet.linear_projection or config.text_encoders[0].activation == "gelu":
        family = "sd2"
    else:
        family = "sd1"
    if config.paints:
        return family + "-inpaint"
    return family + "-base" * (family == "sd2" and config.schedule.prediction_type == "epsilon")


def with_family(config):
    """The config with its family's name and, as diffusers' pipelines have it, its guidance."""
    family = _family_of(config)
    return replace(config, family=family, guidance_scale=GUIDANCE.get(family, 7.5))


def check_parts(config):
    """CheckpointError if the parts of a config do not fit each other, naming the two sides."""
    unet, texts = config.diffusion_model, config.text_encoders
    latents = config.autoencoder.latent_channels
    if config.autoencoder.shift_factor:
        raise CheckpointError(
            f"`shift_factor` of vae, {config.autoencoder.shift_factor}, must be 0: pipelines of "
            "Stable Diffusion do not shift latents"
        )
    pooled = texts[-1].projection_dim or 0
    added = pooled + 6 * unet.size_embed_dim if unet.size_embed_dim else None
    inputs = (latents, 2 * latents + 1)
    for what, value, wanted in (
        ("`cross_attention_dim`", unet.context_dim, (sum(text.width for text in texts),)),
        ("`in_channels`", unet.in_channels, inputs),
        ("`out_channels`", unet.out_channels, (latents,)),
        ("`projection_class_embeddings_input_dim`", unet.added_embed_dim, (added,)),
        ("`addition_embed_type` \"text_time\"", unet.size_embed_dim is not None,
         (len(texts) == 2,)),
        ("number of tokens", texts[0].max_length, (texts[-1].max_length,)),
    ):  # fmt: skip
        if value not in wanted:
            expected = " or ".join(map(str, wanted))
            raise CheckpointError(
                f"{what} of the unet is {value}, where its text encoders and vae make {expected}"
            )


def _part(parts, name):
    if not isinstance(parts.get(name), dict):
        raise CheckpointError(f"the config of {name} is missing, or no table")
    return parts[name]


def _check_class(index, name, classes):
    """A part in `model_index.json` is [library, class]."""
    value = index[name]
    if value is not None and not (isinstance(value, list) and value[1:] in [[c] for c in classes]):
        absent = name.endswith("_2") and value == [None, None]
        if not absent:
            index.refuse(name, value, f"of class {' or '.join(classes)}")


def _text_encoders(pipeline, parts):
    configs = []
    for suffix in ("", "_2")[: 2 if pipeline in SDXL else 1]:
        name = f"text_encoder{suffix}"
        tokenizer = f"tokenizer{suffix}"
        pad = _part(parts, tokenizer).get("pad_token") if parts.get(tokenizer) else None
        pad = pad.get("content") if isinstance(pad, dict) else pad
        configs.append(text_encoder_config(
            _part(parts, name),
            output_layer=-2 if pipeline in SDXL else -1,
            pad_token_id=PAD_TOKENS.get(pad) if isinstance(pad, str) else None,
            projection=suffix == "_2",
            part=name,
        ))  # fmt: skip
    return tuple(configs)


def _schedule(index, pipeline, table):
    table = dict(table)
    named = index["scheduler"]
    if named is not None:
        if not (isinstance(named, list) and len(named) == 2):
            index.refuse("scheduler", named, "a library and a class")
        table["_class_name"] = named[1]  # the index decides
    if pipeline in SD:
        if table.get("clip_sample", True) is True and pipeline != SD[2]:
            table["clip_sample"] = False
        if pipeline == SD[2] and table.get("skip_prk_steps", False) is False:
            table["skip_prk_steps"] = True
    schedule = schedule_config(table)
    return replace(schedule, steps_offset=1) if pipeline in SD else schedule


def _latents(pipeline, table):
    size = latent_size(table)
    if size is None:
        return LATENTS[SD if pipeline in SD else SDXL]
    version = str(table.get("_diffusers_version") or "1").split(".")
    old = version[0] == "0" and version[1:2] and version[1].isdigit() and int(version[1]) < 9
    if pipeline in SD and old and isinstance(table["sample_size"], int) and size[0] < 64:
        return LATENTS[SD]
    return size


def _tokenizer_json(encoder):
    pads = {number: token for token, number in PAD_TOKENS.items()}
    return {
        "tokenizer_class": CLIP_TOKENIZERS[0],
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pads.get(encoder.pad_token_id),
        "model_max_length": encoder.max_length,
    }


# What diffusers' files leave to whoever calls: no network depends on it.
UNSAID = ("family", "num_steps", "guidance_scale")


def _check_round_trip(config, found, path="config"):
    """CheckpointError naming the first field that written files would not give back."""
    for field in fields_of(config):
        ours, theirs = getattr(config, field.name), getattr(found, field.name)
        if field.name in UNSAID or ours == theirs:
            continue
        name = f"{path}.{field.name}"
        if hasattr(ours, "__dataclass_fields__"):
            _check_round_trip(ours, theirs, name)
        elif field.name == "text_encoders" and len(ours) == len(theirs):
            for i, pair in enumerate(zip(ours, theirs, strict=True)):
                _check_round_trip(*pair, f"{name}[{i}]")
        else:
            raise CheckpointError(
                f"`{name}` {ours!r:.80}: diffusers' files cannot say it; they mean {theirs!r:.80}"
            )
