"""Names map between the layouts one to one, with shapes, for every published layout."""

from dataclasses import replace

import numpy as np
import pytest
from layouts import layout

from kerasdiff.checkpoints.names import OriginalNames, from_diffusers, is_skipped, parts_of
from kerasdiff.checkpoints.original import put, split, take
from kerasdiff.checkpoints.tensors import CheckpointError, LazyTensor, Tensors
from kerasdiff.configs import SD1, SD1_INPAINT, SD2, SDXL, TINY

FILES = {
    "sd15": (SD1, {"unet": "sd15.unet", "vae": "vae", "text_encoder": "clip-l"}),
    "sd15-inpaint": (
        SD1_INPAINT,
        {"unet": "sd15-inpaint.unet", "vae": "vae", "text_encoder": "clip-l"},
    ),
    "sd21": (SD2, {"unet": "sd21.unet", "vae": "vae", "text_encoder": "openclip-h"}),
    "sdxl": (
        SDXL,
        {
            "unet": "sdxl.unet",
            "vae": "vae",
            "text_encoder": "clip-l",
            "text_encoder_2": "openclip-bigg",
        },
    ),
}


def shapes_only(shapes, source="layout"):
    """Tensors that are never read."""
    entries = {n: LazyTensor(shape, np.dtype(np.float16), None) for n, shape in shapes.items()}
    return Tensors(source, entries)


def canonical_layout(part, name):
    return {from_diffusers(part, n): shape for n, shape in layout(f"diffusers_{name}").items()}


@pytest.mark.parametrize("file", FILES)
def test_a_single_file_splits_into_the_diffusers_parts(file):
    config, parts = FILES[file]
    found, skipped = split(shapes_only(layout(f"ldm_{file}")), config)
    assert set(found) == set(parts) == set(parts_of(config))
    assert skipped == ()
    for part, name in parts.items():
        assert found[part].shapes == canonical_layout(part, name)


@pytest.mark.parametrize("file", FILES)
def test_the_parts_make_the_single_file_again(file):
    config, parts = FILES[file]
    made = {}
    for part, name in parts.items():
        tensors = shapes_only(canonical_layout(part, name))
        made |= put(tensors, OriginalNames(part, config))
    assert {name: entry.shape for name, entry in made.items()} == layout(f"ldm_{file}")


@pytest.mark.parametrize("file", FILES)
def test_every_name_goes_there_and_back(file):
    config, parts = FILES[file]
    for part, name in parts.items():
        names = OriginalNames(part, config)
        for canonical in canonical_layout(part, name):
            route = names.original(canonical)
            assert names.canonical(route.original)[canonical] == route.how


def arrays(shapes, seed=0):
    numbers = np.random.default_rng(seed)
    return {n: numbers.normal(size=shape).astype(np.float32) for n, shape in shapes.items()}


def test_values_of_fused_transposed_and_squeezed_tensors():
    config = TINY["sdxl"]
    fused = np.arange(3 * 2 * 2, dtype=np.float32).reshape(6, 2)
    names = OriginalNames("text_encoder_2", config)
    prefix = "conditioner.embedders.1.model."
    tensors = Tensors.of({
        f"{prefix}transformer.resblocks.1.attn.in_proj_weight": fused,
        f"{prefix}transformer.resblocks.1.attn.in_proj_bias": fused[:, 0],
        f"{prefix}text_projection": fused,
        f"{prefix}positional_embedding": fused,
    })  # fmt: skip
    taken, unknown = take(tensors, names)
    assert not unknown
    for i, which in enumerate("qkv"):
        layer = f"encoder.layers.1.self_attn.{which}_proj"
        np.testing.assert_array_equal(taken[f"{layer}.weight"], fused[2 * i : 2 * i + 2])
        np.testing.assert_array_equal(taken[f"{layer}.bias"], fused[2 * i : 2 * i + 2, 0])
    np.testing.assert_array_equal(taken["text_projection.weight"], fused.T)
    np.testing.assert_array_equal(taken["embeddings.position_embedding.weight"], fused)
    back = put(taken, names)
    assert set(back) == set(tensors)
    for name, entry in back.items():
        np.testing.assert_array_equal(entry.read(), tensors[name])

    names = OriginalNames("vae", config)
    query = np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1)
    tensors = Tensors.of({"first_stage_model.decoder.mid.attn_1.q.weight": query})
    taken, _ = take(tensors, names)
    here = taken["decoder.mid_block.attentions.0.to_q.weight"]
    np.testing.assert_array_equal(here, query[:, :, 0, 0])
    (entry,) = put(taken, names).values()
    np.testing.assert_array_equal(entry.read(), query)


