"""What it gains to compute less, and what it costs: seconds, prompt score, difference.

Each row computes less in one way that is off by default. Rows take turns at the same prompts and
seeds, medians count; "score" is the share of right answers in the exam of the demo model's pictures
(`kerasdiff.demo.exam`), "difference" what the picture without savings has otherwise, of 255.

    python -m benchmarks.fewer_operations                                  # the demo model
    python -m benchmarks.fewer_operations --model full --steps 10          # SD 1.5 in size
    python -m benchmarks.fewer_operations --cases "a half of the tokens merged"
"""

import argparse
import statistics
import sys
import time

import numpy as np

from kerasdiff.configs import SD1
from kerasdiff.demo.exam import BATCH, prompts
from kerasdiff.demo.judge import score, share
from kerasdiff.stable_diffusion import StableDiffusion

EVERYWHERE, MIDDLE = (0.0, np.inf), (1.0, 10.0)
CASES = {  # name: share of merged tokens, cache interval, sigmas with guidance
    "everything": (0.0, 1, EVERYWHERE),
    "deep features every 2nd step": (0.0, 2, EVERYWHERE),
    "deep features every 3rd step": (0.0, 3, EVERYWHERE),
    "deep features every 5th step": (0.0, 5, EVERYWHERE),
    "guidance for sigma 1 to 10": (0.0, 1, MIDDLE),
    "a half of the tokens merged": (0.5, 1, EVERYWHERE),
    "every 4th step, guidance for sigma 1 to 10": (0.0, 4, MIDDLE),
}


def painter(models, case, options):
    """A function of prompts and a seed that makes a case's pictures."""
    ratio, cache_interval, guidance_interval = case

    def paint(texts, seed):
        return models[ratio].text_to_image(
            texts, seed=seed, num_steps=options.steps, sampler=options.sampler,
            unconditional_guidance_scale=options.guidance, cache_interval=cache_interval,
            guidance_interval=guidance_interval, progress=False,
        )  # fmt: skip

    return paint


def make_model(options, ratio):
    if options.model == "full":
        return StableDiffusion(options.side, options.side, checkpoint=SD1, token_merging=ratio)
    return StableDiffusion.from_preset(options.model, token_merging=ratio)


def measure(painters, asked, batch):
    """Name to seconds of each batch, and name to pictures; a first batch compiles."""
    seconds, pictures = {name: [] for name in painters}, {name: [] for name in painters}
    texts = [text for _, text in asked]
    for paint in painters.values():
        paint(texts[:batch], 0)
    for at in range(0, len(texts), batch):
        for name, paint in painters.items():
            begin = time.perf_counter()
            pictures[name].append(paint(texts[at : at + batch], at))
            seconds[name].append(time.perf_counter() - begin)
            print(f"pictures {at + 1} to {min(at + batch, len(texts))}, {name}: "
                  f"{seconds[name][-1]:.1f} s", file=sys.stderr)  # fmt: skip
    return seconds, {name: np.concatenate(made) for name, made in pictures.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="like the demo model, or full")
    parser.add_argument("--side", type=int, default=512, help="of full's pictures, in pixels")
    parser.add_argument("--count", type=int, help="pictures (500; full: 1)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, metavar="NAME",
                        help=f"rows beside the first, some of: {'; '.join(CASES)}")  # fmt: skip
    options = parser.parse_args()
    full = options.model == "full"
    batch, count = (1, options.count or 1) if full else (BATCH, options.count or 500)
    cases = {name: CASES[name] for name in CASES if name in ("everything", *options.cases)}
    models = {ratio: make_model(options, ratio) for ratio in {case[0] for case in cases.values()}}
    painters = {name: painter(models, case, options) for name, case in cases.items()}
    asked = prompts(count)
    seconds, pictures = measure(painters, asked, batch)
    exact = np.float32(pictures["everything"])
    whole = statistics.median(seconds["everything"])
    print(f"{options.model}, {count} pictures, {options.steps} steps of {options.sampler}\n")
    print("| computed | seconds a picture | times faster | score, % | difference |")
    print("|---|---|---|---|---|")
    for name, taken in seconds.items():
        found = f"| {name} | {statistics.median(taken) / batch:.3f} "
        found += f"| {whole / statistics.median(taken):.2f} "
        if full:  # of random weights
            print(f"{found}| - | - |")
        else:
            difference = np.abs(pictures[name] - exact).mean()
            right = 100 * share(score(pictures[name], [scene for scene, _ in asked]))
            print(f"{found}| {right:.1f} | {difference:.2f} |")


if __name__ == "__main__":
    main()
