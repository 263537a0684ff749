"""`kerasdiff info` and `kerasdiff convert`: a look into checkpoints, and other forms of them."""

import argparse
import math
from pathlib import Path

from kerasdiff import images
from kerasdiff.cli.start import add_files_of, files_of, import_quietly

INFO = """\
examples:
  kerasdiff info model.safetensors
  kerasdiff info model-folder --variant fp16
  kerasdiff info out.png                            # how it was made
"""
CONVERT = """\
examples:
  kerasdiff convert model.ckpt model.safetensors --dtype float16
  kerasdiff convert model.safetensors model-folder  # for diffusers
  kerasdiff convert sd-v1-5 model-folder --vae vae.safetensors
"""
SHOWN = 10  # skipped names that `info` lists


def add_files(commands):
    """Adds both commands to a parser's sub-commands."""
    add = _add(commands, "info", "what a checkpoint or PNG holds", INFO)
    add.set_defaults(run=info)
    add.add_argument("path", help="preset (downloaded first), file or folder; or a PNG made here")
    add_files_of(add)

    add = _add(commands, "convert", "write a checkpoint in another layout or dtype", CONVERT)
    add.set_defaults(run=convert)
    add.add_argument("source", help="preset, file or folder")
    add.add_argument("target", help="a .safetensors file (original layout) or a new folder")
    add.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="each tensor's own unless given"
    )
    add_files_of(add)


def _add(commands, name, what, examples):
    return commands.add_parser(
        name, help=what, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def info(options):
    """`kerasdiff info FILE`: what a checkpoint, or a PNG of ours, says about itself."""
    path = Path(options.path)
    if path.suffix.lower() == ".png":
        print(images.read_parameters(path) or f"{path}: holds no parameters")
        return
    from kerasdiff.checkpoints.checkpoint import find_and_open

    checkpoint = find_and_open(options.path, **files_of(options))
    config = checkpoint.config
    schedule, (height, width) = config.schedule, config.image_size
    print(f"{checkpoint.path}: family {config.family}, {width}x{height} pixels")
    print(f"predicts {schedule.prediction_type} (by {checkpoint.prediction_type_source})")
    print(f"sampler {schedule.sampler}")
    for part, tensors in checkpoint.parts.items():
        dtypes = ", ".join(sorted({str(entry.dtype) for entry in tensors.entries.values()}))
        count = sum(math.prod(shape) for shape in tensors.shapes.values())
        print(f"{part}: {len(tensors)} tensors, {count / 1e6:.1f} M numbers, {dtypes}")
    for model, file in checkpoint.missing.items():
        print(f"{model}: missing, there is no {file.name}")
    print(f"skipped: {len(checkpoint.skipped)} tensors")
    for name in checkpoint.skipped[:SHOWN]:
        print(f"  {name}")
    if len(checkpoint.skipped) > SHOWN:
        print("  ...")


def convert(options):
    """`kerasdiff convert IN OUT`: writes a checkpoint in another layout or dtype."""
    import_quietly()  # what is written is held against the networks first
    from kerasdiff.checkpoints.save import convert as convert_checkpoint

    convert_checkpoint(options.source, options.target, options.dtype, **files_of(options))
    print(options.target)
