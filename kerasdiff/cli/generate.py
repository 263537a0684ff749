"""`kerasdiff "a prompt"`: a prompt in, a PNG out; a picture and a mask may be given too."""

import argparse
import os
import re
import secrets
import sys
from pathlib import Path

import kerasdiff
from kerasdiff import images
from kerasdiff.cli.start import add_model, open_model, picture_size
from kerasdiff.configs import MEMORY
from kerasdiff.demo.captions import all_words
from kerasdiff.options import MAX_PICTURES, Options

SOME = "ddim, euler, euler_ancestral, heun, dpmpp_2m, unipc, ... (docs/samplers.md)"
SCHEDULES = "leading, linspace, trailing (timesteps), karras, exponential (noise levels)"
EPILOG = """\
examples:
  kerasdiff "a red house and a pine tree near a mountain at sunset" -o house.png --seed 7
  kerasdiff demo
  kerasdiff "a lighthouse at dawn" --model model.safetensors --size 512x768 --batch 4
  kerasdiff "the village in winter" --model sd-v1-5 --init photo.png --size 512x512
  kerasdiff "a wooden door" --model sd-v1-5-inpainting --init in.png --mask mask.png --size 512x512
  kerasdiff "a lighthouse at dawn" --model sd-v1-5 --dtype bfloat16 --memory low --tile 256
  kerasdiff info model.safetensors
  kerasdiff convert model.ckpt model-folder --dtype float16

Without --model the small model that comes with kerasdiff draws; `kerasdiff demo` shows its world.
With --init the size is the picture's own unless --size is given. A mask is black where the
picture stays and white where it is painted anew. What made a PNG is stored inside it:
`kerasdiff info out.png` shows it.
"""


