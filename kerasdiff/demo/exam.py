"""What the demo model can do: pictures of prompts that training never saw, judged and counted.

    python -m kerasdiff.demo.exam --steps 4 8 10 20 50 --guidance 1 3 5

Half of the prompts hold combinations of words that were kept out of training.
"""

import argparse
import time

import numpy as np

from kerasdiff.demo.captions import caption
from kerasdiff.demo.judge import score, table
from kerasdiff.demo.scenes import random_scene
from kerasdiff.stable_diffusion import StableDiffusion

BATCH = 20


def prompts(count, seed=1000):
    """Scenes and their captions, half of them held-out combinations.

    Returns:
        A list of (scene, caption).
    """
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, held_out=i % 2 == 1) for i in range(count)]
    return [(scene, caption(scene, rng)) for scene in scenes]


def examine(model, count=500, num_steps=10, guidance=3.0, seed=0, **options):
    """Draws a picture for each prompt and judges it; `options` are those of `text_to_image`.

    Returns:
        The score, see `judge.score`, the pictures (count, H, W, 3) uint8, and seconds a picture.
    """
    asked, pictures = prompts(count), []
    begin = time.perf_counter()
    for at in range(0, count, BATCH):
        texts = [text for _, text in asked[at : at + BATCH]]
        pictures.append(
            model.text_to_image(
                texts, num_steps=num_steps, unconditional_guidance_scale=guidance,
                seed=seed + at, **options,
            )
        )  # fmt: skip
    seconds = (time.perf_counter() - begin) / count
    pictures = np.concatenate(pictures)
    return score(pictures, [scene for scene, _ in asked]), pictures, seconds


def main():
    """Prints a table for each number of steps and guidance scale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="a preset, folder or file")
    parser.add_argument("--count", type=int, default=500, help="prompts")
    parser.add_argument("--steps", type=int, nargs="+", default=[10])
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0])
    parser.add_argument("--sampler")
    given = parser.parse_args()
    model = StableDiffusion.from_preset(given.model)
    for guidance in given.guidance:  # compiles, before seconds count
        model.text_to_image([""] * BATCH, num_steps=1, unconditional_guidance_scale=guidance)
    columns = {}
    for steps in given.steps:
        for guidance in given.guidance:
            result, _, seconds = examine(model, given.count, steps, guidance, sampler=given.sampler)
            columns[f"{steps}, {guidance:g}"] = result, seconds
            print(f"{steps} steps, guidance {guidance:g}, {seconds:.2f} s a picture", flush=True)
            print(table(result), flush=True)
    print(matrix(columns, given.count))


def matrix(columns, count):
    """Scores side by side as a table in Markdown: percent right, and seconds a picture.

    Args:
        columns: heading to (score, seconds).
        count: how many prompts were judged.
    """
    lines = [
        f"| {count} prompts; steps, guidance | {' | '.join(columns)} |",
        "|---|" + "---:|" * len(columns),
    ]
    first, _ = next(iter(columns.values()))
    for category, (_, counted) in first.items():
        shares = [score[category][0] / counted for score, _ in columns.values()]
        cells = " | ".join(f"{100.0 * share:.0f}" for share in shares)
        lines.append(f"| {category} ({counted}) | {cells} |")
    cells = " | ".join(f"{seconds:.2f}" for _, seconds in columns.values())
    return "\n".join([*lines, f"| seconds a picture | {cells} |"])


if __name__ == "__main__":
    main()
