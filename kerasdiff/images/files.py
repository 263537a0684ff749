"""PNG files, with the text in which Stable Diffusion web UIs tell how a picture was made; GIFs."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from kerasdiff.files import whole_file
from kerasdiff.images.arrays import read

# What web UIs call our samplers, for the PNG's text.
WEB_UI_SAMPLERS = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "dpm2": "DPM2",
    "lms": "LMS",
    "plms": "PLMS",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "unipc": "UniPC",
    "lcm": "LCM",
    "tcd": "TCD",
}


def check_target(path):
    """The `Path` of a PNG to write, refused with a ValueError where that cannot be."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"`output` {path}: the name must end in .png")
    if not path.parent.is_dir():
        raise ValueError(f"`output` {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"`output` {path}: the folder {path.parent} cannot be written to")
    if path.is_dir():
        raise ValueError(f"`output` {path}: that is a folder")
    return path


def save_png(path, image, parameters=None):
    """Writes a picture; the file appears whole or not at all.

    Args:
        path: of the file; its folder must exist.
        image: uint8 (H, W, 3), or a PIL image.
        parameters: text for the `parameters` chunk, see `parameters_text`.

    Raises:
        OSError: the place cannot be written to, named with its reason; nothing is left behind.
    """
    info = PngImagePlugin.PngInfo()
    if parameters:
        (info.add_text if parameters.isascii() else info.add_itxt)("parameters", parameters)
    with whole_file(path) as file:
        to_pil(image).save(file, format="PNG", pnginfo=info)


def save_gif(path, pictures, frames_per_second=8):
    """Writes pictures (N, H, W, 3), uint8, as an animation without end; whole or not at all.

    Raises:
        OSError: as of `save_png`.
    """
    first, *others = [to_pil(picture).quantize() for picture in pictures]
    duration = round(1000 / frames_per_second)  # milliseconds
    with whole_file(path) as file:
        first.save(
            file, format="GIF", save_all=True, append_images=others, duration=duration, loop=0
        )


def to_pil(image):
    """A PIL image of a uint8 array (H, W, 3), or of itself."""
    if isinstance(image, Image.Image):
        return image
    array = np.asarray(image)
    if array.dtype != "uint8" or array.ndim not in (2, 3):
        raise ValueError(
            f"a picture must be uint8 (H, W, 3), not {array.dtype} {array.shape}: "
            "`images.to_uint8` makes it of floats in [-1, 1]"
        )
    return Image.fromarray(array)


def parameters_text(prompt, negative_prompt, settings):
    """How a picture was made, as web UIs write it: prompt, negative prompt, one line of settings.

    Args:
        negative_prompt: or None.
        settings: by the names that are written, such as {"Steps": 20, "CFG scale": 7.5}.
    """
    lines = [prompt]
    if negative_prompt:
        lines.append(f"Negative prompt: {negative_prompt}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items()))
    return "\n".join(lines)


def read_parameters(path):
    """The `parameters` text of a PNG file, or None."""
    read(path)  # says what is wrong with the file, if anything
    with Image.open(path) as image:
        return getattr(image, "text", {}).get("parameters")


def _quoted(value):
    text = str(value)
    return (
        '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        if set(text) & set(',:"\n')
        else text
    )
