"""UNet steps a second and seconds a picture on an accelerator, beside diffusers, in one run.

Both have networks of the published size with random weights. Ours run on Keras' JAX backend, with
cuDNN's fused attention where the GPU has it, and the whole loop is one program; diffusers' run with
`torch.compile` (CUDA graphs, channels last) and torch's own attention. They take turns, and the
medians count.

    KERAS_BACKEND=jax python -m benchmarks.accelerator                   # SD 1.5, then SDXL
    KERAS_BACKEND=jax python -m benchmarks.accelerator --families sd1 --side 64 --steps 2
"""

import argparse
import gc

import keras

from benchmarks.unet_step import make_inputs, medians, ours, torch_network, torch_step
from kerasdiff.backend import device, fused_attention_dtypes
from kerasdiff.checkpoints.diffusers_configs import to_json
from kerasdiff.configs import FAMILIES
from kerasdiff.stable_diffusion import StableDiffusion


def compiled(module):
    """torch.compile as diffusers' guide to speed has it: one graph, replayed by the GPU."""
    import torch

    mode = "reduce-overhead" if torch.cuda.is_available() else None
    return torch.compile(module.to(memory_format=torch.channels_last), mode=mode, fullgraph=True)


def their_picture(config, unet, given, options, side):
    """A picture by diffusers' pipeline, from encoded text on: its text encoders are left out."""
    import torch
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
    )

    fields = to_json(config)
    with torch.device(unet.device):
        vae = AutoencoderKL.from_config(fields["vae"]).to(unet.dtype).eval()
    vae.decode = torch.compile(vae.decode)
    parts = {"vae": vae, "unet": unet, "scheduler": EulerDiscreteScheduler(steps_offset=1)}
    names = ("text_encoder", "tokenizer", "feature_extractor", "image_encoder")
    if "pooled" in given:
        kind, extra = StableDiffusionXLPipeline, {"text_encoder_2": None, "tokenizer_2": None}
    else:
        kind, extra = StableDiffusionPipeline, {"safety_checker": None}
    pipeline = kind(**parts, **dict.fromkeys(names), **extra)
    pipeline.set_progress_bar_config(disable=True)
    embeds = {
        f"{negative}{pooled}prompt_embeds": torch.from_numpy(given[name][i : i + 1]).to(
            unet.device, unet.dtype
        )
        for pooled, name in (("", "context"), ("pooled_", "pooled"))
        if name in given
        for i, negative in enumerate(("negative_", ""))
    }
    return lambda: pipeline(
        **embeds, num_inference_steps=options.steps, height=side, width=side, guidance_scale=7.5,
        output_type="np",
    )  # fmt: skip


def our_picture(config, options, side):
    """A picture from the prompt on."""
    model = StableDiffusion(side, side, checkpoint=config, dtype=options.dtype)
    return lambda: model.text_to_image(
        "a red house", num_steps=options.steps, unconditional_guidance_scale=7.5, seed=1,
        sampler="euler",
    )  # fmt: skip


def report(what, steps, repeats, count):
    """Prints a table of contenders that take turns."""
    found = medians(steps, repeats)
    print(f"| {what} | first call, s | later calls, s | a second | of diffusers' time |")
    print("|---|---|---|---|---|")
    theirs = found.get("diffusers", (0, None))[1]
    for name, (first, later) in found.items():
        share = f"{later / theirs:.2f}" if theirs else ""
        print(f"| {name} | {first:.1f} | {later:.4f} | {count / later:.1f} | {share} |")
    print(flush=True)


def compare(family, options):
    """Both tables of a family."""
    config = FAMILIES[family]
    side = options.side or config.image_size[0]
    given = make_inputs(config, side, 1)
    steps, pictures = {}, {}
    if "kerasdiff" in options.contenders:
        steps["kerasdiff"] = ours(config, given, options.dtype, True)
        pictures["kerasdiff"] = our_picture(config, options, side)
    if "diffusers" in options.contenders:
        unet, arguments, added = torch_network(config, given, options.dtype)
        unet = compiled(unet)
        steps["diffusers"] = torch_step(unet, arguments, added)
        pictures["diffusers"] = their_picture(config, unet, given, options, side)
    print(f"## {family}, {side}x{side}, {options.dtype}\n")
    report("one guided UNet step", steps, options.repeats, 1)
    steps.clear()
    gc.collect()
    report(f"a picture of {options.steps} steps", pictures, options.repeats, options.steps)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", default=("sd1", "sdxl"), choices=FAMILIES)
    parser.add_argument("--side", type=int, help="of the pictures; the family's own by default")
    parser.add_argument("--steps", type=int, default=20, help="of a picture")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--repeats", type=int, default=5)
    names = ("kerasdiff", "diffusers")
    parser.add_argument("--contenders", nargs="+", default=names, choices=names)
    options = parser.parse_args()
    fused = "fused" if fused_attention_dtypes() else "not fused"
    print(f"{keras.backend.backend()} on {device()}, attention {fused}\n")
    for family in options.families:
        compare(family, options)
        gc.collect()


if __name__ == "__main__":
    main()
