"""keras-cv's files, whose layers have only numbers, go into the right places by their order.

The oracle does not use the order of the file: Keras numbers layers in the order of their making,
which in keras-cv's source is the order of the network, so a layer's number says what it is.
"""

import re
from dataclasses import replace

import h5py
import numpy as np
import pytest
from keras_h5_cases import write_h5
from layouts import layout, layout_json

from kerasdiff import StableDiffusion
from kerasdiff.checkpoints.checkpoint import open_checkpoint
from kerasdiff.checkpoints.files import CheckpointError
from kerasdiff.checkpoints.keras_h5 import read_keras_h5
from kerasdiff.checkpoints.safetensor_files import write_safetensors
from kerasdiff.checkpoints.save import convert
from kerasdiff.cli import main
from kerasdiff.configs import SD1, SD2_BASE
from kerasdiff.models.stable_diffusion import Decoder, ImageEncoder
from kerasdiff.training.runs.networks import open_model
from kerasdiff.training.runs.settings import make_settings

MODELS = {
    "text_encoder": ("text_encoder", SD1, "clip-l"),
    "text_encoder_v2": ("text_encoder", SD2_BASE, "openclip-h"),
    "image_encoder": ("image_encoder", SD1, "vae"),
    "decoder": ("decoder", SD1, "vae"),
    "diffusion_model": ("diffusion_model", SD1, "sd15.unet"),
    "diffusion_model_v2": ("diffusion_model", SD2_BASE, "sd21.unet"),
}


def number(name):
    """(kind, number) of an automatic name; the first of a kind has none."""
    kind, digits = re.fullmatch(r"(.*?)(?:_(\d+))?", name).groups()
    return kind, int(digits or 0)


def ranked(layers):
    """Each weight's path as (kind, rank among its siblings of that kind) and what it is."""
    tree, paths = {}, {}
    for _, weights in layers:
        for name, _ in weights:
            *path, leaf = [step for step in name.split("/") if not step.startswith("conv2d")]
            paths[name] = path, leaf.split(":")[0]
            node = tree
            for step in path:
                node = node.setdefault(step, {})

    def rank(path):
        node = tree
        for step in path:
            kind = number(step)[0]
            siblings = sorted(number(other)[1] for other in node if number(other)[0] == kind)
            yield kind, siblings.index(number(step)[1]), len(siblings)
            node = node[step]

    return {name: (list(rank(path)), leaf) for name, (path, leaf) in paths.items()}


def in_order(*names):
    return lambda rank, count: names[rank]


def convolutions(rank, count):
    """A residual block's; its shortcut, made last but under a name of its own, has no number."""
    return (("conv_shortcut",) * (count == 3) + ("conv1", "conv2"))[rank]


PROJECTIONS = {"dense": in_order("to_q", "to_k", "to_v", "to_out.0")}
NORMS = {"group_normalization": in_order("norm1", "norm2"), "padded_conv2d": convolutions}
INSIDE = {
    "res_block": NORMS | {"dense": in_order("time_emb_proj")},
    "resnet_block": NORMS,
    "attention_block": {
        "group_normalization": in_order("group_norm"),
        "padded_conv2d": in_order("to_q", "to_k", "to_v", "to_out.0"),
    },
    "upsample": {"padded_conv2d": in_order("conv")},
    "spatial_transformer": {
        "group_normalization": in_order("norm"),
        "padded_conv2d": in_order("proj_in", "proj_out"),
        "dense": in_order("proj_in", "proj_out"),
        "basic_transformer_block": in_order("transformer_blocks.0"),
    },
    "basic_transformer_block": {
        "layer_normalization": in_order("norm1", "norm2", "norm3"),
        "cross_attention": in_order("attn1", "attn2"),
        "geglu": in_order("ff.net.0"),
        "dense": in_order("ff.net.2"),
    },
    "cross_attention": PROJECTIONS,
    "geglu": {"dense": in_order("proj")},
    "clip_embedding": {"embedding": in_order("token_embedding", "position_embedding")},
    "clip_encoder_layer": {
        "layer_normalization": in_order("layer_norm1", "layer_norm2"),
        "clip_attention": in_order("self_attn"),
        "dense": in_order("mlp.fc1", "mlp.fc2"),
    },
    "clip_attention": {"dense": in_order("q_proj", "k_proj", "v_proj", "out_proj")},
}


def resnets(side, levels, count):
    return [f"{side}_blocks.{i}.resnets.{j}" for i in range(levels) for j in range(count)]


def attentions(side, levels, count):
    return [f"{side}_blocks.{i}.attentions.{j}" for i in levels for j in range(count)]


