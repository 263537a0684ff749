"""Names of tensors in the original layout and the canonical ones, which are the diffusers layout's.

The canonical names are also the models' own. The original layout (CompVis, Stability) is a single
file with one prefix a part; its names follow from the block plan, which knows each block's name in
both layouts, and the few tables of leaves below. Beside plain renaming there are three differences:
OpenCLIP fuses query, key and value into one tensor, stores the text projection transposed, and the
autoencoder's attention is made of 1x1 convolutions.
"""

import re
from dataclasses import dataclass

from kerasdiff.block_plan import autoencoder_plan, diffusion_model_plan

PART_OF = {  # networks with one text encoder, and the parts of a checkpoint with their weights
    "text_encoder": "text_encoder",
    "image_encoder": "vae",
    "decoder": "vae",
    "diffusion_model": "unet",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ENDS = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"} | {
    f"{half}.{name}": f"{half}.{original}"
    for half in ("encoder", "decoder")
    for name, original in (("conv_in",) * 2, ("conv_norm_out", "norm_out"), ("conv_out",) * 2)
}
LEAVES = {  # of a part's blocks, by kind
    "unet": {
        "res": {
            "norm1": "in_layers.0",
            "conv1": "in_layers.2",
            "time_emb_proj": "emb_layers.1",
            "norm2": "out_layers.0",
            "conv2": "out_layers.3",
            "conv_shortcut": "skip_connection",
        },
        "down": {"conv": "op"},
    },
    "vae": {
        "res": {"conv_shortcut": "nin_shortcut"},
        "attention": {
            "group_norm": "norm",
            "to_q": "q",
            "to_k": "k",
            "to_v": "v",
            "to_out.0": "proj_out",
        },
    },
}
OPENCLIP_ENDS = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
}
OPENCLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# What real files carry beside the weights of the four parts.
SKIPPED = re.compile(
    r"model_ema\.|betas$|alphas_cumprod|sqrt_|log_one_minus_alphas_cumprod$|posterior_"
    r"|lvlb_weights$|logvar$|denoiser\.sigmas$|v_pred$|ztsnr$|embedding_manager\."
    r"|(first_stage_model\.)?(loss|model_ema)\.|.*\bposition_ids$|.*\blogit_scale$"
)


def parts_of(config):
    """The names of a checkpoint's parts."""
    return ("text_encoder", "text_encoder_2")[: len(config.text_encoders)] + ("vae", "unet")


def from_diffusers(part, name):
    """The canonical name of a name in a diffusers folder, of any age."""
    if part.startswith("text"):
        return name.removeprefix("text_model.")
    if part == "vae":
        for old, new in OLD_ATTENTION.items():
            name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
    return name


def is_matrix(part, name):
    """Whether a canonical tensor is a matrix that older files hold as a 1x1 convolution."""
    return part == "vae" and re.search(r"\.attentions\.0\.to_.*\.weight$", name) is not None


def is_skipped(name):
    """Whether a tensor of this name is known to be no weight of any part."""
    return SKIPPED.match(name) is not None


@dataclass(frozen=True)
class Route:
    """Where a canonical tensor lies in the original layout.

    Attributes:
        original: the name there, without the part's prefix.
        how: `"same"`, `"transposed"`, `"squeezed"` (there a 1x1 convolution, here a matrix), or
            `"third 0"`, `"third 1"`, `"third 2"` of the rows of a fused tensor.
    """

    original: str
    how: str = "same"


