"""Balloons: a kind of scene that the demo model has never seen, to be taught, and its judge."""

import numpy as np

from kerasdiff.demo.captions import with_article
from kerasdiff.demo.drawing import Canvas
from kerasdiff.demo.weather import LIGHTS, paint_sky
from kerasdiff.demo.words import COLOURS

NAMES = ("red", "yellow", "green", "purple", "pink", "orange")
TIMES = {"day": "by day", "dawn": "at dawn", "night": "at night"}
NEAR = 50.0


class Balloons:
    """A source of pictures of hot-air balloons in the sky, with captions; see `DemoScenes`.

    Args:
        count: number of pictures.
        size: width and height in pixels.
        seed: of all of them.
    """

    def __init__(self, count, size=128, seed=0):
        self.size, self.seed = size, seed
        self.sizes, self.skipped = [(size, size)] * count, {}

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        colour, time, rng = self.scene(i)
        caption = f"{with_article(colour)} balloon in the sky {TIMES[time]}"
        return paint(colour, time, rng, self.size), caption

    def identity(self, i):
        """See `training.data.sources.identity`."""
        return ["Balloons", self.size, self.seed, i]

    def scene(self, i):
        """Colour, time of day, and the generator of all else."""
        rng = np.random.default_rng([self.seed, i])
        return str(rng.choice(NAMES)), str(rng.choice(list(TIMES))), rng


def paint(colour, time, rng, size=128):
    """A picture, uint8 (size, size, 3)."""
    canvas, light = Canvas(size), LIGHTS[time]
    paint_sky(canvas, light, rng)
    sky = canvas.gradient([(0.0, light.sky[-1][1]), (1.0, light.sky[-1][1])])
    canvas.paint(np.clip((canvas.y - 0.62) * size, 0.0, 1.0) + 0.0 * canvas.x, sky)
    x, y, radius = rng.uniform(0.38, 0.62), rng.uniform(0.32, 0.42), rng.uniform(0.2, 0.25)
    ambient, below = np.float32(light.ambient), y + radius * 1.75
    for side in (-0.6, 0.6):
        (left, high), low = (x + side * radius, y + radius * 0.8), x + side * 0.06
        rope = [(left, high), (left + 0.008, high), (low + 0.008, below), (low, below)]
        canvas.paint(canvas.polygons(rope), np.float32((96, 66, 46)) * ambient)
    hull = canvas.ellipses((x, y, radius, radius))
    canvas.paint(hull, canvas.lit(np.float32(COLOURS[colour]) * ambient, (x, y), radius, 0.15))
    box = [(x - 0.05, below), (x + 0.05, below), (x + 0.04, below + 0.08), (x - 0.04, below + 0.08)]
    canvas.paint(canvas.polygons(box), np.float32((134, 84, 54)) * ambient)
    return canvas.to_uint8()


def is_right(picture, colour, time):
    """Whether a picture, uint8 (128, 128, 3), shows one round balloon of a colour, in its sky."""
    sky = LIGHTS[time].sky[0][1]
    if np.linalg.norm(np.float32(picture[:4]).mean((0, 1)) - np.float32(sky)) > NEAR:
        return False
    ambient = np.float32(LIGHTS[time].ambient)
    shades = np.float32([COLOURS[colour]]) * ambient * np.float32([[0.85], [1.0], [1.13]])
    distances = np.linalg.norm(np.float32(picture)[:, :, None] - shades, axis=-1).min(-1)
    mask = distances < NEAR * float(ambient.mean())
    disc = np.hypot(*np.mgrid[-32:33, -32:33]) <= 29
    rows, columns = np.nonzero(mask)
    if len(rows) < 0.5 * disc.sum():
        return False
    middle = round(np.median(rows)), round(np.median(columns))
    y, x = np.mgrid[:128, :128]
    away = np.hypot(y - middle[0], x - middle[1])
    inside, ring = mask[away < 22].mean(), mask[(away > 38) & (away < 50)].mean()
    return bool(inside > 0.85 and ring < 0.25 and middle[0] < 68)
