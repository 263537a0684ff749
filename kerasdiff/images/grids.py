"""Many pictures as one, with a line of text under each."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kerasdiff.images.files import to_pil

GAP = 4
TEXT = 12  # pixels


def grid(pictures, labels=None, columns=None):
    """Pictures side by side, row by row, on white; a notebook shows it as the last line of a cell.

    Args:
        pictures: uint8 (B, H, W, 3), or a list of pictures or PIL images, all of one size.
        labels: texts to write under them, as many as pictures; None writes none.
        columns: pictures in a row; None makes the whole about as wide as high.

    Returns:
        A PIL image.

    Raises:
        ValueError: no pictures, one alone, pictures that are not uint8 or of several sizes, or
            another number of labels.
    """
    if not isinstance(pictures, (list, tuple)) and np.ndim(pictures) == 3:
        raise ValueError("`pictures` must be several, and this is one: give [picture]")
    tiles = [to_pil(picture) for picture in pictures]
    if not tiles or len({tile.size for tile in tiles}) > 1:
        sizes = ", ".join(sorted({f"{tile.width}x{tile.height}" for tile in tiles}))
        raise ValueError(f"`pictures` must be some of one size, not {sizes or 'none'}")
    labels = [""] * len(tiles) if labels is None else [str(label) for label in labels]
    if len(labels) != len(tiles):
        raise ValueError(f"`labels` has {len(labels)} texts for {len(tiles)} pictures")
    width, height = tiles[0].size
    font = ImageFont.load_default(TEXT)
    texts = [_wrapped(label, width, font) for label in labels]
    lines = max(text.count("\n") + 1 if text else 0 for text in texts)
    below = lines * (TEXT + 3) + (GAP if lines else 0)  # the last line's descenders
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    rows, step = math.ceil(len(tiles) / columns), (width + GAP, height + below + GAP)
    whole = Image.new("RGB", (columns * step[0] - GAP, rows * step[1] - GAP), "white")
    draw = ImageDraw.Draw(whole)
    for i, (tile, text) in enumerate(zip(tiles, texts, strict=True)):
        x, y = i % columns * step[0], i // columns * step[1]
        whole.paste(tile, (x, y))
        draw.multiline_text((x + 1, y + height + 1), text, "black", font, spacing=2)
    return whole


def _wrapped(text, width, font):
    """The text in lines that are no wider than a picture."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
