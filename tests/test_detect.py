"""A single file is told by its names and shapes; anything else is refused by what it is."""

import json
from dataclasses import replace

import numpy as np
import pytest
from layouts import layout

from kerasdiff.checkpoints.detect import (
    CONFIG_KEY,
    decide_from_probe,
    detect,
    metadata_for,
    prediction_type,
    with_prediction_type,
)  # fmt: skip
from kerasdiff.checkpoints.diffusers_configs import to_json
from kerasdiff.checkpoints.presets import presets
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.configs import SD1, SD1_INPAINT, SD2, SD2_BASE, SDXL, TINY

FILES = {
    "ldm_sd15": SD1, "ldm_sd15-inpaint": SD1_INPAINT, "ldm_sd21": SD2_BASE, "ldm_sdxl": SDXL,
}  # fmt: skip
UNET, VAE = "model.diffusion_model.", "first_stage_model."
YAML_V = """
model:
  base_learning_rate: 1.0e-4
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: "v"   # velocity
    linear_start: 0.00085
"""


def shapes_of(name, without=(), **values):
    shapes = {key: tuple(shape) for key, shape in layout(name).items()}
    shapes = {key: shape for key, shape in shapes.items() if not key.startswith(tuple(without))}
    return shapes | values


@pytest.mark.parametrize("name, config", FILES.items())
def test_full_size_layouts_are_the_presets(name, config):
    assert detect(shapes_of(name)) == config


@pytest.mark.parametrize("name, config", FILES.items())
def test_what_we_write_into_a_file_is_found_again(name, config):
    unseen = replace(config.diffusion_model, heads=(2,) * len(config.diffusion_model.channels))
    config = replace(config, diffusion_model=unseen, image_size=(256, 512))
    assert detect(shapes_of(name), metadata_for(config)) == config


def test_original_files_carry_more_than_is_used():
    block = {
        key.replace("resblocks.0.", "resblocks.23."): shape
        for key, shape in shapes_of("ldm_sd21").items()
        if "resblocks.0." in key
    }
    head = "cond_stage_model.model."
    more = block | {f"{head}text_projection": (1024, 1024), f"{head}logit_scale": ()}
    more |= {"betas": (1000,), "model_ema.decay": (), "first_stage_model.loss.logvar": ()}
    assert detect(shapes_of("ldm_sd21") | more) == SD2_BASE


def test_old_files_without_text_model_in_their_names_are_told_too():
    shapes = {k.replace(".text_model.", "."): v for k, v in shapes_of("ldm_sd15").items()}
    assert detect(shapes) == SD1


def test_stable_diffusion_2_inpainting_is_told_by_its_channels():
    shapes = shapes_of("ldm_sd21") | {f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3)}
    config = detect(shapes)
    assert (config.family, config.diffusion_model.in_channels) == ("sd2-inpaint", 9)
    assert prediction_type(config)[0] == "epsilon"


def test_sizes_are_read_from_shapes():
    shapes = {}
    for key, shape in shapes_of("ldm_sd15").items():
        if ".input_blocks.4." in key or ".input_blocks.5." in key:
            shape = tuple({640: 96, 320: 32}.get(size, size) for size in shape)
        shapes[key] = shape
    shapes[f"{VAE}encoder.down.0.block.0.conv1.weight"] = (64, 128, 3, 3)
    for key in list(shapes):
        if key.startswith(f"{VAE}quant_conv") or ".down.3." in key or ".mid.attn_1." in key:
            del shapes[key]
    config = detect(shapes)
    assert config.diffusion_model.channels == (320, 96, 1280, 1280)
    assert config.diffusion_model.heads == (8, 8, 8, 8)
    vae = config.autoencoder
    assert vae.channels == (64, 256, 512)
    assert (vae.quant_conv, vae.post_quant_conv, vae.mid_attention) == (False, True, False)