def test_what_real_files_carry_besides_is_skipped_by_name():
    extra = [
        "model_ema.decay", "model_ema.diffusion_modelinput_blocks00weight", "betas",
        "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "posterior_variance",
        "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "lvlb_weights", "logvar",
        "denoiser.sigmas", "first_stage_model.loss.logvar", "v_pred", "ztsnr",
        "first_stage_model.loss.discriminator.main.0.weight", "posterior_mean_coef1",
        "cond_stage_model.model.logit_scale", "cond_stage_model.model.text_projection",
        "cond_stage_model.model.transformer.resblocks.23.ln_1.weight",
        "cond_stage_model.model.transformer.resblocks.23.attn.in_proj_weight",
    ]  # fmt: skip
    shapes = layout("ldm_sd21")
    _, skipped = split(shapes_only(shapes | dict.fromkeys(extra, (1,))), SD2)
    assert sorted(skipped) == sorted(extra)
    ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    parts, skipped = split(shapes_only(layout("ldm_sd15") | {ids: (1, 77)}), SD1)
    assert skipped == (ids,)
    assert parts["text_encoder"].shapes == canonical_layout("text_encoder", "clip-l")


CLIP_L = ("cond_stage_model", "conditioner.embedders.0")


@pytest.mark.parametrize("file, prefix", [("sd15", CLIP_L[0]), ("sdxl", CLIP_L[1])])
@pytest.mark.parametrize(
    "name", ["text_projection", "text_projection.weight", "transformer.text_projection.weight"]
)
def test_the_projection_that_clip_l_s_network_leaves_out_is_skipped(file, prefix, name):
    config, parts = FILES[file]
    extra = {f"{prefix}.{name}": (768, 768), f"{prefix}.logit_scale": ()}
    found, skipped = split(shapes_only(layout(f"ldm_{file}") | extra), config)
    assert set(skipped) == set(extra)
    for part, published in parts.items():
        assert found[part].shapes == canonical_layout(part, published)


def test_a_projection_that_the_network_has_is_never_skipped():
    second = "conditioner.embedders.1.model.text_projection"
    parts, skipped = split(shapes_only(layout("ldm_sdxl")), SDXL)
    assert not skipped and parts["text_encoder_2"].shape("text_projection.weight") == (1280, 1280)
    assert not OriginalNames("text_encoder_2", SDXL).is_unused(second)
    for name in ("text_projection", f"{CLIP_L[0]}.text_projection"):  # of no encoder of SDXL
        with pytest.raises(CheckpointError, match=f"no part.*: {name}"):
            split(shapes_only(layout("ldm_sdxl") | {name: (1280, 1280)}), SDXL)
    first = replace(SD1.text_encoders[0], projection_dim=768)
    names = OriginalNames("text_encoder", replace(SD1, text_encoders=(first,)))
    inner = "transformer.text_projection.weight"
    tensors = shapes_only({f"{CLIP_L[0]}.{inner}": (768, 768)})
    assert take(tensors, names)[0].shapes == {"text_projection.weight": (768, 768)}


