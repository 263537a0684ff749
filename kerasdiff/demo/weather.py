"""Skies, light, mountains and clouds at four times of day."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Light:
    """A time of day: the sky from top to horizon, sun or moon, and the light on everything else."""

    sky: tuple
    ambient: tuple  # what colours are multiplied with
    orb: tuple  # colour of sun or moon
    glow: float  # strength of the light around it
    orb_height: tuple  # lowest and highest place of it
    clouds: tuple
    sea: tuple  # from horizon to front


LIGHTS = {
    "day": Light(
        ((0.0, (70, 150, 232)), (0.62, (196, 230, 252))),
        (1.0, 1.0, 1.0), (255, 246, 200), 0.35, (0.12, 0.2), (255, 255, 255),
        ((0.0, (92, 178, 222)), (1.0, (22, 104, 172))),
    ),
    "dawn": Light(
        ((0.0, (150, 158, 214)), (0.34, (240, 184, 200)), (0.62, (255, 226, 196))),
        (1.0, 0.93, 0.94), (255, 232, 196), 0.5, (0.42, 0.5), (255, 216, 214),
        ((0.0, (240, 190, 190)), (1.0, (112, 130, 182))),
    ),
    "sunset": Light(
        ((0.0, (84, 58, 120)), (0.3, (206, 84, 92)), (0.62, (255, 176, 76))),
        (1.0, 0.9, 0.82), (255, 214, 120), 0.6, (0.4, 0.48), (250, 150, 110),
        ((0.0, (250, 150, 84)), (1.0, (92, 52, 104))),
    ),
    "night": Light(
        ((0.0, (10, 14, 44)), (0.62, (44, 62, 116))),
        (0.6, 0.65, 0.84), (250, 246, 226), 0.25, (0.14, 0.22), (62, 74, 116),
        ((0.0, (40, 58, 112)), (1.0, (10, 18, 56))),
    ),
}  # fmt: skip


def paint_sky(canvas, light, rng):
    """Sky, stars, sun or moon, and clouds; returns the sun's (x, y)."""
    canvas.pixels[:] = canvas.gradient(light.sky)
    if light is LIGHTS["night"]:
        places = rng.uniform((0.02, 0.02), (0.98, 0.5), (26, 2))
        sizes = rng.uniform(0.003, 0.0065, 26)
        stars = canvas.ellipses(*[(x, y, r, r) for (x, y), r in zip(places, sizes, strict=True)])
        canvas.paint(stars * 0.9, (255, 250, 232))
    x = rng.uniform(0.16, 0.84)
    y = rng.uniform(*light.orb_height)
    distance = np.hypot(canvas.x - x, canvas.y - y)
    canvas.add_light(light.glow * np.exp(-((distance / 0.2) ** 2)), light.orb)
    radius = 0.055 if light.orb_height[0] < 0.3 else 0.075
    canvas.paint(canvas.ellipses((x, y, radius, radius)), light.orb)
    for _ in range(rng.integers(1, 4)):
        _cloud(canvas, light, rng)
    return x, y


def paint_mountain(canvas, light, rng, base):
    """A range with one high, snow-capped peak, its right side in shadow."""
    x, top = rng.uniform(0.3, 0.7), rng.uniform(0.17, 0.24)
    wide = rng.uniform(0.36, 0.46)
    far = canvas.polygons(
        [(x - wide * 1.7, base), (x - wide * 0.9, base - 0.2), (x - wide * 0.2, base)],
        [(x + wide * 0.1, base), (x + wide * 0.95, base - 0.23), (x + wide * 1.8, base)],
    )
    rock = np.float32((112, 118, 146)) * light.ambient
    haze = 0.3 * canvas.gradient(light.sky)[int(base * canvas.size) - 1, 0]
    canvas.paint(far, 0.7 * rock + haze)
    canvas.paint(canvas.polygons([(x - wide, base), (x, top), (x + wide, base)]), rock * 1.12)
    canvas.paint(
        canvas.polygons([(x, top), (x + wide, base), (x + 0.12 * wide, base)]), rock * 0.82
    )
    snow = 0.36  # of the height
    left, right = x - wide * snow, x + wide * snow
    edge = top + (base - top) * snow
    cap = [(x, top), (right, edge), (x + 0.16 * wide, edge - 0.03), (x + 0.02 * wide, edge + 0.03),
           (x - 0.15 * wide, edge - 0.02), (left, edge)]  # fmt: skip
    canvas.paint(canvas.polygons(cap), np.float32((250, 252, 255)) * light.ambient)
    shaded = [(x, top), (right, edge), (x + 0.16 * wide, edge - 0.03), (x + 0.04 * wide, edge)]
    canvas.paint(canvas.polygons(shaded), np.float32((206, 214, 232)) * light.ambient)


def _cloud(canvas, light, rng):
    x, y, size = rng.uniform(0.05, 0.95), rng.uniform(0.06, 0.3), rng.uniform(0.05, 0.085)
    puffs = [(x + dx * size, y + dy * size, r * size * 1.3, r * size * 0.8)
             for dx, dy, r in ((-1.5, 0.1, 0.7), (-0.5, -0.25, 1.0), (0.7, -0.1, 0.85),
                               (1.6, 0.15, 0.55))]  # fmt: skip
    mask = canvas.blur(canvas.ellipses(*puffs), 0.008)
    canvas.paint(mask * (canvas.y < y + 0.6 * size) * 0.8, light.clouds)
