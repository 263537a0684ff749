"""Painting with anti-aliased masks on a float canvas, in plain NumPy and Pillow.

Positions are fractions of the picture, x to the right and y downwards. A mask says how much of
each pixel a form covers, 0 to 1, float32 (size, size); colours are 0 to 255.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

FINER = 4  # masks are drawn this much larger, then averaged


class Canvas:
    """A picture that grows layer by layer.

    Args:
        size: width and height in pixels.

    Attributes:
        pixels: (size, size, 3) float32, 0 to 255.
        x, y: (1, size) and (size, 1) float32, positions of the pixels' centres.
    """

    def __init__(self, size):
        self.size = size
        self.pixels = np.zeros((size, size, 3), "float32")
        centres = (np.arange(size, dtype="float32") + 0.5) / size
        self.x, self.y = centres[None, :], centres[:, None]

    def polygons(self, *outlines):
        """The mask of filled polygons, each a sequence of (x, y)."""
        scale = self.size * FINER
        drawing = Image.new("L", (scale, scale))
        pen = ImageDraw.Draw(drawing)
        for outline in outlines:
            pen.polygon([(x * scale - 0.5, y * scale - 0.5) for x, y in outline], fill=255)
        return np.asarray(drawing.reduce(FINER), "float32") / 255.0

    def ellipses(self, *ellipses):
        """The mask of filled ellipses, each (x, y, radius in x, radius in y)."""
        scale = self.size * FINER
        drawing = Image.new("L", (scale, scale))
        pen = ImageDraw.Draw(drawing)
        for x, y, across, down in ellipses:
            box = np.array([x - across, y - down, x + across, y + down]) * scale - 0.5
            pen.ellipse(tuple(box), fill=255)
        return np.asarray(drawing.reduce(FINER), "float32") / 255.0

    def blur(self, mask, radius):
        """A mask with soft edges; `radius` is a fraction of the picture."""
        picture = Image.fromarray(np.uint8(mask * 255.0 + 0.5))
        soft = picture.filter(ImageFilter.GaussianBlur(radius * self.size))
        return np.asarray(soft, "float32") / 255.0

    def paint(self, mask, colour):
        """Lays a colour, (3,) or (size, size, 3), over the picture where the mask says so."""
        self.pixels += mask[..., None] * (np.asarray(colour, "float32") - self.pixels)

    def shade(self, mask, right, down, radius, strength):
        """Darkens the picture under a form's shadow, moved by fractions and blurred."""
        moved = np.roll(mask, (round(down * self.size), round(right * self.size)), (0, 1))
        self.pixels *= 1.0 - strength * self.blur(moved, radius)[..., None]

    def add_light(self, amount, colour):
        """Adds light of a colour; `amount` is (size, size), 0 to 1."""
        self.pixels += amount[..., None] * (255.0 - self.pixels) * np.float32(colour) / 255.0

    def gradient(self, stops, along=None):
        """A colour for each pixel, (size, size, 3), between `stops`, pairs of (place, colour).

        Args:
            along: (size, size) places; by default y.
        """
        along = np.broadcast_to(self.y if along is None else along, (self.size, self.size))
        places, colours = zip(*stops, strict=True)
        channels = np.float32(colours).T
        return np.stack([np.interp(along, places, c) for c in channels], -1).astype("float32")

    def lit(self, colour, middle, radius, strength=0.12):
        """A colour that is lighter to the upper left of `middle`, darker to the lower right."""
        slope = ((self.x - middle[0]) + (self.y - middle[1])) / (2.0 * radius)  # about -1 to 1
        light = 1.0 - strength * np.clip(slope, -1.0, 1.0)
        return np.clip(np.float32(colour) * light[..., None], 0.0, 255.0)

    def to_uint8(self):
        """The picture, uint8 (size, size, 3)."""
        return np.uint8(np.clip(self.pixels + 0.5, 0.0, 255.0))
