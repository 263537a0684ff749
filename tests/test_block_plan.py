"""The plan names every block of every published layout, and blocks of any other depth."""

from collections import Counter
from dataclasses import replace

import pytest
from layouts import layout

from kerasdiff.block_plan import (
    autoencoder_plan,
    decoder_blocks,
    diffusion_model_plan,
    encoder_blocks,
    unet_blocks,
)
from kerasdiff.configs import SD1, SD1_INPAINT, SD2, SDXL

FAMILIES = {"sd15": SD1, "sd15-inpaint": SD1_INPAINT, "sd21": SD2, "sdxl": SDXL}


def uncovered(names, blocks):
    """Names that do not belong to exactly one block, and blocks without names."""
    blocks = list(blocks)
    owners = {n: [block for block in blocks if n.startswith(f"{block}.")] for n in names}
    lonely = set(blocks) - {owner[0] for owner in owners.values() if owner}
    return [name for name, owner in owners.items() if len(owner) != 1], lonely


def whole_autoencoder(config):
    return encoder_blocks(config) + decoder_blocks(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_a_unet_belongs_to_one_block(family):
    names = layout(f"diffusers_{family}.unet")
    blocks = unet_blocks(FAMILIES[family].diffusion_model)
    assert uncovered(names, [block.name for block in blocks]) == ([], set())


def test_every_tensor_of_the_autoencoder_belongs_to_one_block():
    blocks = whole_autoencoder(SD1.autoencoder)
    assert uncovered(layout("diffusers_vae"), [block.name for block in blocks]) == ([], set())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_in_the_original_layout_belongs_to_one_block(family):
    config, names = FAMILIES[family], layout(f"ldm_{family}")
    parts = {
        "model.diffusion_model.": unet_blocks(config.diffusion_model),
        "first_stage_model.": whole_autoencoder(config.autoencoder),
    }
    for prefix, blocks in parts.items():
        mine = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        assert uncovered(mine, [block.original for block in blocks]) == ([], set())


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_are_those_of_the_published_shapes(family):
    shapes = layout(f"diffusers_{family}.unet")
    leaf = {
        "conv": "",
        "norm": "",
        "res": ".conv2",
        "transformer": ".proj_out",
        "time": ".linear_2",
    }
    for block in unet_blocks(FAMILIES[family].diffusion_model):
        name = f"{block.name}{leaf.get(block.kind, '.conv')}.weight"
        assert shapes[name][0] == block.channels, name


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_are_as_deep_as_published(family):
    shapes = layout(f"diffusers_{family}.unet")
    found = Counter(n.split(".transformer_blocks.")[0] for n in shapes if ".norm3.weight" in n)
    planned = unet_blocks(FAMILIES[family].diffusion_model)
    assert found == {b.name: b.depth for b in planned if b.kind == "transformer"}
    assert all(bool(b.depth) == bool(b.heads) == (b.kind == "transformer") for b in planned)


DEEP = replace(
    SD1.diffusion_model, channels=(32, 64, 96), layers_per_block=(1, 3, 2), depth=(2, 0, 1),
    up_depth=(1, 0, 3), mid_depth=4, heads=(2, 4, 8),
)  # fmt: skip


@pytest.mark.parametrize("config", [DEEP, replace(DEEP, mid_depth=None), SDXL.diffusion_model])
def test_every_kept_output_is_used_once_and_each_before_it_is_gone(config):
    kept = 0
    for block in unet_blocks(config):
        kept += {"push": 1, "pop": -1, "": 0}[block.skip]
        assert kept >= 0
    assert kept == 0


def test_levels_differ_in_layers_depth_and_heads():
    blocks = {block.name: block for block in unet_blocks(DEEP)}
    assert blocks["down_blocks.0.attentions.0"][1:] == (
        "input_blocks.1.1", "transformer", 32, 2, 2, "push",
    )  # fmt: skip
    assert blocks["down_blocks.0.resnets.0"].skip == ""
    assert blocks["down_blocks.1.resnets.2"].original == "input_blocks.5.0"
    assert blocks["down_blocks.1.resnets.2"].skip == "push"
    assert blocks["down_blocks.1.downsamplers.0"].original == "input_blocks.6.0"
    assert blocks["mid_block.attentions.0"].depth == 4
    assert blocks["up_blocks.0.resnets.2"].original == "output_blocks.2.0"
    assert blocks["up_blocks.0.upsamplers.0"].original == "output_blocks.2.2"
    assert blocks["up_blocks.1.upsamplers.0"].original == "output_blocks.6.1"
    assert blocks["up_blocks.2.attentions.1"][1:] == (
        "output_blocks.8.1", "transformer", 32, 2, 3, "",
    )  # fmt: skip
    assert "up_blocks.2.upsamplers.0" not in blocks and "up_blocks.1.attentions.0" not in blocks


def test_the_middle_can_be_left_out_or_have_no_attention():
    for depth, middle in ((None, 0), (0, 2), (1, 3)):
        blocks = diffusion_model_plan(replace(DEEP, mid_depth=depth))
        originals = [b.original for b in blocks if b.name.startswith("mid_block")]
        assert originals == [f"middle_block.{i}" for i in range(middle)]


def test_the_autoencoder_s_options():
    config = replace(
        SD1.autoencoder, channels=(16, 32, 64), layers_per_block=1, quant_conv=False,
        post_quant_conv=False, mid_attention=False,
    )  # fmt: skip
    blocks = {block.name: block for block in whole_autoencoder(config)}
    assert not [n for n in blocks if "quant" in n or "attentions" in n]
    assert blocks["decoder.up_blocks.0.resnets.1"].original == "decoder.up.2.block.1"
    assert blocks["decoder.up_blocks.1.upsamplers.0"].original == "decoder.up.1.upsample"
    assert blocks["encoder.down_blocks.1.downsamplers.0"].original == "encoder.down.1.downsample"
    assert "encoder.down_blocks.2.downsamplers.0" not in blocks


def test_the_plans_are_the_networks_without_their_ends():
    plan = diffusion_model_plan(DEEP)
    whole = unet_blocks(DEEP)
    assert whole[2:-2] == plan
    assert {block.kind for block in plan} == {"res", "transformer", "down", "up"}
    names = [block.name for block in autoencoder_plan(SD1.autoencoder)]
    ends = [b.name for b in whole_autoencoder(SD1.autoencoder) if b.kind in ("conv", "norm")]
    assert ends and set(names).isdisjoint(ends)
    assert sorted(names + ends) == sorted(b.name for b in whole_autoencoder(SD1.autoencoder))


@pytest.mark.parametrize("field", ["layers_per_block", "depth", "up_depth", "heads"])
def test_tuples_of_other_lengths_are_refused(field):
    config = replace(SD1.diffusion_model, **{field: (1, 1, 1)})
    with pytest.raises(ValueError, match=rf"`{field}` must have one entry .* 4 levels .*1, 1, 1"):
        unet_blocks(config)