def add_generate(commands):
    """Adds the command to a parser's sub-commands."""
    add = commands.add_parser(
        "generate",
        help='make pictures of a prompt; "generate" itself may be left out',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.set_defaults(run=generate)
    add.add_argument("prompt", help="what to draw, at most 75 tokens for most models")
    add.add_argument("-o", "--output", default="out.png", help="PNG to write (%(default)s)")
    add.add_argument("--negative", metavar="TEXT", help="what to steer away from")
    add.add_argument("--seed", type=int, help="whole number; drawn and told unless given")
    add.add_argument("--size", type=picture_size, metavar="WxH", help="in pixels, such as 512x768")
    add.add_argument(
        "--batch", type=int, default=1, help="pictures of seed, seed+1, ...: out-1.png, ..."
    )
    _add_start(add.add_argument_group("from a picture"))
    model = add.add_argument_group("the model")
    add_model(model)
    model.add_argument(
        "--jit", action=argparse.BooleanOptionalAction, default="auto",
        help="compile with XLA; unless given, what is faster here",
    )  # fmt: skip
    _add_sampling(add.add_argument_group("sampling"))
    _add_economies(add.add_argument_group("less memory and time"))


def _add_start(add):
    add.add_argument("--init", metavar="PICTURE", help="picture to start from")
    add.add_argument(
        "--strength", type=float, help="how much of --init to redo, above 0 to 1 (0.8; --mask: 1)"
    )
    add.add_argument("--mask", metavar="PICTURE", help="where --init is painted anew (white)")
    add.add_argument(
        "--overlay", action=argparse.BooleanOptionalAction,
        help="--init itself where the mask is black (the default), not as the autoencoder gives "
        "it back",
    )  # fmt: skip


def _add_sampling(add):
    add.add_argument("--steps", type=int, help="sampling steps; the model's own unless given")
    add.add_argument("--guidance", type=float, help="1 is none; the model's own unless given")
    add.add_argument("--sampler", metavar="NAME", help=f"{SOME}; the model's own unless given")
    add.add_argument("--schedule", metavar="NAME", help=SCHEDULES)
    add.add_argument("--eta", type=float, help="extra noise of ddim and tcd, 0 to 1")
    add.add_argument("--guidance-rescale", type=float, default=0.0, metavar="R", help="0 to 1")


def _add_economies(add):
    # All pictures are made in one go: no network is needed again once the next one is.
    add.add_argument(
        "--memory", default="medium", choices=MEMORY,
        help="medium holds one network at a time, low a layer at a time (%(default)s)",
    )  # fmt: skip
    add.add_argument("--split-guidance", action="store_true", help="less memory, two calls")
    add.add_argument(
        "--tile", type=int, metavar="PIXELS", help="encode and decode in tiles of this side"
    )
    add.add_argument("--int8", action="store_true", help="the UNet's weights in 8 bits")
    add.add_argument(
        "--token-merging", type=float, default=0.0, metavar="SHARE",
        help="of the positions that attention merges, to 0.75",
    )  # fmt: skip
    add.add_argument(
        "--guidance-interval", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="guide between these noise levels alone (noise over signal)",
    )  # fmt: skip
    add.add_argument(
        "--cache-interval", type=int, default=1, metavar="N",
        help="compute the UNet's inner blocks in every N-th call alone",
    )  # fmt: skip


def generate(options):
    """Writes one PNG for each picture."""
    for name, other in (("mask", "init"), ("strength", "init"), ("overlay", "mask")):
        if getattr(options, name) is not None and getattr(options, other) is None:
            raise ValueError(f"--{name} needs --{other}")
    targets = _targets(options.output, options.batch)
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    model = open_model(
        options, jit_compile=options.jit, memory=options.memory, tile=options.tile,
        int8=options.int8, token_merging=options.token_merging,
    )  # fmt: skip
    if options.model == "demo":
        _tell_unknown_words(options.prompt)
    pictures, strength = _paint(model, options, seed)
    _save(pictures, targets, options, model, seed, strength)


def _tell_unknown_words(prompt):
    unknown = [word for word in re.findall(r"[^\W\d_]+", prompt) if word.lower() not in all_words()]
    if unknown:
        print(
            f"kerasdiff: the small model does not know: {', '.join(dict.fromkeys(unknown))}. It "
            "draws houses, boats and coloured shapes (kerasdiff demo shows them); --model takes "
            "another",
            file=sys.stderr,
        )


def _paint(model, options, seed):
    """The pictures, and the strength that was used, or None without a picture to start from."""
    height, width = options.size or (None, None)
    settings = {
        "negative_prompt": options.negative,
        "batch_size": options.batch,
        "num_steps": options.steps,
        "unconditional_guidance_scale": options.guidance,
        "seed": seed,
        "sampler": options.sampler,
        "schedule": options.schedule,
        "eta": options.eta,
        "guidance_rescale": options.guidance_rescale,
        "split_guidance": options.split_guidance,
        "guidance_interval": options.guidance_interval and tuple(options.guidance_interval),
        "cache_interval": options.cache_interval,
        "img_height": height,
        "img_width": width,
    }
    if options.init is None:
        return model.text_to_image(options.prompt, **settings), None
    strength = options.strength
    if options.mask is None:
        strength = 0.8 if strength is None else strength
        return model.image_to_image(options.prompt, options.init, strength, **settings), strength
    strength = 1.0 if strength is None else strength
    settings["overlay"] = options.overlay is not False
    given = (options.prompt, options.init, options.mask, strength)
    return model.inpaint(*given, **settings), strength


def _save(pictures, targets, options, model, seed, strength):
    sampler = options.sampler or model.config.schedule.sampler
    scale = model.config.guidance_scale if options.guidance is None else options.guidance
    asks_twice = model.asks_twice(Options(unconditional_guidance_scale=scale))
    interval = options.guidance_interval if asks_twice else None
    for index, (target, picture) in enumerate(zip(targets, pictures, strict=True)):
        details = {
            "Steps": model.config.num_steps if options.steps is None else options.steps,
            "Sampler": images.WEB_UI_SAMPLERS.get(sampler, sampler),
            "Schedule type": options.schedule and options.schedule.capitalize(),
            "CFG scale": scale,
            "CFG rescale": (asks_twice and options.guidance_rescale) or None,
            "CFG interval": interval and f"{interval[0]:g} to {interval[1]:g}",
            "Seed": seed + index,
            "Size": f"{picture.shape[1]}x{picture.shape[0]}",
            "Model": _name(options.model),
            "Denoising strength": strength,
            "Eta DDIM" if sampler == "ddim" else "Eta": options.eta,
            "Token merging ratio": options.token_merging or None,
            "Cache interval": options.cache_interval if options.cache_interval > 1 else None,
            "Weights": "int8" if options.int8 else None,
            "VAE": options.vae and _name(options.vae),
            "Variant": options.variant,
            "Prediction type": options.prediction_type,
            "Precision": options.dtype if options.dtype != "float32" else None,
            "Tile": options.tile,
            "Version": f"kerasdiff {kerasdiff.__version__}",
        }
        details = {name: value for name, value in details.items() if value is not None}
        negative = options.negative if asks_twice else None  # else it had no part in the picture
        text = images.parameters_text(options.prompt, negative, details)
        images.save_png(target, picture, text)
        print(f"{target}  seed {seed + index}")


def _name(model):
    """What a model is called: a folder's name may end in a version, "." has one too."""
    path = Path(os.path.abspath(model))
    return path.stem if path.is_file() else path.name


def _targets(output, count):
    """A file for each picture, checked to be writable before any work is done."""
    output = images.check_target(output)
    if not 1 <= count <= MAX_PICTURES:
        raise ValueError(f"--batch must be from 1 to {MAX_PICTURES}, not {count}")
    targets = [output]
    if count > 1:
        targets = [output.with_stem(f"{output.stem}-{number}") for number in range(1, count + 1)]
    return [images.check_target(target) for target in targets]
