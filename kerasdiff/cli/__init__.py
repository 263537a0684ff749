"""The command line: a prompt in, a PNG out; and a look into checkpoint files."""

import argparse
import re
import sys

import kerasdiff
from kerasdiff.cli.files import add_files
from kerasdiff.cli.generate import EPILOG, add_generate
from kerasdiff.cli.start import add_model, import_quietly, open_model, picture_size
from kerasdiff.demo.command import add_demo
from kerasdiff.export.command import add_export
from kerasdiff.training.runs.command import add_train

# By name: the frameworks that raise them are not imported here.
OUT_OF_MEMORY = {"MemoryError", "ResourceExhaustedError"}
NEEDS_LESS = (
    "; a smaller --size, --batch or --dtype bfloat16 needs less, and so do --memory low, "
    "--tile 256 and --split-guidance"
)

# What a message calls by the name of Python's argument, where it is another one here.
FLAGS = {
    "unconditional_guidance_scale": "--guidance", "num_steps": "--steps", "batch_size": "--batch",
    "negative_prompt": "--negative", "img_height": "--size", "img_width": "--size",
    "image": "--init", "inpaint": "--init and --mask", "prompt": "the prompt",
}  # fmt: skip

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
        print(f"kerasdiff: error: {_with_flags(_one_line(error), options)}", file=sys.stderr)
        return 2
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        advice = NEEDS_LESS if options.command == "generate" else ""
        print(f"kerasdiff: error: out of memory{advice}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kerasdiff: stopped", file=sys.stderr)
        return 130
    return 0


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
    commands = parser.add_subparsers(metavar="command", required=True, dest="command")
    add_generate(commands)
    add_files(commands)
    add_demo(commands, import_quietly)
    add_export(commands, add_model, open_model, picture_size)
    add_train(commands, import_quietly)
    return parser


def _is_out_of_memory(error):
    # JAX has one kind of error for all that its compiler and programs run into.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(OUT_OF_MEMORY & kinds) or "RESOURCE_EXHAUSTED" in str(error)


def _with_flags(message, options):
    """The message with arguments called as on the command line."""
    if options.command == "train":  # keys of a TOML file are called as they are
        return message
    names = {name: f"--{name.replace('_', '-')}" for name in vars(options)} | FLAGS
    return re.sub(r"`(\w+)`", lambda found: names.get(found[1], found[0]), message)


def _one_line(error):
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