MIDDLE = [f"mid_block.resnets.{j}" for j in range(2)]
DOWN = [f"down_blocks.{i}.downsamplers.0.conv" for i in range(3)]
UP = [f"up_blocks.{i}.upsamplers.0" for i in range(3)]
TEXT = {
    "clip_embedding": ["embeddings"],
    "clip_encoder_layer": [f"encoder.layers.{i}" for i in range(23)],
    "layer_normalization": ["final_layer_norm"],
}
UNET = {
    "dense": ["time_embedding.linear_1", "time_embedding.linear_2"],
    "padded_conv2d": ["conv_in", *DOWN, "conv_out"],
    "group_normalization": ["conv_norm_out"],
    "res_block": resnets("down", 4, 2) + MIDDLE + resnets("up", 4, 3),
    "spatial_transformer": attentions("down", range(3), 2)
    + ["mid_block.attentions.0"]
    + attentions("up", range(1, 4), 3),
    "upsample": UP,
}
ENCODER = {
    "padded_conv2d": ["encoder.conv_in", *(f"encoder.{n}" for n in DOWN), "encoder.conv_out",
                      "quant_conv"],
    "group_normalization": ["encoder.conv_norm_out"],
    "resnet_block": [f"encoder.{name}" for name in resnets("down", 4, 2) + MIDDLE],
    "attention_block": ["encoder.mid_block.attentions.0"],
}  # fmt: skip
DECODER = {
    "padded_conv2d": ["post_quant_conv", "decoder.conv_in", *(f"decoder.{n}.conv" for n in UP),
                      "decoder.conv_out"],
    "group_normalization": ["decoder.conv_norm_out"],
    "resnet_block": [f"decoder.{name}" for name in MIDDLE + resnets("up", 4, 3)],
    "attention_block": ["decoder.mid_block.attentions.0"],
}  # fmt: skip
OUTSIDE = {"text_encoder": TEXT, "image_encoder": ENCODER, "decoder": DECODER,
           "diffusion_model": UNET}  # fmt: skip


def expected(model, path, leaf):
    (kind, rank, _), *inner = path
    names = [OUTSIDE[model][kind][rank]]
    for step, rank, count in inner:
        names.append(INSIDE[kind][step](rank, count))
        kind = step
    suffix = "bias" if leaf in ("bias", "beta") else "weight"
    return ".".join([*names, suffix])


@pytest.mark.parametrize("key", MODELS)
def test_every_weight_of_keras_cv_goes_where_its_number_says(tmp_path, key):
    model, config, diffusers = MODELS[key]
    layers = layout_json("keras_cv_h5")[key]
    numbers = write_h5(tmp_path / "kcv.h5", layers)
    want = {
        expected(model, path, leaf): numbers[name] for name, (path, leaf) in ranked(layers).items()
    }
    assert len(want) == len(numbers)  # the oracle gives no name twice
    with read_keras_h5(tmp_path / "kcv.h5", model, config) as tensors:
        assert {name: int(np.ravel(tensors[name])[0]) for name in tensors} == want
        shapes = layout(f"diffusers_{diffusers}")
        halves = ("encoder.", "quant") if model == "image_encoder" else ("decoder.", "post_quant")
        if diffusers == "vae":
            shapes = {n: shape for n, shape in shapes.items() if n.startswith(halves)}
        assert tensors.shapes == shapes


def test_load_weights_of_keras_cv_s_classes_reads_its_files(tmp_path):
    numbers = write_h5(tmp_path / "vae_encoder.h5", layout_json("keras_cv_h5")["image_encoder"])
    model = ImageEncoder(download_weights=False)
    model.load_weights(tmp_path / "vae_encoder.h5")
    given = sorted(float(np.ravel(weight)[0]) for weight in model.weights)
    assert given == sorted(map(float, numbers.values()))
    with pytest.raises(ValueError, match="vae_encoder.h5: holds"):
        Decoder(512, 512, download_weights=False).load_weights(tmp_path / "vae_encoder.h5")


@pytest.mark.parametrize(
    ("text", "unet", "config", "suffix"),
    [
        ("kcv_encoder", "kcv_diffusion_model", SD1, ""),
        ("text_encoder_v2_1", "diffusion_model_v2_1", SD2_BASE, "_v2"),
    ],
)
def test_keras_cv_s_cache_folder_is_a_checkpoint(tmp_path, text, unet, config, suffix):
    files = {text: f"text_encoder{suffix}", unet: f"diffusion_model{suffix}"}
    files |= {"kcv_decoder": "decoder", "vae_encoder": "image_encoder"}
    for name, key in files.items():
        write_h5(tmp_path / f"{name}.h5", layout_json("keras_cv_h5")[key])
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == config
    assert checkpoint.parts["vae"].shapes == layout("diffusers_vae")
    diffusers = {"text_encoder": MODELS[f"text_encoder{suffix}"][2]}
    diffusers["unet"] = MODELS[f"diffusion_model{suffix}"][2]
    for part, name in diffusers.items():
        assert checkpoint.parts[part].shapes == layout(f"diffusers_{name}")
    (tmp_path / "kcv_decoder.h5").unlink()
    with pytest.raises(CheckpointError, match="kcv_decoder.h5: no such file$"):
        open_checkpoint(tmp_path)