@pytest.mark.parametrize(
    "names, what",
    [
        (["lora_unet_down_blocks_0.lora_up.weight"], "LoRA"),
        (["unet.down_blocks.0.attn1.to_q.lora_A.weight"], "LoRA"),
        (["lora_unet_mid_block.hada_w1_a"], "LoRA|LyCORIS"),
        (["control_model.input_hint_block.0.weight"], "ControlNet"),
        (["controlnet_cond_embedding.conv_in.weight"], "ControlNet"),
        (["model.diffusion_model.joint_blocks.0.x"], "Stable Diffusion 3"),
        (["double_blocks.0.img_attn.qkv.weight"], "Flux"),
        (["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"], "Flux"),
        (["model.diffusion_model.input_blocks.1.0.time_stack.x"], "Video"),
        (["conditioner.embedders.0.model.ln_final.weight", UNET + "out.2.weight"], "refiner"),
        (["down_blocks.0.temporal.motion_modules.0.x"], "AnimateDiff"),
        (["down_blocks.0.resnets.0.conv1.weight"], "diffusers folder alone"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight"], "autoencoder alone"),
        (["first_stage_model.encoder.conv_in.weight"], "autoencoder alone"),
        (["text_model.final_layer_norm.weight"], "text encoder alone"),
        (["cond_stage_model.model.ln_final.weight"], "text encoder alone"),
        (["string_to_param.*"], "textual inversion"),
        (["clip_g", "clip_l"], "textual inversion"),
        (["model_ema.diffusion_modelout2weight"], "averaged"),
        (["layers.0.weight", "head.bias"], "head.bias, layers.0.weight"),
        ([], "no tensors"),
    ],
)
def test_other_files_are_refused_by_what_they_are(names, what):
    with pytest.raises(CheckpointError, match=what):
        detect(dict.fromkeys(names, (4, 4)))


@pytest.mark.parametrize(
    "name, without, missing",
    [("ldm_sd15", VAE, "autoencoder"), ("ldm_sd15", "cond_stage_model.", "text encoder"),
     ("ldm_sd15", "first_stage_model.decoder.conv_in.weight", "decoder.conv_in.weight"),
     ("ldm_sd15", UNET + "out.2.weight", "out.2.weight"),
     ("ldm_sdxl", "conditioner.embedders.1.", "text encoder"),
     ("ldm_sdxl", "conditioner.embedders.0.", "text encoder"),
     ("ldm_sdxl", UNET + "label_emb", "label_emb"),
     ("ldm_sdxl", "conditioner.embedders.1.model.text_projection", "text_projection"),
     ("ldm_sd15", UNET + "input_blocks.1.0.", "level 0"),
     ("ldm_sd15", UNET + "middle_block.1.", "middle")],
)  # fmt: skip
def test_missing_parts_are_named(name, without, missing):
    with pytest.raises(CheckpointError, match=missing):
        detect(shapes_of(name, [without]))


def test_an_autoencoder_given_elsewhere_may_be_missing():
    assert detect(shapes_of("ldm_sd15", [VAE]), given=("vae",)) == SD1


@pytest.mark.parametrize(
    "key, shape, named",
    [(UNET + "input_blocks.0.0.weight", (320, 8, 3, 3), "in_channels"),
     (UNET + "input_blocks.0.0.weight", (320,), "input_blocks.0.0"),
     (UNET + "out.2.weight", (8, 320, 3, 3), "out_channels"),
     (UNET + "label_emb.0.0.weight", (1280, 2816), "label_emb"),
     (UNET + "input_blocks.2.0.in_layers.2.weight", (300, 320, 3, 3), "level 0"),
     (VAE + "encoder.down.0.block.0.conv1.weight", (100, 128, 3, 3), "groups"),
     ("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", (9, 0), "axes"),
     ("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", (9, 64),
      "cross_attention_dim"),
     ("noise_augmentor.weight", (3,), "unCLIP")],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(key, shape, named):
    with pytest.raises(CheckpointError, match=named):
        detect(shapes_of("ldm_sd15", **{key: shape}))


@pytest.mark.parametrize(
    "text, named",
    [("{", "JSON"), ("[]", "list"), ("[" * 100_000, "JSON"), ("{}", "model_index"),
     (json.dumps(to_json(SD1_INPAINT)), "in_channels"),
     (json.dumps(to_json(TINY["sd1"])), "channels"),
     (json.dumps(to_json(SDXL)), "text encoders")],
)  # fmt: skip
def test_metadata_is_not_trusted(text, named):
    with pytest.raises(CheckpointError, match=named):
        detect(shapes_of("ldm_sd15"), {CONFIG_KEY: text})


def test_other_metadata_is_left_alone():
    assert detect(shapes_of("ldm_sd15"), {"format": "pt"}) == SD1


def probe_of(output):
    noise = np.random.RandomState(0).normal(size=(1, 8, 8, 4))
    return lambda: (output(noise), noise)


def never():
    raise AssertionError("the probe is costly")


V = "v_prediction"


@pytest.mark.parametrize(
    "sources, kind, reason",
    [
        ({"argument": "epsilon", "sidecar": {"prediction_type": V}}, "epsilon", "argument"),
        ({"sidecar": {"prediction_type": "epsilon"}, "keys": ["v_pred"]}, "epsilon", "beside"),
        ({"sidecar": YAML_V}, V, "beside"),
        ({"sidecar": YAML_V.replace('"v"', "eps")}, "epsilon", "beside"),
        ({"sidecar": YAML_V.replace("parameterization", "#")}, "epsilon", "beside"),
        ({"sidecar": "target: sgm.modules.diffusionmodules.denoiser_scaling.VScaling"}, V, "besid"),
        ({"metadata": {"modelspec.prediction_type": "v"}}, V, "metadata"),
        ({"keys": ["betas", "v_pred"], "sha256": "0" * 64}, V, "v_pred"),
        ({"keys": ["ztsnr"]}, V, "ztsnr"),
        ({"sha256": presets()["sd-v2-1"].sha256.upper()}, V, "hash"),
        ({"sha256": presets()["sd-v2-1-base"].sha256}, "epsilon", "hash"),
    ],
)
def test_the_prediction_type_is_decided_in_order(sources, kind, reason):
    found, said = prediction_type(SD2_BASE, probe=never, **sources)
    assert found == kind and reason in said


@pytest.mark.parametrize("config", [SD1, SD1_INPAINT, SDXL])
def test_only_stable_diffusion_2_needs_a_probe(config):
    assert prediction_type(config, probe=never)[0] == "epsilon"


def test_the_probe_comes_last_and_nothing_is_guessed_without_it():
    sidecar = {"sidecar": "a: b\n- c\n", "keys": ["betas"], "sha256": "0" * 64, "metadata": {}}
    assert prediction_type(SD2_BASE, **sidecar)[0] is None
    kind, reason = prediction_type(SD2_BASE, probe=probe_of(lambda noise: noise * 0.98), **sidecar)
    assert kind == "epsilon" and "0.98" in reason
    kind, _ = prediction_type(SD2_BASE, probe=probe_of(lambda noise: 0.07 * noise - 0.5), **sidecar)
    assert kind == V  # a picture of one colour, hardly any noise


@pytest.mark.parametrize("spread", [0.01, 0.2, 1.0])
def test_the_probe_tells_noise_from_velocity_however_faint_the_picture(spread):
    noise = np.random.RandomState(0).normal(size=(1, 32, 32, 4))
    clean = spread * np.random.RandomState(1).normal(size=noise.shape)
    signal = np.sqrt(0.00466)  # abar at the last timestep
    velocity = signal * noise - np.sqrt(1 - signal**2) * clean
    epsilon = (noise - signal * clean) / np.sqrt(1 - signal**2)
    assert decide_from_probe(epsilon, noise)[0] == "epsilon"
    assert decide_from_probe(velocity, noise)[0] == V


@pytest.mark.parametrize("output", [np.full((4, 4), np.nan), np.zeros((4, 4))])
def test_a_probe_without_a_result_is_an_error(output):
    with pytest.raises(CheckpointError, match="no usable output"):
        decide_from_probe(output, np.random.RandomState(0).normal(size=(4, 4)))
    with pytest.raises(ValueError, match="16 numbers and `noise` 3"):
        decide_from_probe(output, np.zeros(3))


@pytest.mark.parametrize(
    "sources, named",
    [({"argument": "velocity"}, "argument"), ({"sidecar": {"prediction_type": 3}}, "beside"),
     ({"sidecar": 'parameterization: "w"'}, "parameterization"),
     ({"metadata": {"modelspec.prediction_type": "?"}}, "modelspec")],
)  # fmt: skip
def test_words_that_name_no_prediction_type_are_refused(sources, named):
    with pytest.raises(CheckpointError, match=named):
        prediction_type(SD2_BASE, **sources)


def test_a_decided_type_completes_the_config():
    assert with_prediction_type(SD2_BASE, V) == SD2
    assert with_prediction_type(SD2_BASE, "epsilon") == SD2_BASE
    zero = with_prediction_type(SDXL, V, keys=["v_pred", "ztsnr"]).schedule
    assert (zero.prediction_type, zero.zero_terminal_snr, zero.sampler) == (V, True, "euler")
    with pytest.raises(ValueError, match="prediction_type"):
        with_prediction_type(SD2_BASE, None)
