"""`kerasdiff export FOLDER`."""

import argparse

from kerasdiff.export import FORMATS, TASKS

EXAMPLE = """\
examples:
  kerasdiff export sampler                        # the demo model, all tasks, 128x128
  kerasdiff export sampler --model sd-v1-5 --size 512x768 --tasks text_to_image
  kerasdiff export sampler --model sd-v1-5 --free-size --sampler dpmpp_2m --schedule karras
  kerasdiff export parts --format litert --weights int8
"""


def add_export(commands, add_model, open_model, size):
    """Adds the command to a parser's sub-commands.

    Args:
        commands: what `add_subparsers` gives.
        add_model: function that adds the options of what model is meant.
        open_model: function of those options that gives a `StableDiffusion`.
        size: what reads WxH.
    """
    add = commands.add_parser(
        "export",
        help="write the whole sampler as files that run without kerasdiff",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.set_defaults(run=lambda options: _export(options, open_model))
    add.add_argument("path", help="new folder")
    add_model(add)
    add.add_argument("--format", default="tf_saved_model", choices=FORMATS, help="(%(default)s)")
    add.add_argument("--size", type=size, metavar="WxH", help="pixels; the model's own")
    add.add_argument("--sampler", metavar="NAME", help="the checkpoint's own unless given")
    add.add_argument("--schedule", metavar="NAME", help="leading, linspace, trailing, karras, ...")
    add.add_argument("--max-steps", type=int, help="100, or 50 for parts")
    whole = add.add_argument_group("tf_saved_model")
    whole.add_argument("--tasks", nargs="+", metavar="TASK", help=" ".join(TASKS))
    whole.add_argument("--batch", dest="batch_size", type=int, help="pictures at once (1)")
    whole.add_argument("--free-size", action="store_true", help="any size and batch, without XLA")
    whole.add_argument("--eta", type=float, help="extra noise of ddim and tcd, 0 to 1")
    whole.add_argument(
        "--jit", dest="jit_compile", action=argparse.BooleanOptionalAction,
        help="XLA inside (the default); a server must be started for it, or take --no-jit",
    )  # fmt: skip
    single = add.add_argument_group("litert, onnx, openvino, coreml: one file for each network")
    single.add_argument(
        "--weights", help="float32 (the default), float16 (not onnx) or int8 (litert)"
    )


FLAGS = {"batch_size": "--batch", "jit_compile": "--jit or --no-jit"}
GIVEN = ("sampler", "schedule", "max_steps", "tasks", "batch_size", "eta", "jit_compile", "weights")


def _export(options, open_model):
    given = {name: getattr(options, name) for name in GIVEN if getattr(options, name) is not None}
    given |= {"free_size": True} if options.free_size else {}
    single = options.format != "tf_saved_model"
    strange = set(given) & (
        {"tasks", "batch_size", "free_size", "eta", "jit_compile"} if single else {"weights"}
    )
    if strange:
        flags = sorted(FLAGS.get(name, f"--{name.replace('_', '-')}") for name in strange)
        raise ValueError(f"--format {options.format} takes no {', '.join(flags)}")
    if options.free_size and (options.size or "batch_size" in given):
        raise ValueError("--free-size is for any size and batch: it takes no --size or --batch")
    model = open_model(options)
    height, width = options.size or (None, None)
    path = model.export(options.path, options.format, img_height=height, img_width=width, **given)
    print(path)
