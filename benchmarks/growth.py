"""How seconds and memory of a picture grow with its side, the batch and the steps.

Each case is a process of its own: a StableDiffusion of the published size of SD 1.5 with random
weights, compiled by a first picture of one step; the second picture counts.

    python -m benchmarks.growth
    python -m benchmarks.growth --sides 256 384 --batches 1 2 --steps 1 2
"""

import argparse
import json
import subprocess
import sys
import time

from benchmarks.process import memory


def measure(case):
    """Prints seconds, and peak memory of the process, of pictures as JSON."""
    from kerasdiff.configs import SD1
    from kerasdiff.stable_diffusion import StableDiffusion

    side = case["side"]
    model = StableDiffusion(side, side, checkpoint=SD1, dtype=case["dtype"])

    def paint(steps):
        model.text_to_image(
            "a red house by day", batch_size=case["batch"], num_steps=steps, seed=1, sampler="ddim"
        )

    paint(1)
    begin = time.perf_counter()
    paint(case["steps"])
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "peak": memory() / 2**30}))


def row(case):
    """A line of the table."""
    command = [sys.executable, "-m", "benchmarks.growth", "--one", json.dumps(case)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    name = f"| {case['side']} | {case['batch']} | {case['steps']} |"
    if done.returncode:
        return f"{name} failed | |"
    got = json.loads(done.stdout.splitlines()[-1])
    return f"{name} {got['seconds']:.1f} | {got['peak']:.2f} |"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", nargs="+", type=int, default=[256, 384, 512, 768, 1024])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return measure(json.loads(options.one))
    smallest, one = options.sides[0], options.steps[0]
    cases = [(side, 1, one) for side in options.sides]
    cases += [(smallest, batch, one) for batch in options.batches]
    cases += [(smallest, 1, steps) for steps in options.steps]
    print(f"SD 1.5 in size, {options.dtype}, guidance 7.5\n")
    print("| side | batch | steps | seconds | peak, GiB |\n|---|---|---|---|---|")
    for side, batch, steps in dict.fromkeys(cases):
        given = {"side": side, "batch": batch, "steps": steps, "dtype": options.dtype}
        print(row(given), flush=True)


if __name__ == "__main__":
    main()
