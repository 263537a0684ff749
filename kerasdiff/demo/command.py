"""`kerasdiff demo`: what the demo model draws when nobody chooses, none left out."""

import argparse

import numpy as np

from kerasdiff import images, progress
from kerasdiff.demo.captions import caption
from kerasdiff.demo.scenes import MIXTURE, random_scene
from kerasdiff.options import MAX_PICTURES

BATCH, COLUMNS = 12, 6
EXAMPLES = """\
examples:
  kerasdiff demo
  kerasdiff demo --count 48 --seed 7 -o many.png
"""


def add_demo(commands, import_quietly):
    """Adds the command to a parser's sub-commands.

    Args:
        commands: what `add_subparsers` gives.
        import_quietly: function that imports the framework.
    """
    add = commands.add_parser(
        "demo",
        help="a grid of pictures by the model that comes with us",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.set_defaults(run=lambda options: demo(options, import_quietly))
    add.add_argument("-o", "--output", default="demo.png", help="PNG to write (%(default)s)")
    add.add_argument("--count", type=int, default=12, help="pictures (%(default)s)")
    add.add_argument("--seed", type=int, default=1, help="of captions and noise (%(default)s)")
    add.add_argument("--model", default="demo", help="preset, file or folder (%(default)s)")


def demo(options, import_quietly):
    """Writes one PNG with a picture for each of some random captions, and prints the captions."""
    if not 1 <= options.count <= MAX_PICTURES:
        raise ValueError(f"--count must be from 1 to {MAX_PICTURES}, not {options.count}")
    target = images.check_target(options.output)
    import_quietly()
    from kerasdiff.stable_diffusion import StableDiffusion

    captions = random_captions(options.count, options.seed)
    # Compiling with XLA would take longer than all of the drawing.
    model = StableDiffusion.from_preset(options.model, jit_compile=False)
    pictures = draw(model, captions, options.seed)
    images.save_png(target, images.grid(pictures, captions, columns=COLUMNS), "\n".join(captions))
    print(*captions, target, sep="\n")


def random_captions(count, seed):
    """Texts that the demo model knows all the words of: each kind of scene in turn."""
    rng, kinds = np.random.default_rng(seed), list(MIXTURE)
    scenes = (random_scene(rng, held_out=None, kind=kinds[i % len(kinds)]) for i in range(count))
    return [caption(scene, rng) for scene in scenes]


def draw(model, captions, seed):
    """A picture of each caption, uint8 (B, H, W, 3); picture i has `seed + i`."""
    pictures = []
    with progress.bar(len(captions), "picture") as bar:
        for at in range(0, len(captions), BATCH):
            texts = captions[at : at + BATCH]
            pictures.append(model.text_to_image(texts, seed=seed + at, progress=False))
            bar.update(len(texts))
    return np.concatenate(pictures)
