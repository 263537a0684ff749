"""A picture from the command line to the PNG, beside diffusers, in one run.

Both read the same float16 folder with random weights of SD 1.5's size, written first (2.1 GB), and
make the picture in a process of their own: start, loading, compiling and saving count. Our first
picture, for which everything is compiled, has a row of its own; later ones take the programs that
it kept. They take turns with diffusers' and medians count; the checkpoint is in the file cache.

    python -m benchmarks.picture                         # 20 steps, 512x512, bfloat16
    python -m benchmarks.picture --steps 4 --side 256 --repeats 1
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.checkpoint import write_checkpoint

PROMPT = "a red house by day"
OURS = "import sys; from kerasdiff.cli import main; sys.exit(main())"
DIFFUSERS = """
import sys
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

folder, target, dtype, prompt, steps, side = sys.argv[1:]
pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=getattr(torch, dtype))
pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
pipeline(
    prompt, num_inference_steps=int(steps), height=int(side), width=int(side),
    generator=torch.Generator().manual_seed(1),
).images[0].save(target)
"""


def commands(folder, target, options):
    """Name to command line."""
    steps, side = str(options.steps), str(options.side)
    ours = [sys.executable, "-c", OURS, PROMPT, "--model", folder, "-o", target]
    ours += ["--dtype", options.dtype, "--sampler", "dpmpp_2m", "--steps", steps]
    ours += ["--size", f"{side}x{side}", "--seed", "1", *options.ours.split()]
    theirs = [sys.executable, "-c", DIFFUSERS, folder, target]
    return {
        "kerasdiff": ours,
        "diffusers": [*theirs, options.dtype, PROMPT, steps, side],
    }


def measure(command, home):
    """Seconds and peak resident memory in GiB of a process; programs are kept in `home`."""
    begin, environment = time.perf_counter(), os.environ | {"KERASDIFF_HOME": home}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[:4]} failed")
    return time.perf_counter() - begin, usage.ru_maxrss / 2**20


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ours", default="", help="more options of our command line, in quotes")
    parser.add_argument("--checkpoint", help="a folder to use, or to write where there is none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.checkpoint or str(Path(temporary) / "sd15")
        if not Path(folder).exists():
            write_checkpoint(folder)
        contenders = commands(folder, str(Path(temporary) / "picture.png"), options)
        found = {"kerasdiff, first": [measure(contenders["kerasdiff"], temporary)]}
        found |= {name: [] for name in contenders}
        for _ in range(options.repeats):
            for name, command in contenders.items():
                found[name].append(measure(command, temporary))
    print(f"{options.steps} steps of dpmpp_2m, {options.side} pixels, {options.dtype}\n")
    print("| | seconds | peak, GiB |\n|---|---|---|")
    for name, runs in found.items():
        seconds, memory = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"| {name} | {seconds:.1f} | {memory:.2f} |")


if __name__ == "__main__":
    main()
