"""Picture files, PIL images and arrays to [-1, 1] and back, and masks.

Resizing and rounding follow diffusers' image processor, so that the same file gives the same
numbers.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 1 << 26
"""Files with more pixels than this (67 million) are refused before they are decoded."""


def read(path):
    """Opens a picture file, upright.

    Raises:
        ValueError: it is missing, no picture, damaged, or larger than `MAX_PIXELS`.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{path}: {image.width}x{image.height} pixels; at most {MAX_PIXELS} are read"
                )
            image.load()
            return in_eight_bits(ImageOps.exif_transpose(image), path)
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not a picture that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: {error}") from None
    except (OSError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: cannot be read as a picture: {reason}") from None


def in_eight_bits(image, name):
    """A PIL image with 16 bits a pixel as one with 8; Pillow itself would make most of it white.

    Raises:
        ValueError: its pixels are of 32 bits, and do not tell what is white in them.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    grey = np.asarray(image)
    # Some files of 16 bits, and all in older Pillows, open as mode I.
    is_16 = image.mode != "F" and grey.min() >= 0 and 255 < grey.max() < 2**16
    if image.mode in ("I", "F") and not is_16:
        raise ValueError(f"{name}: does not tell what is white (mode {image.mode}): save it as PNG")
    return Image.fromarray(np.round(grey / 257.0).astype("uint8"))


def size_of(image):
    """(height, width) of a picture given as PIL image, path or array."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    if isinstance(image, (str, Path)):
        return size_of(read(image))
    shape = np.shape(image)
    if len(shape) not in (2, 3, 4):
        raise ValueError(f"`image` must have shape (H, W, 3) or (B, H, W, 3), not {shape}")
    return shape[:2] if len(shape) < 4 else shape[1:3]


def to_float(image, height, width):
    """A picture, or a batch of them, as the image encoder takes it.

    Args:
        image: a PIL image, a path, a uint8 array in 0..255 or a float array in [0, 1], of shape
            (H, W, 3) or (B, H, W, 3); or a list of such pictures.
        height, width: wanted size in pixels; other sizes are resized (Lanczos), uint8 ones only.

    Returns:
        (B, height, width, 3) float32 in [-1, 1].
    """
    if isinstance(image, (list, tuple)):
        if not image:
            raise ValueError("`image` is an empty list; at least one picture is needed")
        return np.concatenate([to_float(each, height, width) for each in image])
    if isinstance(image, (str, Path)):
        image = read(image)
    if isinstance(image, Image.Image):
        image = _resized(in_eight_bits(image, "`image`").convert("RGB"), height, width)
        return _spread(np.asarray(image, "float32")[None] / 255.0)
    array = np.asarray(image)
    if array.ndim == 4:
        return to_float(list(array), height, width)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(f"`image` must have shape (H, W, 3) or (B, H, W, 3), not {array.shape}")
    if array.dtype == np.uint8:
        return to_float(Image.fromarray(array), height, width)
    return _spread(_unit_range(array, "image", height, width)[None])


def to_mask(mask, height, width):
    """A mask as 0.0 (keep) and 1.0 (paint anew), cut at one half.

    Args:
        mask: a greyscale PIL image, a path, or an array (H, W), (H, W, 1) or (H, W, 3): uint8 from
            0 to 255, floats in [0, 1], or bool.
        height, width: wanted size in pixels.

    Returns:
        (1, height, width, 1) float32.

    Raises:
        ValueError: it has colours: then it is a picture, not a mask. Or its numbers leave open what
            is white.
    """
    if isinstance(mask, (str, Path)):
        mask = read(mask)
    if isinstance(mask, Image.Image):
        mask = in_eight_bits(mask, "`mask`")
        _check_grey(np.asarray(mask.convert("RGB")) / 255.0)
        if mask.convert("L").getextrema()[1] == 1:
            raise ValueError("`mask` goes to 255, where 1 is black: give it as bool, or in floats")
        # Resized first, as diffusers does: of one bit, Pillow takes the nearest pixels.
        grey = np.asarray(_resized(mask, height, width).convert("L"), "float32") / 255.0
        return (grey >= 0.5).astype("float32")[None, ..., None]
    array = np.asarray(mask)
    array = array.astype("float32") if array.dtype == bool else array
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise ValueError(f"`mask` must have shape (H, W), (H, W, 1) or 3, not {np.shape(mask)}")
    if array.dtype == np.uint8:
        image = Image.fromarray(array if array.shape[-1] == 3 else array[..., 0])
        return to_mask(image, height, width)
    array = _unit_range(array, "mask", height, width)
    _check_grey(array)
    return (array[..., 0] >= 0.5).astype("float32")[None, ..., None]


def to_uint8(decoded):
    """The decoder's output, floats around [-1, 1], as uint8 pictures of the same shape."""
    unit = np.clip(np.asarray(decoded, "float32") * 0.5 + 0.5, 0.0, 1.0)
    return np.round(unit * 255.0).astype("uint8")


def overlay(pictures, image, mask):
    """Inpainted pictures with the original itself wherever the mask keeps it.

    What an autoencoder gives back is close to what went in, not equal to it, and depends a little
    on the rest of the picture: without this, kept parts change as well.

    Args:
        pictures: uint8 (B, H, W, 3), as `StableDiffusion.inpaint` gives them without overlay.
        image, mask: what it was given, see `to_float` and `to_mask`.

    Returns:
        uint8 (B, H, W, 3): equal to `image` where the mask is black, to `pictures` elsewhere.
    """
    height, width = np.shape(pictures)[1:3]
    kept, new = to_uint8(to_float(image, height, width)), to_mask(mask, height, width)
    return np.where(new > 0.0, pictures, kept)


def _resized(image, height, width):
    if (image.height, image.width) == (height, width):
        return image
    return image.resize((width, height), resample=Image.Resampling.LANCZOS)


def _unit_range(array, name, height, width):
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"`{name}` must be uint8 or float, not {array.dtype}")
    if array.shape[:2] != (height, width):
        raise ValueError(
            f"`{name}` is {array.shape[0]}x{array.shape[1]} and {height}x{width} is wanted; "
            "only uint8 arrays and PIL images are resized"
        )
    if not (np.isfinite(array).all() and array.min() >= 0.0 and array.max() <= 1.0):
        raise ValueError(f"`{name}` as floats must lie in [0, 1]")
    return array.astype("float32")


def _check_grey(unit):
    """Refuses (H, W, C) whose channels differ by more than 2 of 255."""
    if np.ptp(unit, axis=-1).max() > 2.5 / 255.0:
        raise ValueError(
            "`mask` has colours; a mask is black (keep), white (paint anew) or grey. "
            "Were the picture and the mask exchanged?"
        )


def _spread(unit):
    return 2.0 * unit - 1.0
