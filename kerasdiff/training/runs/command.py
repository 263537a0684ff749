"""`kerasdiff train config.toml`."""

import argparse

from kerasdiff.training.runs.settings import read_settings

EXAMPLE = """\
example:
  kind = "diffusion"              # or "autoencoder"
  model = "sd-v1-5"               # preset, file or folder
  output = "my-model"             # a folder for diffusers, or a .safetensors file
  train = ["unet.*attn2"]         # patterns of names; "unet" is all of it
  steps = 2000
  batch_size = 4
  dtype = "mixed_bfloat16"
  remat = true                    # less memory, more time

  [data]
  folder = "pictures"             # oak.png with oak.txt beside it, or metadata.jsonl
  size = 512
  buckets = true                  # keep aspect ratios
  caption_dropout = 0.1

  [optimizer]
  name = "adamw"
  rate = 1e-5
  warmup = 100
  schedule = "cosine"
  ema = 0.999
  accumulate = 2

  [samples]
  prompts = ["an oak in the snow", "an oak at dawn"]
  every = 500

recipe = "sd1" is the published one of Stable Diffusion 1.x; keys of yours override its own.
model = "sd1" is that architecture from nothing, with vae = "sd-vae-ft-mse", say, and
train = ["unet", "text_encoder"].
On the JAX backend (KERAS_BACKEND=jax) all devices of a machine share each batch, and, with

  kerasdiff train config.toml --processes 2 --index 0 --coordinator 10.0.0.1:7000
  kerasdiff train config.toml --processes 2 --index 1 --coordinator 10.0.0.1:7000

those of several machines; process 0 writes the result. A run that was cut goes on by the same
command: its state is in my-model-training. All keys: kerasdiff/training/runs/, settings.py and
sections.py.
"""


def add_train(commands, import_quietly):
    """Adds the command to a parser's sub-commands.

    Args:
        commands: what `add_subparsers` gives.
        import_quietly: function that imports the framework.
    """
    add = commands.add_parser(
        "train",
        help="train or fine-tune as a TOML file says",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("config", help="TOML file")
    add.add_argument("--steps", type=int, help="instead of the file's")
    add.add_argument(
        "--processes", type=int, default=1, metavar="N", help="on several machines: how many"
    )
    add.add_argument("--index", type=int, default=0, metavar="I", help="which one this is, from 0")
    add.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, free there")
    add.add_argument(
        "--dry-run", action="store_true", help="check settings, model and data; train nothing"
    )
    add.set_defaults(run=lambda options: train(options, import_quietly))


def train(options, import_quietly):
    """Runs the command."""
    settings = read_settings(options.config, steps=options.steps)
    import_quietly(finds_device=options.processes == 1)
    import keras

    from kerasdiff.backend import check_trains
    from kerasdiff.training.devices import distribute
    from kerasdiff.training.runs import run

    check_trains()
    part = (options.index, options.processes)
    if options.processes > 1 or keras.backend.backend() == "jax":
        distribute(options.coordinator, options.processes, options.index)
    plan = run.prepare(settings)
    print("\n".join(plan.describe()))
    if not options.dry_run:
        run.train(plan, part=part)
        print(settings.output)
