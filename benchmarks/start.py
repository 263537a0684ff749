"""From `from_preset` on a single file of SD 1.5's size to the end of the first step.

A float16 file with random weights is written first (2.1 GB). Each case is a process of its own,
with an empty folder for kept programs, or that of the run before. "overhead" is all seconds as a
multiple of what must be: compiling and running the first step, and reading the file once.

    python -m benchmarks.start                            # float32 and bfloat16, 512x512
    python -m benchmarks.start --dtypes float32 --side 256
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def read_once(path):
    """Seconds to read a file, from the file cache where it lies there."""
    begin = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        piece = bytearray(1 << 24)
        while file.readinto(piece):
            pass
    return time.perf_counter() - begin


def measure(path, dtype, side):
    """Prints the seconds at which things are ready as JSON."""
    from kerasdiff.stable_diffusion import StableDiffusion

    reading, marks = read_once(path), {}
    begin = time.perf_counter()

    def mark(name):
        marks[name] = time.perf_counter() - begin

    model = StableDiffusion.from_preset(path, dtype=dtype, img_height=side, img_width=side)
    context = model.encode_text("a red house by day")
    mark("text encoded")
    assert model.diffusion_model.built
    mark("loaded")
    model.generate_image(
        context, seed=1, num_steps=2, sampler="ddim", progress=False,
        callback=lambda step, total, preview: mark(f"step {step}"),
    )  # fmt: skip
    print(json.dumps({"reading": reading} | marks))


def write_file(path):
    """The random weights of `benchmarks.checkpoint` as a single file."""
    from benchmarks.checkpoint import write_checkpoint
    from kerasdiff.checkpoints.save import convert

    folder = path.with_suffix("")
    write_checkpoint(folder)
    convert(folder, path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--side", type=int, default=512, help="of the picture, in pixels")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return measure(*options.one, options.side)
    given = dict(os.environ)  # before writing the file makes a model, which names its own folder
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "sd15.safetensors"
        write_file(path)
        print("| | text encoded, s | UNet loaded | first step | second step | overhead |")
        print("|---|---|---|---|---|---|")
        for dtype in options.dtypes:
            environment = given | {"KERASDIFF_HOME": str(Path(temporary) / dtype)}
            for programs in ("compiled", "kept programs"):
                command = [sys.executable, "-m", "benchmarks.start", "--one", str(path), dtype]
                done = subprocess.run(
                    [*command, "--side", str(options.side)], check=True, env=environment,
                    stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                got = json.loads(done.stdout.splitlines()[-1])
                needed = got["step 1"] - got["loaded"] + got["reading"]
                cells = ("text encoded", "loaded", "step 1", "step 2")
                seconds = " | ".join(f"{got[name]:.1f}" for name in cells)
                print(f"| {dtype}, {programs} | {seconds} | {got['step 1'] / needed:.2f} |")


if __name__ == "__main__":
    main()
