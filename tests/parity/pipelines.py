"""Small diffusers pipelines with random weights that react visibly to prompt, noise and sampler.

Freshly made networks hardly react to anything, and then every sampler gives the same picture:
`enliven` scales the weights that matter until pictures differ.
"""

import gzip
import json
from pathlib import Path

import diffusers
import torch
import transformers

import kerasdiff

MERGES = Path(kerasdiff.__file__).with_name("clip_merges.txt.gz")
KINDS = ("sd1", "sd1-deep", "sd2", "sd2-v", "sdxl", "sd1-inpaint")


def write_tokenizer(folder, pad_token="<|endoftext|>"):
    """CLIP's tokenizer as transformers saves it, from the merges alone."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    merges = gzip.decompress(MERGES.read_bytes()).decode("utf8").strip().split("\n")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(byte) for byte in printable] + [
        chr(256 + index) for index in range(256 - len(printable))
    ]
    words = symbols + [symbol + "</w>" for symbol in symbols]
    words += ["".join(merge.split()) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token=pad_token,
        model_max_length=77,
    )  # fmt: skip


def text_encoder(projected=False, activation="quick_gelu", width=32):
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=77, hidden_act=activation,
        projection_dim=width, bos_token_id=49406, eos_token_id=49407, pad_token_id=1,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(config)


def autoencoder(channels=(16, 32), layers=1):
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels, layers_per_block=layers, norm_num_groups=8, sample_size=32,
    )  # fmt: skip


def unet(kind):
    common = dict(norm_num_groups=8, cross_attention_dim=32, layers_per_block=1, sample_size=16)
    two = dict(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
    )
    more = {
        "sd1": {},
        "sd1-inpaint": dict(in_channels=9),
        "sd1-deep": dict(
            block_out_channels=(32, 48, 64),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=8,
        ),
        "sd2": dict(use_linear_projection=True, attention_head_dim=[2, 4]),
        "sd2-v": dict(use_linear_projection=True, attention_head_dim=[2, 4]),
        "sdxl": dict(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2],
            use_linear_projection=True,
            attention_head_dim=[2, 4],
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,
        ),
    }[kind]
    return diffusers.UNet2DConditionModel(**{**common, **two, **more})


@torch.no_grad()
def enliven(pipeline):
    """Scales weights in place, until prompts, noise and samplers give visibly other pictures."""
    for name, value in pipeline.unet.named_parameters():
        if ".attn2." in name and name.endswith("weight"):
            value *= 3.0
        if name == "conv_out.weight":
            value *= 6.0
    for name, value in pipeline.vae.named_parameters():
        if name == "decoder.conv_out.weight":
            value *= 2.0
    for encoder in (pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)):
        for name, value in encoder.named_parameters() if encoder is not None else ():
            if "token_embedding" in name:
                value *= 20.0


def make_pipeline(kind, folder, seed=0, vae_channels=(16, 32)):
    """A pipeline of one of `KINDS`, saved by diffusers under `folder`; returns it."""
    torch.manual_seed(seed)
    schedule = dict(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
        prediction_type="v_prediction" if kind == "sd2-v" else "epsilon",
    )  # fmt: skip
    pad = "<|endoftext|>" if kind.startswith("sd1") else "!"
    tokenizer = write_tokenizer(Path(folder) / "made", pad)
    activation = "quick_gelu" if kind.startswith("sd1") else "gelu"
    parts = dict(
        vae=autoencoder(vae_channels),
        unet=unet(kind),
        tokenizer=tokenizer,
        scheduler=diffusers.DDIMScheduler(**schedule),
    )
    extra = {"add_watermarker": False} if kind == "sdxl" else {}
    if kind == "sdxl":
        pipeline = diffusers.StableDiffusionXLPipeline(
            text_encoder=text_encoder(activation="quick_gelu"),
            text_encoder_2=text_encoder(projected=True, activation="gelu"),
            tokenizer_2=write_tokenizer(Path(folder) / "made2", "!"),
            add_watermarker=False,
            **parts | {"tokenizer": write_tokenizer(Path(folder) / "made")},
        )
    else:
        inpaint = kind == "sd1-inpaint"
        cls = (
            diffusers.StableDiffusionInpaintPipeline
            if inpaint
            else diffusers.StableDiffusionPipeline
        )
        pipeline = cls(
            text_encoder=text_encoder(activation=activation), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False, **parts,
        )  # fmt: skip
    enliven(pipeline)
    pipeline.save_pretrained(Path(folder) / "pipeline")
    # Read back: in memory, diffusers forgets which options of a scheduler were defaults.
    pipeline = type(pipeline).from_pretrained(Path(folder) / "pipeline", **extra)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