def test_keras_cv_s_cache_folder_as_pictures_of_texts_leave_it(tmp_path, capsys):
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("text_encoder", "diffusion_model"):
        file = name.replace("text_", "")
        write_h5(folder / f"kcv_{file}.h5", layout_json("keras_cv_h5")[name])
    numbers = write_h5(folder / "kcv_decoder.h5", layout_json("keras_cv_h5")["decoder"])
    pipeline = StableDiffusion.from_preset(folder)
    given = sorted(float(np.ravel(weight)[0]) for weight in pipeline.decoder.weights)
    assert given == sorted(map(float, numbers.values()))
    assert main(["info", str(folder)]) == 0
    assert "image_encoder: missing, there is no vae_encoder.h5" in capsys.readouterr().out

    table = {"kind": "diffusion", "model": str(folder), "data": {"folder": "pictures"}}
    settings = make_settings(table | {"output": str(tmp_path / "result")})
    for use in (
        lambda: pipeline.image_encoder,
        lambda: convert(folder, tmp_path / "model.safetensors"),
        lambda: open_model(settings),
    ):
        with pytest.raises(CheckpointError, match="vae_encoder.h5: no such file.*another `vae`"):
            use()
    assert not (tmp_path / "model.safetensors").exists()
    vae = {name: np.ones(shape, "f2") for name, shape in layout("diffusers_vae").items()}
    write_safetensors(tmp_path / "vae.safetensors", vae)
    assert open_model(replace(settings, vae=str(tmp_path / "vae.safetensors"))).missing == {}


def test_kernels_are_transposed(tmp_path):
    path = tmp_path / "kcv.h5"
    write_h5(path, layout_json("keras_cv_h5")["decoder"])
    conv = np.arange(9 * 4 * 512, dtype=np.float16).reshape(3, 3, 4, 512)
    query = np.arange(512 * 512, dtype=np.float16).reshape(1, 1, 512, 512)
    with h5py.File(path, "r+") as file:
        file["padded_conv2d_1/padded_conv2d_1/conv2d_1/kernel:0"][...] = conv
        file["attention_block/attention_block/padded_conv2d_4/conv2d_4/kernel:0"][...] = query
    tensors = read_keras_h5(path, "decoder", SD1)
    np.testing.assert_array_equal(tensors["decoder.conv_in.weight"][7, 2, 0, 1], conv[0, 1, 2, 7])
    query_here = tensors["decoder.mid_block.attentions.0.to_q.weight"]
    np.testing.assert_array_equal(query_here, query[0, 0].T)


def test_long_attributes_and_whole_models_are_read(tmp_path):
    layers = layout_json("keras_cv_h5")["text_encoder"]
    write_h5(tmp_path / "a.h5", layers)
    write_h5(tmp_path / "b.h5", layers, top="model_weights", cut=3)
    a = read_keras_h5(tmp_path / "a.h5", "text_encoder", SD1)
    b = read_keras_h5(tmp_path / "b.h5", "text_encoder", SD1)
    assert a.shapes == b.shapes
    name = "encoder.layers.11.mlp.fc2.bias"
    np.testing.assert_array_equal(a[name], b[name])


def test_what_is_no_such_file_is_named(tmp_path):
    path = tmp_path / "x.h5"
    path.write_text("not HDF5")
    with pytest.raises(CheckpointError, match="x.h5: not an HDF5 file"):
        read_keras_h5(path, "decoder", SD1)
    with h5py.File(path, "w") as file:
        file.create_group("layers")
    with pytest.raises(CheckpointError, match="no layer_names"):
        read_keras_h5(path, "decoder", SD1)
    write_h5(path, layout_json("keras_cv_h5")["image_encoder"])
    with pytest.raises(CheckpointError, match="holds 18 layers with weights; the decoder has 22"):
        read_keras_h5(path, "decoder", SD1)
    layers = layout_json("keras_cv_h5")["decoder"]
    layers[3][1].pop()
    write_h5(path, layers)
    with pytest.raises(CheckpointError, match="'attention_block' has 9 weights"):
        read_keras_h5(path, "decoder", SD1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        read_keras_h5(path, "decoder", SD1)
    with pytest.raises(ValueError, match="`model` must be one of .*, not '"):
        read_keras_h5(path, "unet", SD1)
