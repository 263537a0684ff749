"""The config of a text encoder in a diffusers folder, as transformers writes it, both ways."""

from kerasdiff.checkpoints.config_fields import (
    MAX_LAYERS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    RECORD,
    TRAINING,
    Fields,
)  # fmt: skip
from kerasdiff.configs import TextEncoderConfig

CLIP_PAD, OPENCLIP_PAD = 49407, 0
FIRST_END_TOKEN = 2  # an old mistake in published configs: the largest id is what is pooled
GENERIC = "belongs to every transformers config; CLIP's text model does not read it"
OWN_FILES = "prompts are packed by the tokenizer, whose own files say it"

# Fields of transformers' CLIPTextConfig with its own defaults, which are not Stable Diffusion's.
HONOURED = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "projection_dim": 512,
    "num_hidden_layers": 12, "num_attention_heads": 8, "max_position_embeddings": 77,
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407,
    "architectures": None,
}  # fmt: skip
FIXED = {
    "model_type": ("clip_text_model",), "is_decoder": (False,), "add_cross_attention": (False,),
    "is_encoder_decoder": (False,), "pruned_heads": ({}, None),
}  # fmt: skip
NO_EFFECT = (
    dict.fromkeys(
        "dropout attention_dropout initializer_range initializer_factor".split(), TRAINING
    )
    | dict.fromkeys("_name_or_path dtype torch_dtype transformers_version".split(), RECORD)
    | dict.fromkeys("bos_token_id pad_token_id".split(), OWN_FILES)
    | dict.fromkeys(
        "output_hidden_states output_attentions return_dict chunk_size_feed_forward "
        "problem_type id2label label2id _attn_implementation use_cache".split(),
        GENERIC,
    )
)


def text_encoder_config(json, *, output_layer=-1, pad_token_id=None, projection=None, part=None):
    """Parse `text_encoder/config.json`.

    Args:
        json: the parsed file.
        output_layer: see `TextEncoderConfig`; the pipeline decides it, not this file.
        pad_token_id: from the tokenizer; None takes 49407 for OpenAI's CLIP, 0 for OpenCLIP.
        projection: whether the pooled projection exists; None reads it from `architectures`.
            Without it `projection_dim` and `eos_token_id`, which say what is pooled, are moot.
        part: a name for errors.

    Raises:
        CheckpointError: naming the field that cannot be honoured.
    """
    fields = Fields(part or "text_encoder", json, HONOURED, FIXED, NO_EFFECT)
    classes = [None, ["CLIPTextModel"], ["CLIPTextModelWithProjection"]]
    if projection is None:
        projection = fields.choice("architectures", classes) == classes[2]
    activation = fields.choice("hidden_act", ("quick_gelu", "gelu"))
    if pad_token_id is None:
        pad_token_id = CLIP_PAD if activation == "quick_gelu" else OPENCLIP_PAD
    vocabulary = fields.integer("vocab_size", high=MAX_VOCABULARY)
    end = fields.integer("eos_token_id", 0, MAX_VOCABULARY) if projection else None
    width = fields.integer("hidden_size")
    heads = fields.integer("num_attention_heads")
    if width % heads:
        fields.refuse("num_attention_heads", heads, f"a divisor of `hidden_size` = {width}")
    return TextEncoderConfig(
        vocab_size=vocabulary,
        max_length=fields.integer("max_position_embeddings"),
        width=width,
        depth=fields.integer("num_hidden_layers", high=MAX_LAYERS),
        heads=heads,
        mlp_width=fields.integer("intermediate_size", high=4 * MAX_WIDTH),
        activation=activation,
        epsilon=fields.number("layer_norm_eps", 0.0, 1.0),
        projection_dim=fields.integer("projection_dim") if projection else None,
        output_layer=output_layer,
        pad_token_id=pad_token_id,
        end_token_id=None if end == FIRST_END_TOKEN else end,
    )


def text_encoder_json(config):
    """The `config.json` that transformers opens; `text_encoder_config` reversed."""
    projection = config.projection_dim is not None
    end = config.end_token_id
    return {
        "architectures": ["CLIPTextModelWithProjection" if projection else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "projection_dim": config.projection_dim or config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.max_length,
        "hidden_act": config.activation,
        "layer_norm_eps": config.epsilon,
        "eos_token_id": FIRST_END_TOKEN if end is None else end,
        "bos_token_id": 0,
        "pad_token_id": 1,
    }
