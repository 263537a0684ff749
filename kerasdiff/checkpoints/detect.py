"""What a single file in the original layout holds, from its names and shapes or its own word.

Names tell the family: OpenAI's CLIP alone is Stable Diffusion 1, OpenCLIP alone is 2, both are XL.
Shapes tell sizes (see `visible.py`). What neither shows follows the family's published configs;
files that kerasdiff writes say it themselves, in their metadata under `CONFIG_KEY`.
"""

import json
import math
import re
from dataclasses import replace

from kerasdiff.checkpoints.diffusers_configs import (
    check_parts,
    pipeline_config,
    to_json,
    with_family,
)
from kerasdiff.checkpoints.prediction import (
    CONFIG_KEY,
    decide_from_probe,
    prediction_type,
    with_prediction_type,
)
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.checkpoints.visible import (
    UNET,
    VAE,
    autoencoder_fields,
    clip_fields,
    openclip_fields,
    shape_of,
    unet_fields,
)
from kerasdiff.configs import SD1, SD2_BASE, SDXL

__all__ = [
    "CONFIG_KEY",
    "decide_from_probe",
    "detect",
    "metadata_for",
    "prediction_type",
    "with_prediction_type",
]

HEAD_WIDTH = 64
SD1_HEADS = 8
MODELSPEC_TYPES = {"epsilon": "epsilon", "v_prediction": "v"}  # which has no third
SIZE_NUMBERS = 6
OPENCLIP_H = (1024, 23)  # SD 2 reads the last but one of 24 layers: width, layers in use
CLIP, OPENCLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
CLIP_XL, OPENCLIP_XL = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."

# What other files are told by, in the order in which it is looked for.
OTHERS = (
    (r"lora_(up|down|unet|te)|\.lora_[AB]\.|\.lora\.(up|down)", "a LoRA, not a whole checkpoint"),
    (r"hada_w1_|lokr_w1|oft_blocks", "a LyCORIS adapter, not a whole checkpoint"),
    (r"control_model\.|input_hint_block\.|controlnet_(cond|down|mid)", "a ControlNet"),
    (r"(model\.diffusion_model\.)?joint_blocks\.\d", "Stable Diffusion 3"),
    (r"(model\.diffusion_model\.)?double_blocks\.\d", "Flux"),
    (r"motion_modules\.", "an AnimateDiff motion module"),
    (r"model\.diffusion_model\..*\.(time_stack|time_mixer)", "Stable Video Diffusion"),
    (r"conditioner\.embedders\.0\.open_clip\.", "Stable Video Diffusion"),
    (r"conditioner\.embedders\.0\.model\.", "the SDXL refiner"),
    (r"noise_augmentor\.", "Stable unCLIP"),
    (r"depth_model\.", "Stable Diffusion 2 with depth"),
    (r"low_scale_model\.", "Stable Diffusion's upscaler"),
)
FRAGMENTS = (  # told by the absence of a whole checkpoint's names
    (r"(down_blocks|up_blocks|mid_block|time_embedding)\.", "the UNet of a diffusers folder alone"),
    (
        r"(encoder|decoder)\.|(post_)?quant_conv|first_stage_model\.",
        "an autoencoder alone (give it as `vae`)",
    ),
    (r"(text_model|transformer\.resblocks|cond_stage_model|conditioner)\.", "a text encoder alone"),
    (r"string_to_param|emb_params|clip_[lg]$|<.*>$", "an embedding (textual inversion)"),
    (r"model_ema\.", "averaged weights without the model they belong to"),
)


def detect(shapes, metadata=None, given=()):
    """The config of a single file in the original layout.

    Args:
        shapes: mapping of every tensor's name to its shape, in PyTorch's axis order.
        metadata: the file's dict of strings, which may hold a config under `CONFIG_KEY`; it is
            checked like any file, and must agree with what the shapes show.
        given: ("vae",) where the autoencoder comes from elsewhere and may be missing here.

    Not visible, and by family: 8 heads a level in Stable Diffusion 1 (as many as divide the
    channels), heads 64 wide everywhere else (one head where the width is no multiple of 64), 32
    groups, epsilons, activations. The prediction type is epsilon until `prediction_type` decides.

    Returns:
        `StableDiffusionConfig`.

    Raises:
        CheckpointError: saying what the file seems to be instead, which part is missing, or what
            does not fit.
    """
    _refuse_others(shapes)
    base, texts = _family(shapes)
    if not any(name.startswith(VAE) for name in shapes) and "vae" not in given:
        raise CheckpointError(f"the autoencoder is missing (no {VAE}*): give one as `vae`")
    unet = unet_fields(shapes)
    vae = autoencoder_fields(shapes) if any(name.startswith(VAE) for name in shapes) else {}
    if metadata and CONFIG_KEY in metadata:
        return _from_metadata(metadata[CONFIG_KEY], unet, vae, texts)
    config = replace(
        base,
        text_encoders=tuple(
            replace(encoder, heads=_heads(seen["width"]), **seen)
            for encoder, seen in zip(base.text_encoders, texts, strict=True)
        ),
        autoencoder=replace(base.autoencoder, **vae),
        diffusion_model=replace(base.diffusion_model, **unet, **_unseen(base, unet, texts)),
    )
    check_parts(config)
    _check_groups(config)
    return with_family(config)


