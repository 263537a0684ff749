"""What the names and shapes of a file in the original layout show of the networks in it.

Each function returns a dict of the fields of a config that can be seen: sizes, counts and kinds of
layers. What cannot be seen (heads, groups of normalisations, epsilons) is for `detect.py` to add.
"""

from kerasdiff.checkpoints.tensors import CheckpointError

UNET, VAE = "model.diffusion_model.", "first_stage_model."


def unet_fields(shapes):
    """The fields of `DiffusionModelConfig` that a file shows.

    Args:
        shapes: mapping of names to shapes in PyTorch's axis order.

    Raises:
        CheckpointError: a tensor is missing or has another rank, or blocks of a level differ.
    """
    levels = _levels_down(shapes)
    layers = tuple(len(level) for level in levels)
    depth = tuple(_one(f"level {i} of the unet", level)[1] for i, level in enumerate(levels))
    up_depth, block = [], 0
    for count in reversed(layers):
        level = [_depth(shapes, f"output_blocks.{block + i}.1.") for i in range(count + 1)]
        up_depth.append(_one(f"the unet from output_blocks.{block}", level))
        block += count + 1
    middle = f"{UNET}middle_block.0.in_layers.2.weight" in shapes
    mid_depth = _depth(shapes, "middle_block.1.") if middle else None
    if mid_depth == 0:
        raise CheckpointError("the middle of the unet has no attention, which is not supported")
    attentions = [name for name in shapes if name.startswith(UNET) and "attn2.to_k.w" in name]
    if not attentions:
        raise CheckpointError("the unet has no cross attention: no text steers it")
    projection = attentions[0].split("transformer_blocks.")[0] + "proj_in.weight"
    label = f"{UNET}label_emb.0.0.weight"
    guidance = f"{UNET}time_embed.cond_proj.weight"
    return {
        "in_channels": shape_of(shapes, f"{UNET}input_blocks.0.0.weight", 4)[1],
        "out_channels": shape_of(shapes, f"{UNET}out.2.weight", 4)[0],
        "channels": tuple(_one(f"level {i}", level)[0] for i, level in enumerate(levels)),
        "layers_per_block": layers,
        "depth": depth,
        "up_depth": tuple(up_depth),
        "mid_depth": mid_depth,
        "context_dim": shape_of(shapes, attentions[0], 2)[1],
        "linear_projection": len(shapes.get(projection, ())) == 2,
        "time_cond_dim": shape_of(shapes, guidance, 2)[1] if guidance in shapes else None,
        "added_embed_dim": shape_of(shapes, label, 2)[1] if label in shapes else None,
    }


def autoencoder_fields(shapes):
    """The fields of `AutoencoderConfig` that a file shows; see `unet_fields`."""
    count = count_of(shapes, f"{VAE}encoder.down.", ".block.0.conv1.weight")
    blocks = [f"{VAE}encoder.down.{i}.block." for i in range(max(count, 1))]
    widths = (shape_of(shapes, f"{block}0.conv1.weight", 4)[0] for block in blocks)
    return {
        "image_channels": shape_of(shapes, f"{VAE}encoder.conv_in.weight", 4)[1],
        "latent_channels": shape_of(shapes, f"{VAE}decoder.conv_in.weight", 4)[1],
        "channels": tuple(widths),
        "layers_per_block": count_of(shapes, blocks[0], ".conv1.weight"),
        "quant_conv": f"{VAE}quant_conv.weight" in shapes,
        "post_quant_conv": f"{VAE}post_quant_conv.weight" in shapes,
        "mid_attention": f"{VAE}decoder.mid.attn_1.q.weight" in shapes,
    }


def clip_fields(shapes, prefix):
    """The fields of `TextEncoderConfig` of OpenAI's CLIP under `prefix`; see `unet_fields`."""
    inner = f"{prefix}text_model."
    prefix = inner if any(name.startswith(inner) for name in shapes) else prefix
    vocabulary, width = shape_of(shapes, f"{prefix}embeddings.token_embedding.weight", 2)
    return {
        "vocab_size": vocabulary,
        "max_length": shape_of(shapes, f"{prefix}embeddings.position_embedding.weight", 2)[0],
        "width": width,
        "depth": count_of(shapes, f"{prefix}encoder.layers.", ".mlp.fc1.weight"),
        "mlp_width": shape_of(shapes, f"{prefix}encoder.layers.0.mlp.fc1.weight", 2)[0],
    }


def openclip_fields(shapes, prefix):
    """The same of OpenCLIP's text model, all of whose layers are counted."""
    vocabulary, width = shape_of(shapes, f"{prefix}token_embedding.weight", 2)
    layers = f"{prefix}transformer.resblocks."
    return {
        "vocab_size": vocabulary,
        "max_length": shape_of(shapes, f"{prefix}positional_embedding", 2)[0],
        "width": width,
        "depth": count_of(shapes, layers, ".mlp.c_fc.weight"),
        "mlp_width": shape_of(shapes, f"{layers}0.mlp.c_fc.weight", 2)[0],
    }


def shape_of(shapes, name, rank):
    """The shape of a tensor that must be there, of `rank` axes none of which is empty."""
    if name not in shapes:
        raise CheckpointError(f"{name} is missing: the file is not whole")
    shape = tuple(shapes[name])
    if len(shape) != rank or 0 in shape:
        raise CheckpointError(f"{name} has shape {shape}; {rank} axes were expected")
    return shape


def count_of(shapes, before, after):
    """How many of `{before}0{after}`, `{before}1{after}`, ... there are without a gap."""
    count = 0
    while f"{before}{count}{after}" in shapes:
        count += 1
    return count


def _levels_down(shapes):
    """Of each level on the way down, (channels, depth) of its blocks."""
    levels, block = [[]], 1
    while True:
        name = f"{UNET}input_blocks.{block}.0."
        if f"{name}op.weight" in shapes:
            levels.append([])
        elif f"{name}in_layers.2.weight" in shapes:
            width = shape_of(shapes, f"{name}in_layers.2.weight", 4)[0]
            levels[-1].append((width, _depth(shapes, f"input_blocks.{block}.1.")))
        else:
            return levels
        block += 1


def _depth(shapes, prefix):
    return count_of(shapes, f"{UNET}{prefix}transformer_blocks.", ".norm1.weight")


def _one(where, values):
    """The value that all blocks of a level share."""
    if len(set(values)) != 1:
        raise CheckpointError(f"{where} has no blocks, or blocks that differ: {values}")
    return values[0]
