"""Peak resident memory and seconds of pictures of SD 1.5's size, with ever less memory.

A float16 folder with random weights of the published sizes is written first (2.1 GB). Each case is
a process of its own, from its start to the picture; pages of mapped files count. "next" is a
second picture in the same process, and its peak that of both.

    python -m benchmarks.memory                          # 512x512 and decoding 2048x2048
    python -m benchmarks.memory --sizes 512 1024 --steps 4 --dtype bfloat16
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.checkpoint import write_checkpoint
from benchmarks.process import memory

CASES = (  # what needs least first
    {"memory": "low", "tile": 256},
    {"memory": "low"},
    {"memory": "medium"},
    {"memory": "high"},
)
TILES = (256, 512, None)


def measure(folder, case):
    """Makes two pictures, or decodes latents, and prints peak memory and seconds as JSON."""
    from kerasdiff.stable_diffusion import StableDiffusion

    begin, size, steps, marks = time.perf_counter(), case["size"], case["steps"], []
    options = {name: case[name] for name in ("memory", "tile", "dtype") if name in case}
    model = StableDiffusion.from_preset(folder, img_height=size, img_width=size, **options)
    for _ in range(2 if steps else 1):
        if steps:
            model.text_to_image("a red house by day", seed=1, num_steps=steps)
        else:
            model.decode(np.random.default_rng(0).standard_normal((1, size // 8, size // 8, 4)))
        end = time.perf_counter()
        marks.append((memory() / 2**30, end - begin))
        begin = end
    print(json.dumps(marks))


def row(folder, case):
    """A line of the table."""
    command = [sys.executable, "-m", "benchmarks.memory", "--one", json.dumps([folder, case])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    what = "picture" if case["steps"] else "decoding"
    name = f"| {what} {case['size']} | {case['memory']} | {case.get('tile') or 'none'} |"
    if done.returncode:
        return f"{name} failed | | | |"
    marks = json.loads(done.stdout.splitlines()[-1])
    cells = [f" {peak:.2f} | {seconds:.0f} |" for peak, seconds in marks] + ["  |  |"]
    return name + "".join(cells[:2])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[512], help="of pictures")
    parser.add_argument("--decode", nargs="*", type=int, default=[2048], help="sizes to decode")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--checkpoint", help="a folder to use, or to write where there is none")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return measure(*json.loads(options.one))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.checkpoint or str(Path(temporary) / "sd15")
        if not Path(folder).exists():
            write_checkpoint(folder)
        print(f"{options.steps} steps with guidance, {options.dtype}; GiB and seconds\n")
        print("| | memory | tile | peak | seconds | next: peak | seconds |")
        print("|---|---|---|---|---|---|---|")
        common = {"dtype": options.dtype}
        for size in options.sizes:
            for case in CASES:
                given = common | case | {"size": size, "steps": options.steps}
                print(row(folder, given), flush=True)
        for size in options.decode:
            for tile in TILES:
                given = common | {"memory": "low", "tile": tile, "size": size, "steps": 0}
                print(row(folder, given), flush=True)


if __name__ == "__main__":
    main()