class OriginalNames:
    """The one-to-one map of one part's names, by modules: `a.b.weight` goes where `a.b` goes.

    Args:
        part: "unet", "vae", "text_encoder" or "text_encoder_2".
        config: the `StableDiffusionConfig`.

    Attributes:
        prefix: of the part's names in a single file.
        root: what any name of the part begins with there; early files leave `text_model.` out.
    """

    def __init__(self, part, config):
        self.part = part
        self.prefix = _prefix(part, config)
        self.root = self.prefix.removesuffix("text_model.")
        self.config = _part_config(part, config)
        self.openclip = part.startswith("text") and self.config.activation == "gelu"
        self._there = dict(_modules(part, self.config))
        self._back = {original: name for name, original in self._there.items()}

    def original(self, name):
        """The `Route` of a canonical name, or None if the part has no such module."""
        if self.part.startswith("text") and not self.openclip:
            return Route(name)
        fused = re.fullmatch(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)", name)
        if self.openclip and fused:
            layer, which, kind = fused.groups()
            layer = _renamed(layer, self._there)
            route = f"{layer}.attn.in_proj_{kind}", f"third {'qkv'.index(which)}"
            return Route(*route) if layer else None
        original = _renamed(name, self._there)
        return original and Route(original, self._how(name))

    def canonical(self, original):
        """The canonical names that an original name holds: dict of name to `how`; may be empty."""
        if self.part.startswith("text") and not self.openclip:
            return {} if self._is_unused_projection(self.root + original) else {original: "same"}
        fused = re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", original)
        if self.openclip and fused:
            layer = _renamed(fused[1], self._back)
            names = [f"{layer}.self_attn.{which}_proj.{fused[2]}" for which in "qkv"]
            return {name: f"third {i}" for i, name in enumerate(names)} if layer else {}
        name = _renamed(original, self._back)
        return {name: self._how(name)} if name else {}

    def is_unused(self, full):
        """Whether files carry a tensor of this name, prefix and all, that the network leaves out.

        OpenCLIP's last blocks and either CLIP's projection where neither reaches the network, and
        what `is_skipped` says of any part.
        """
        layer = re.fullmatch(re.escape(self.prefix) + r"transformer\.resblocks\.(\d+)\..*", full)
        if self.openclip and layer:
            return int(layer[1]) >= self.config.depth
        return self._is_unused_projection(full) or is_skipped(full)

    def _is_unused_projection(self, full):
        if not self.part.startswith("text") or self.config.projection_dim is not None:
            return False
        if self.openclip:
            return full == f"{self.prefix}text_projection"
        outer = re.escape(self.root.removesuffix("transformer."))
        return re.fullmatch(rf"{outer}(transformer\.)?text_projection(\.weight)?", full) is not None

    def _how(self, name):
        if name == "text_projection.weight":
            return "transposed"
        return "squeezed" if is_matrix(self.part, name) else "same"


def _renamed(name, table):
    """`name` with its longest prefix of whole modules replaced by the table; None if none is."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        head = ".".join(parts[:count])
        if head in table:
            return ".".join([table[head], *parts[count:]])
    return None


def _part_config(part, config):
    if part.startswith("text"):
        return config.text_encoders[1 if part == "text_encoder_2" else 0]
    return config.diffusion_model if part == "unet" else config.autoencoder


def _prefix(part, config):
    if part in ("unet", "vae"):
        return {"unet": "model.diffusion_model.", "vae": "first_stage_model."}[part]
    inner = (
        "model." if _part_config(part, config).activation == "gelu" else "transformer.text_model."
    )
    if len(config.text_encoders) == 1:
        return f"cond_stage_model.{inner}"
    return f"conditioner.embedders.{1 if part == 'text_encoder_2' else 0}.{inner}"


def _modules(part, config):
    """(canonical, original) names of modules, which may hold further modules of equal names."""
    if part.startswith("text"):
        if config.activation == "gelu":
            yield from _openclip_modules(config)
        return
    yield from (UNET_ENDS if part == "unet" else VAE_ENDS).items()
    for block in (diffusion_model_plan if part == "unet" else autoencoder_plan)(config):
        yield block.name, block.original
        for name, original in LEAVES[part].get(block.kind, {}).items():
            yield f"{block.name}.{name}", f"{block.original}.{original}"


def _openclip_modules(config):
    for name, original in OPENCLIP_ENDS.items():
        if name != "text_projection.weight" or config.projection_dim is not None:
            yield name, original
    for i in range(config.depth):
        here, there = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
        yield here, there
        for name, original in OPENCLIP_LAYER.items():
            yield f"{here}.{name}", f"{there}.{original}"
