"""The command line: a prompt in, a PNG out; and a look into checkpoint files."""

import argparse
import math
import os
import secrets
import sys
from pathlib import Path

import kerasdiff
from kerasdiff.demo.command import add_demo
from kerasdiff.export.command import add_export
from kerasdiff.options import MAX_PICTURES
from kerasdiff.training.runs.command import add_train

EPILOG = """\
examples:
  kerasdiff "a red house and a pine tree near a mountain at sunset" -o house.png --seed 7
  kerasdiff demo
  kerasdiff "a lighthouse at dawn" --model model.safetensors --size 512x768 --batch 4
  kerasdiff "the same in winter" --model sd-v1-5 --init photo.png --strength 0.6
  kerasdiff "a wooden door" --model sd-v1-5-inpainting --init photo.png --mask mask.png
  kerasdiff info model.safetensors
  kerasdiff convert model.ckpt model-folder --dtype float16

Without --model the small model that comes with kerasdiff draws; `kerasdiff demo` shows its world.
With --init the size is the picture's own unless --size is given. A mask is black where the
picture stays and white where it is painted anew. What made a PNG is stored inside it:
`kerasdiff info out.png` shows it.
"""

SHOWN = 10  # skipped names that `info` lists

# By name: the frameworks that raise them are not imported here.
OUT_OF_MEMORY = {"MemoryError", "ResourceExhaustedError", "XlaRuntimeError", "JaxRuntimeError"}

COMMANDS = ("generate", "info", "convert", "demo", "export", "train")


def main(arguments=None):
    """Runs the command line; returns the exit code: 0, or 2 after an error, told in one line."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] not in (*COMMANDS, "-h", "--help", "--version"):
        arguments.insert(0, "generate")  # the main job needs no command
    options = _parser().parse_args(arguments or ["--help"])
    try:
        options.run(options)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"kerasdiff: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        if OUT_OF_MEMORY.isdisjoint(kind.__name__ for kind in type(error).__mro__):
            raise
        print(
            "kerasdiff: error: out of memory; a smaller --size, --batch or --dtype bfloat16 needs "
            "less, and so does --split-guidance",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("kerasdiff: stopped", file=sys.stderr)
        return 130
    return 0


def generate(options):
    """`kerasdiff "a prompt"`: writes one PNG for each picture."""
    for name, given in (("--mask", options.mask), ("--strength", options.strength)):
        if given is not None and options.init is None:
            raise ValueError(f"{name} needs --init, the picture that it is about")
    targets = _targets(options.output, options.batch)
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    _import_quietly()
    from kerasdiff.stable_diffusion import StableDiffusion

    files = ("vae", "variant", "prediction_type")
    files = {name: value for name in files if (value := getattr(options, name)) is not None}
    model = StableDiffusion.from_preset(
        options.model, dtype=options.dtype, jit_compile=options.jit, **files
    )
    pictures, strength = _paint(model, options, seed)
    _save(pictures, targets, options, model, seed, strength)


def _import_quietly():
    """Imports the framework without its start-up log, which helps nobody and hides errors."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # it is written past Python, to the file descriptor
    try:
        from kerasdiff.backend import device, keep_programs

        keep_programs()  # before anything else: it is too late once a device is known
        device()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _open(preset, dtype):
    _import_quietly()
    from kerasdiff.stable_diffusion import StableDiffusion

    return StableDiffusion.from_preset(preset, dtype=dtype)


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
        "img_height": height,
        "img_width": width,
    }
    if options.init is None:
        return model.text_to_image(options.prompt, **settings), None
    strength = options.strength
    if options.mask is None:
        strength = 0.8 if strength is None else strength
        pictures = model.image_to_image(options.prompt, options.init, strength, **settings)
    else:
        strength = 1.0 if strength is None else strength
        pictures = model.inpaint(options.prompt, options.init, options.mask, strength, **settings)
    return pictures, strength


def info(options):
    """`kerasdiff info FILE`: what a checkpoint, or a PNG of ours, says about itself."""
    path = Path(options.path)
    if path.suffix.lower() == ".png":
        from kerasdiff import images

        print(images.read_parameters(path) or f"{path}: holds no parameters")
        return
    from kerasdiff.checkpoints.checkpoint import find_and_open

    checkpoint = find_and_open(options.path, variant=options.variant)
    config = checkpoint.config
    schedule, (height, width) = config.schedule, config.image_size
    print(f"{checkpoint.path}: family {config.family}, {width}x{height} pixels")
    print(f"predicts {schedule.prediction_type} (by {checkpoint.prediction_type_source})")
    print(f"sampler {schedule.sampler}")
    for part, tensors in checkpoint.parts.items():
        dtypes = ", ".join(sorted({str(entry.dtype) for entry in tensors.entries.values()}))
        count = sum(math.prod(shape) for shape in tensors.shapes.values())
        print(f"{part}: {len(tensors)} tensors, {count / 1e6:.1f} M numbers, {dtypes}")
    print(f"skipped: {len(checkpoint.skipped)} tensors")
    for name in checkpoint.skipped[:SHOWN]:
        print(f"  {name}")
    if len(checkpoint.skipped) > SHOWN:
        print("  ...")


