"""Writes pictures.npz: what diffusers makes of small checkpoints that both sides can open.

    python tests/golden/make_pictures.py     # needs torch, diffusers and transformers

The checkpoints' weights follow from seeds (`drawn_checkpoint`), so that only the pictures
are stored. `CASES` is what `tests/test_pictures.py` repeats without them.
"""

import tempfile
from pathlib import Path

import numpy as np

PROMPT, NEGATIVE = "ein schönes rotes Häuschen, 日本 🏠", "blurry, café"
SIZE = (32, 48)
SAMPLERS = (
    "ddim euler heun lms plms dpmpp_2m unipc dpmpp_2m_sde dpmpp_3m_sde euler_ancestral ddpm lcm tcd"
).split()
CASES = {
    **{f"sd1/{sampler}": ("sd1", sampler, 5, None, 1.0) for sampler in SAMPLERS},
    **{
        f"{family}/{sampler}": (family, sampler, 4, None, 1.0)
        for family in ("sd2-base", "sd2", "sdxl")
        for sampler in ("ddim", "dpmpp_2m")
    },
    **{
        f"sd1/{sampler}/image/{strength}": ("sd1", sampler, 6, "image", strength)
        for sampler in ("ddim", "plms", "heun", "dpmpp_2m_sde")
        for strength in (0.5, 1.0)
    },
    **{
        f"{family}/{sampler}/mask/{strength}": (family, sampler, 5, "mask", strength)
        for family in ("sd1", "sd1-inpaint")
        for sampler in ("ddim", "unipc")
        for strength in (0.6, 1.0)
    },
}


def photo():
    """A colourful uint8 picture (32, 48, 3)."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    waves = np.stack([np.sin(x / 5), np.cos(y / 7), np.sin((x + y) / 9)], axis=-1)
    return np.uint8(127.5 + 127.5 * waves)


def mask():
    """A uint8 mask (32, 48)."""
    white = np.zeros(SIZE, "uint8")
    white[SIZE[0] // 4 :, SIZE[1] // 3 :] = 255
    return white


def main():
    import sys

    sys.path.append(str(Path(__file__).parent.parent / "parity"))
    from drawn_checkpoint import write_checkpoint
    from test_pictures_live import theirs

    from kerasdiff.configs import TINY

    pictures = {}
    with tempfile.TemporaryDirectory() as folder:
        for family in TINY:
            write_checkpoint(Path(folder) / family, TINY[family])
        for name, case in CASES.items():
            pictures[name] = picture_by_diffusers(Path(folder), theirs, *case)
    np.savez_compressed(Path(__file__).with_name("pictures.npz"), **pictures)


def picture_by_diffusers(folder, theirs, family, sampler, steps, task, strength):
    """(1, 32, 48, 3) uint8."""
    import diffusers
    from PIL import Image

    kinds = {
        None: diffusers.StableDiffusionXLPipeline
        if family == "sdxl"
        else diffusers.StableDiffusionPipeline,
        "image": diffusers.StableDiffusionImg2ImgPipeline,
        "mask": diffusers.StableDiffusionInpaintPipeline,
    }
    extra = {"add_watermarker": False} if family == "sdxl" else {}
    pipeline = kinds[task].from_pretrained(folder / family, **extra)
    arguments = {"num_inference_steps": steps}
    if task is not None:
        arguments |= {"image": Image.fromarray(photo()), "strength": strength}
    if task == "mask":
        arguments["mask_image"] = Image.fromarray(mask())
    if task != "image":
        arguments |= {"height": SIZE[0], "width": SIZE[1]}
    return theirs(pipeline, sampler, **arguments).astype("uint8")


if __name__ == "__main__":
    main()