def metadata_for(config):
    """The metadata that a single file carries so that `detect` gives `config` back.

    Returns:
        dict of str to str for safetensors: under `CONFIG_KEY`, `diffusers_configs.to_json` of the
        config, as JSON; and what the UNet predicts as Stability's ModelSpec 1.0 calls it.

    Raises:
        CheckpointError: see `to_json`.
    """
    said = MODELSPEC_TYPES.get(config.schedule.prediction_type)
    ours = {CONFIG_KEY: json.dumps(to_json(config), sort_keys=True)}
    return ours | ({"modelspec.prediction_type": said} if said else {})


def _refuse_others(shapes):
    if not shapes:
        raise CheckpointError("the file holds no tensors")
    for pattern, what in OTHERS:
        if any(re.match(pattern, name) or re.search(r"\." + pattern, name) for name in shapes):
            raise CheckpointError(f"the file is {what}, which is not supported here")
    if any(name.startswith(UNET) for name in shapes):
        return
    for pattern, what in FRAGMENTS:
        if any(re.match(pattern, name) for name in shapes):
            raise CheckpointError(f"the file is {what}: a whole checkpoint was expected")
    first = ", ".join(sorted(shapes)[:3])
    raise CheckpointError(f"the file is no Stable Diffusion checkpoint: it holds {first}, ...")


def _family(shapes):
    """The family's preset, and what is seen of each text encoder."""

    def has(prefix):
        return any(name.startswith(prefix) for name in shapes)

    if has(CLIP_XL) and has(OPENCLIP_XL):
        second = openclip_fields(shapes, OPENCLIP_XL)
        projection = shape_of(shapes, f"{OPENCLIP_XL}text_projection", 2)[1]
        return SDXL, [clip_fields(shapes, CLIP_XL), second | {"projection_dim": projection}]
    if has(OPENCLIP):
        seen = openclip_fields(shapes, OPENCLIP)
        whole = f"{OPENCLIP}text_projection" in shapes
        width, used = OPENCLIP_H
        # Files made by conversion lack the unused last layer, with or without its projection.
        depth = min(seen["depth"], used) if seen["width"] == width else seen["depth"] - whole
        return SD2_BASE, [seen | {"depth": depth}]
    if has(CLIP):
        return SD1, [clip_fields(shapes, CLIP)]
    wanted = f"{CLIP}*, {OPENCLIP}*, or {CLIP_XL}* with {OPENCLIP_XL}*"
    raise CheckpointError(f"a text encoder is missing (no {wanted})")


def _heads(width):
    return width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1


def _unseen(base, unet, texts):
    """The fields of the UNet that follow the family's rules."""
    if base is SD1:
        heads = tuple(math.gcd(width, SD1_HEADS) for width in unet["channels"])
    else:
        heads = tuple(map(_heads, unet["channels"]))
    added = unet["added_embed_dim"]
    if (added is None) == (base is SDXL):
        raise CheckpointError(
            f"the unet has {'no' if added is None else 'a'} label_emb, which does not fit its text "
            f"encoders, those of {base.family}"
        )
    if added is None:
        return {"heads": heads}
    rest = added - texts[-1]["projection_dim"]
    if rest <= 0 or rest % SIZE_NUMBERS:
        raise CheckpointError(
            f"label_emb takes {added} numbers: {texts[-1]['projection_dim']} of pooled text leave "
            f"no multiple of {SIZE_NUMBERS} size numbers"
        )
    return {"heads": heads, "size_embed_dim": rest // SIZE_NUMBERS}


def _check_groups(config):
    for name, network in (("unet", config.diffusion_model), ("vae", config.autoencoder)):
        if any(width % network.norm_groups for width in network.channels):
            raise CheckpointError(
                f"the {name}'s channels {network.channels} are not divisible into "
                f"{network.norm_groups} groups, which its family's normalisations have"
            )


def _from_metadata(text, unet, vae, texts):
    """The config that a file carries, which must agree with what its shapes show."""
    try:
        parts = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"metadata {CONFIG_KEY!r} is not valid JSON ({error})") from error
    if not isinstance(parts, dict):
        raise CheckpointError(f"metadata {CONFIG_KEY!r} holds a {type(parts).__name__}, no table")
    config = pipeline_config(parts)
    seen = [(config.diffusion_model, unet), (config.autoencoder, vae)]
    if len(config.text_encoders) != len(texts):
        raise CheckpointError(
            f"metadata {CONFIG_KEY!r} has {len(config.text_encoders)} text encoders, the file "
            f"{len(texts)}"
        )
    for said, shown in seen + list(zip(config.text_encoders, texts, strict=True)):
        for name, value in shown.items():
            if getattr(said, name) != value:
                raise CheckpointError(
                    f"metadata {CONFIG_KEY!r} has {name} = {getattr(said, name)}, but the tensors "
                    f"show {value}"
                )
    return config