def convert(options):
    """`kerasdiff convert IN OUT`: writes a checkpoint in another layout or dtype."""
    from kerasdiff.checkpoints.save import convert as convert_checkpoint

    convert_checkpoint(options.source, options.target, options.dtype, variant=options.variant)
    print(options.target)


def _save(pictures, targets, options, model, seed, strength):
    from kerasdiff import images

    sampler = options.sampler or model.config.schedule.sampler
    scale = model.config.guidance_scale if options.guidance is None else options.guidance
    for index, (target, picture) in enumerate(zip(targets, pictures, strict=True)):
        details = {
            "Steps": model.config.num_steps if options.steps is None else options.steps,
            "Sampler": images.WEB_UI_SAMPLERS.get(sampler, sampler),
            "Schedule type": options.schedule and options.schedule.capitalize(),
            "CFG scale": scale,
            "CFG rescale": options.guidance_rescale or None,
            "Seed": seed + index,
            "Size": f"{picture.shape[1]}x{picture.shape[0]}",
            "Model": Path(options.model).stem,
            "Denoising strength": strength,
            "Eta DDIM" if sampler == "ddim" else "Eta": options.eta,
            "Version": f"kerasdiff {kerasdiff.__version__}",
        }
        details = {name: value for name, value in details.items() if value is not None}
        text = images.parameters_text(options.prompt, options.negative, details)
        images.save_png(target, picture, text)
        print(f"{target}  seed {seed + index}")


def _targets(output, count):
    """A file for each picture, checked to be writable before any work is done."""
    from kerasdiff import images

    output = images.check_target(output)
    if not 1 <= count <= MAX_PICTURES:
        raise ValueError(f"--batch must be from 1 to {MAX_PICTURES}, not {count}")
    targets = [output]
    if count > 1:
        targets = [output.with_stem(f"{output.stem}-{number}") for number in range(1, count + 1)]
    return [images.check_target(target) for target in targets]


class _Parser(argparse.ArgumentParser):
    """Errors in one line like all others; --help shows the usage."""

    def error(self, message):
        self.exit(2, f"kerasdiff: error: {message}\n")


def _parser():
    parser = _Parser(
        prog="kerasdiff",
        description="Stable Diffusion: a prompt in, a PNG out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=kerasdiff.__version__)
    commands = parser.add_subparsers(metavar="command", required=True)
    add = commands.add_parser(
        "generate",
        help='make pictures of a prompt; "generate" itself may be left out',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.set_defaults(run=generate)
    _add_generate(add)

    add = commands.add_parser("info", help="what a checkpoint or PNG holds")
    add.set_defaults(run=info)
    add.add_argument("path", help="preset, file or folder; or a PNG made here")
    add.add_argument("--variant", help="of a folder's weight files, such as fp16")

    add = commands.add_parser("convert", help="write a checkpoint in another layout or dtype")
    add.set_defaults(run=convert)
    add.add_argument("source", help="preset, file or folder")
    add.add_argument("target", help="a .safetensors file (original layout) or a new folder")
    add.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    add.add_argument("--variant", help="of a folder's weight files, such as fp16")

    add_demo(commands, _import_quietly)
    add_export(commands, _open, _size)
    add_train(commands, _import_quietly)
    return parser


def _add_generate(add):
    add.add_argument("prompt", help="what to draw, at most 75 tokens")
    add.add_argument("-o", "--output", default="out.png", help="PNG to write (%(default)s)")
    add.add_argument("--model", default="demo", help="preset, file or folder (%(default)s)")
    add.add_argument("--negative", metavar="TEXT", help="what to steer away from")
    add.add_argument("--steps", type=int, help="sampling steps; the model's own unless given")
    add.add_argument("--guidance", type=float, help="1 is none; the model's own unless given")
    add.add_argument("--sampler", metavar="NAME", help="the checkpoint's own unless given")
    add.add_argument("--schedule", metavar="NAME", help="leading, linspace, trailing, karras, ...")
    add.add_argument("--seed", type=int, help="whole number; drawn and told unless given")
    add.add_argument("--size", type=_size, metavar="WxH", help="in pixels, such as 512x768")
    add.add_argument("--batch", type=int, default=1, help="pictures, seed, seed+1, ...")
    add.add_argument("--init", metavar="PICTURE", help="picture to start from")
    add.add_argument("--strength", type=float, help="how much of --init to redo, above 0 to 1")
    add.add_argument("--mask", metavar="PICTURE", help="where --init is painted anew (white)")
    add.add_argument("--eta", type=float, help="extra noise of ddim and tcd, 0 to 1")
    add.add_argument("--guidance-rescale", type=float, default=0.0, metavar="R", help="0 to 1")
    add.add_argument("--split-guidance", action="store_true", help="less memory, two calls")
    add.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    add.add_argument("--vae", metavar="PATH", help="another autoencoder")
    add.add_argument("--variant", help="of a folder's weight files, such as fp16")
    add.add_argument("--prediction-type", choices=("epsilon", "v_prediction", "sample"))
    add.add_argument("--jit", action=argparse.BooleanOptionalAction, default="auto", help="XLA")


def _size(text):
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, such as 512x768, not {text!r}")
    return int(height), int(width)


def _one_line(error):
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
