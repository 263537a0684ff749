"""What a source of pictures is, and what happens when one of its pictures turns out to be broken.

A source is a sequence of (picture, caption) with random access: the same picture for the same
number in every process, so that a batch is a function of its number alone.
"""

import contextlib
import hashlib
import json
import operator
import warnings

import numpy as np
from PIL import Image, ImageOps

from kerasdiff import images
from kerasdiff.training.data.buckets import nearest_bucket

MAX_CAPTION = 1 << 16
"""Longer texts, in bytes, are no captions."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: values that exchange height and width


class PictureSource:
    """Pictures with captions by number; a base class for where they come from.

    `source[i]` is (picture, caption): uint8 (H, W, 3) of size `source.sizes[i]`, and a string.

    A picture that cannot be read when its turn comes does not end hours of training: it is entered
    in `skipped`, a warning names it, and the next readable picture of the same size, with that
    picture's caption, takes its place from then on; if no other has this size, the next readable
    one at all, cropped to it. In other processes the same one takes its place. More than one in ten
    that are broken (and more than one) are an error.

    Args:
        names: of the items, all different.
        sizes: (height, width) of each, as it will be given.
        skipped: name -> reason, of what was left out before.

    Attributes:
        sizes: list of (height, width), one an item.
        captions, bytes: lists that a class of its own makes: texts, and sizes of encoded pictures.
        skipped: dict of names and reasons: what was left out, and items found broken by now.
    """

    def __init__(self, names, sizes, skipped):
        self.names, self.sizes, self.skipped = names, sizes, skipped
        self._broken = {}

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        i = operator.index(i)
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        for j in self._candidates(i):
            if self.names[j] in self._broken:
                continue
            try:
                picture, caption = self.read(j)
            except ValueError as error:
                self._leave_out(self.names[j], str(error))
            else:
                return fitted(picture, self.sizes[i]), caption
        raise ValueError(f"none of the {len(self)} pictures can be read: {summary(self.skipped)}")

    def read(self, i):
        """Item i as an upright PIL image and its caption; ValueError if it is broken."""
        raise NotImplementedError

    def identity(self, i):
        """What tells item i from others without reading it, wherever the files lie; for JSON."""
        return [*map(int, self.sizes[i]), self.captions[i], self.bytes[i]]

    def _candidates(self, i):
        """i itself, then those that may take its place, best first."""
        yield i
        for same_size in (True, False):
            for j in [*range(i + 1, len(self)), *range(i)]:
                if (self.sizes[j] == self.sizes[i]) is same_size:
                    yield j

    def _leave_out(self, name, reason):
        self.skipped[name] = self._broken[name] = reason
        if len(self._broken) > max(1, len(self) // 10):
            raise ValueError(
                f"{len(self._broken)} of {len(self)} pictures turned out to be broken, which is "
                f"more than one in ten: {summary(self._broken)}"
            )
        warnings.warn(f"{name}: {reason}; another takes its place", stacklevel=3)


def identity(source, i):
    """What tells item i of a source from others: by its method `identity`, or else by its pixels.

    Without the method the item is read: sources in memory need none.
    """
    if hasattr(source, "identity"):
        return source.identity(i)
    picture, caption = source[i]
    pixels = hashlib.sha256(np.ascontiguousarray(picture)).hexdigest()
    return [*np.shape(picture), str(caption), pixels]


def items_digest(source, indices):
    """A digest of which pictures with which captions these items are, in this order."""
    digest = hashlib.sha256()
    for i in indices:
        digest.update(json.dumps(identity(source, i)).encode())
    return digest.hexdigest()


def checked_caption(text):
    """`text` without white space around it; ValueError if nothing is left or it is no text."""
    if not isinstance(text, str):
        raise ValueError(f"a caption must be a string, not {type(text).__name__}")
    if not text.strip():
        raise ValueError("the caption is empty")
    if len(text.encode()) > MAX_CAPTION:  # `encode` fails for surrogates, which JSON can hold
        raise ValueError(f"more than {MAX_CAPTION} bytes are no caption")
    return text.strip()


def size_choices(size, buckets):
    """The sizes that pictures are given, from the arguments of a source.

    Args:
        size: an int, or (height, width); or None for pictures as they are.
        buckets: list of (height, width) instead, or None.

    Returns:
        List of (height, width), or None.
    """
    if buckets is None:
        return None if size is None else [_checked_size("size", size)]
    if not len(buckets):
        raise ValueError("`buckets` is empty; at least one (height, width) is needed")
    return [_checked_size("buckets", each) for each in buckets]


def _checked_size(name, size):
    pair = (size, size) if np.ndim(size) == 0 else size
    try:
        height, width = map(operator.index, pair)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be an int or (height, width), not {size!r}") from None
    if min(height, width) < 1 or height * width > images.MAX_PIXELS:
        raise ValueError(f"`{name}`: {size!r} is not from 1 to {images.MAX_PIXELS} pixels")
    return height, width


def item_size(stored, choices, max_upscale):
    """The size that a picture of size `stored` is given: the nearest in aspect ratio.

    Raises:
        ValueError: it would have to be enlarged more than `max_upscale` times.
    """
    height, width = nearest_bucket(stored, choices) if choices else stored
    if max(height / stored[0], width / stored[1]) > max_upscale:
        raise ValueError(
            f"{stored[0]}x{stored[1]} pixels: {height}x{width} would enlarge it more than "
            f"{max_upscale:g} times"
        )
    return height, width


def upright_size(file):
    """(height, width) of a picture as it will be shown, from its header alone.

    Args:
        file: a path or a file object.

    Raises:
        ValueError: it is no picture of the known formats, damaged at its head, or too large.
    """
    with pillow_errors(file), Image.open(file, formats=FORMATS) as image:
        height, width = image.height, image.width
        if height * width > images.MAX_PIXELS:
            raise ValueError(f"{height}x{width} pixels; at most {images.MAX_PIXELS} are read")
        # Not the method of PNG files, which decodes the pixels to look for EXIF behind them.
        turned = Image.Image.getexif(image).get(ORIENTATION) in TURNED
    return (width, height) if turned else (height, width)


def read_upright(file):
    """`images.read`, with ValueError for whatever damage Pillow meets."""
    with pillow_errors(file):
        return images.read(file)


@contextlib.contextmanager
def pillow_errors(file):
    """Pillow raises what its decoders stumble over: it all means that the picture is broken."""
    try:
        yield
    except MemoryError:
        raise
    except Image.UnidentifiedImageError:
        raise ValueError(f"not a picture in one of the formats {', '.join(FORMATS)}") from None
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(reason.removeprefix(f"{file}: ")) from error


def fitted(image, size):
    """A PIL image as RGB of a size: cropped around its centre and resized (Lanczos).

    Transparent pixels show white; 16 bits of grey become 8.

    Returns:
        uint8 (height, width, 3).
    """
    image = images.in_eight_bits(image, "`image`")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    height, width = size
    image = ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    return np.array(image)


SHOWN = 5  # reasons in a summary


def summary(skipped):
    """The first few of what was skipped, in one line."""
    shown = [f"{name}: {reason}" for name, reason in list(skipped.items())[:SHOWN]]
    more = len(skipped) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")