def test_what_dreambooth_s_training_tools_leave_beside_the_weights_is_skipped():
    extra = {
        "embedding_manager.string_to_param_dict.*": (1, 768),
        "embedding_manager.initial_embeddings.*": (1, 768),
        "embedding_manager.embedder.transformer.text_model.final_layer_norm.bias": (768,),
    }
    parts, skipped = split(shapes_only(layout("ldm_sd15") | extra), SD1)
    assert set(skipped) == set(extra)
    assert parts["text_encoder"].shapes == canonical_layout("text_encoder", "clip-l")


def test_weights_are_never_skipped():
    for name in (n for file in FILES for n in layout(f"ldm_{file}")):
        assert not is_skipped(name)


@pytest.mark.parametrize(
    "name",
    [
        "control_model.input_hint_block.0.weight", "lora_unet_x.alpha", "betas2",
        "model.diffusion_model.input_blocks.99.0.weight", "cond_stage_model.model.visual.proj",
        "edm_mean", "first_stage_model.encoder.new.weight", "transformer.resblocks.23.ln_1.bias",
    ],
)  # fmt: skip
def test_a_tensor_of_no_part_is_named(name):
    with pytest.raises(CheckpointError, match=f"1 tensors belong to no part.*: {name}"):
        split(shapes_only(layout("ldm_sd21") | {name: (1,)}), SD2)


def test_a_missing_part_is_named():
    shapes = {n: s for n, s in layout("ldm_sd15").items() if not n.startswith("first_stage")}
    with pytest.raises(CheckpointError, match=r"layout: has no vae \(no first_stage_model\.\*\)"):
        split(shapes_only(shapes), SD1)


def test_early_files_without_text_model_in_their_names():
    shapes = {n.replace(".text_model.", "."): s for n, s in layout("ldm_sd15").items()}
    parts, _ = split(shapes_only(shapes), SD1)
    assert parts["text_encoder"].shapes == canonical_layout("text_encoder", "clip-l")


def test_names_of_older_diffusers_and_transformers():
    attention = "decoder.mid_block.attentions.0"
    assert from_diffusers("vae", f"{attention}.query.bias") == f"{attention}.to_q.bias"
    assert from_diffusers("vae", f"{attention}.proj_attn.weight") == f"{attention}.to_out.0.weight"
    assert from_diffusers("vae", f"{attention}.to_k.weight") == f"{attention}.to_k.weight"
    plain = "encoder.layers.0.mlp.fc1.bias"
    assert from_diffusers("text_encoder", f"text_model.{plain}") == plain
    assert from_diffusers("text_encoder", plain) == plain
    assert from_diffusers("unet", "conv_in.bias") == "conv_in.bias"


def test_a_controlnet_names_the_unet_s_first_half_as_the_unet_does():
    own = ("controlnet_",)
    shared = {n: s for n, s in layout("diffusers_sd15.controlnet").items() if not n.startswith(own)}
    unet = layout("diffusers_sd15.unet")
    assert shared and all(unet[name] == shape for name, shape in shared.items())
    names = OriginalNames("unet", SD1)
    assert all(names.canonical(names.original(n).original) == {n: "same"} for n in shared)


@pytest.mark.parametrize(
    "family, prefix", [("sd1", "cond_stage_model"), ("sdxl", "conditioner.embedders.0")]
)
def test_a_tensor_under_two_names_is_refused(family, prefix):
    """As early files and later ones call it, both in one file: none of the two is the right one."""
    config, leaf = TINY[family], "final_layer_norm.weight"
    shapes = {f"{prefix}.transformer.{inner}{leaf}": (4,) for inner in ("text_model.", "")}
    names = OriginalNames("text_encoder", config)
    for order in (shapes, dict(reversed(shapes.items()))):
        with pytest.raises(CheckpointError, match=f"layout: '{leaf}' is there under two names"):
            take(shapes_only(order), names)
    for name in shapes:
        assert take(shapes_only({name: (4,)}), names)[0].shapes == {leaf: (4,)}
