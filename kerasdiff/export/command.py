"""`kerasdiff export FOLDER`."""

import argparse

from kerasdiff.export import FORMATS, export

EXAMPLE = """\
examples:
  kerasdiff export sampler                        # the demo model, all tasks, 128x128
  kerasdiff export sampler --model sd-v1-5 --size 512x768 --tasks text_to_image
  kerasdiff export sampler --model sd-v1-5 --free-size --sampler dpmpp_2m --schedule karras
"""


def add_export(commands, import_quietly, size):
    """Adds the command to a parser's sub-commands.

    Args:
        commands: what `add_subparsers` gives.
        import_quietly: function that imports the framework.
        size: what reads WxH.
    """
    add = commands.add_parser(
        "export",
        help="write the whole sampler as files that run without kerasdiff",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.set_defaults(run=lambda options: _export(options, import_quietly))
    add.add_argument("path", help="new folder")
    add.add_argument("--model", default="demo", help="preset, file or folder (%(default)s)")
    add.add_argument("--format", default="tf_saved_model", choices=FORMATS, help="(%(default)s)")
    add.add_argument("--tasks", nargs="+", metavar="TASK", help="some of the three (all)")
    add.add_argument(
        "--size", type=size, metavar="WxH", help="pixels; the model's own unless given"
    )
    add.add_argument("--batch", type=int, default=1, help="pictures at once (%(default)s)")
    add.add_argument("--free-size", action="store_true", help="any size and batch, without XLA")
    add.add_argument("--sampler", metavar="NAME", help="the checkpoint's own unless given")
    add.add_argument("--schedule", metavar="NAME", help="leading, linspace, trailing, karras, ...")
    add.add_argument("--eta", type=float, help="extra noise of ddim and tcd, 0 to 1")
    add.add_argument("--max-steps", type=int, default=100, help="(%(default)s)")
    add.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    add.add_argument("--jit", action=argparse.BooleanOptionalAction, default="auto", help="XLA")


def _export(options, import_quietly):
    import_quietly()
    from kerasdiff.stable_diffusion import StableDiffusion

    model = StableDiffusion.from_preset(options.model, dtype=options.dtype)
    height, width = options.size or (model.img_height, model.img_width)
    given = {
        "tasks": options.tasks,
        "sampler": options.sampler,
        "schedule": options.schedule,
        "eta": options.eta,
    }
    given = {name: value for name, value in given.items() if value is not None}
    path = export(
        model, options.path, options.format, img_height=height, img_width=width,
        batch_size=options.batch, free_size=options.free_size, jit_compile=options.jit,
        max_steps=options.max_steps, **given,
    )  # fmt: skip
    print(path)
