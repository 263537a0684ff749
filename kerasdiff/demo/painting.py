"""Paints scenes: flat, friendly pictures with gradients, soft shadows and smooth edges."""

import numpy as np

from kerasdiff.demo.drawing import Canvas
from kerasdiff.demo.scenes import Boat, House
from kerasdiff.demo.weather import LIGHTS, paint_mountain, paint_sky
from kerasdiff.demo.words import BACKGROUNDS, COLOURS, TIMES

HORIZON = 0.62


def paint(scene, rng, size=128):
    """A picture of a scene.

    Args:
        scene: a `House`, `Boat` or `Shapes`.
        rng: a `numpy.random.Generator`: decides places, sizes and all that the scene leaves open.
        size: width and height in pixels.

    Returns:
        uint8 (size, size, 3).
    """
    canvas = Canvas(size)
    if isinstance(scene, House):
        _house_scene(canvas, scene, rng)
    elif isinstance(scene, Boat):
        _boat_scene(canvas, scene, rng)
    else:
        _shapes_scene(canvas, scene, rng)
    return canvas.to_uint8()


def _house_scene(canvas, scene, rng):
    light = LIGHTS[scene.time or rng.choice(TIMES)]
    paint_sky(canvas, light, rng)
    if scene.mountain:
        paint_mountain(canvas, light, rng, HORIZON + 0.04)
    _meadow(canvas, light, rng)
    side = scene.side or rng.choice(("left", "right"))
    sign = -1.0 if side == "left" else 1.0
    spread = rng.uniform(0.2, 0.25) if scene.tree else rng.uniform(-0.1, 0.1)
    ground = rng.uniform(0.8, 0.86)
    if scene.tree:
        place = (0.5 - sign * rng.uniform(0.21, 0.27), ground - rng.uniform(-0.02, 0.06))
        _TREE_PAINTERS[scene.tree](canvas, light, place, rng.uniform(0.92, 1.1))
    _house(canvas, light, scene.colour, (0.5 + sign * spread, ground), rng.uniform(0.92, 1.1))


def _meadow(canvas, light, rng):
    """Two hills, the front one lighter."""
    phase, swing = rng.uniform(0.0, 6.28), rng.uniform(0.015, 0.03)
    for base, colours, shift in (
        (HORIZON, ((104, 164, 92), (84, 146, 78)), 0.0),
        (HORIZON + 0.1, ((142, 200, 96), (78, 150, 70)), 2.0),
    ):
        edge = base + swing * np.sin(4.0 * canvas.x + phase + shift)  # (1, size)
        mask = np.clip((canvas.y - edge) * canvas.size + 0.5, 0.0, 1.0)
        grass = canvas.gradient([(base, colours[0]), (1.0, colours[1])])
        canvas.paint(mask, grass * np.float32(light.ambient))


def _house(canvas, light, colour, place, scale):
    """Walls in the colour, slate roof, chimney, door and two windows, lit at night."""
    x, ground = place
    wide, high, roof = 0.155 * scale, 0.2 * scale, 0.14 * scale
    eaves = ground - high
    ambient = np.float32(light.ambient)
    walls = canvas.polygons(box(x, ground - high / 2, wide, high / 2))
    top = canvas.polygons(
        [(x - wide * 1.22, eaves + 0.006), (x - wide * 0.62, eaves - roof),
         (x + wide * 0.62, eaves - roof), (x + wide * 1.22, eaves + 0.006)]
    )  # fmt: skip
    ground_shadow = canvas.ellipses((x + 0.03, ground, wide * 1.25, 0.022))
    canvas.shade(ground_shadow, 0.0, 0.0, 0.012, 0.4)
    flue = box(x + wide * 0.5, eaves - roof * 0.86, 0.02 * scale, 0.055 * scale)
    canvas.paint(canvas.polygons(flue), np.float32((150, 92, 80)) * ambient)
    canvas.paint(walls, canvas.lit(np.float32(COLOURS[colour]) * ambient, (x, ground - 0.1), 0.16))
    canvas.shade(walls * top, 0.0, 0.018, 0.006, 0.3)
    canvas.paint(top, canvas.lit(np.float32((92, 84, 98)) * ambient, (x, eaves - 0.07), 0.16, 0.2))
    door = canvas.polygons(box(x, ground - 0.055 * scale, 0.03 * scale, 0.055 * scale))
    canvas.paint(door, np.float32((112, 70, 46)) * ambient)
    places = [(x + s * wide * 0.6, ground - high * 0.58) for s in (-1, 1)]
    frames = canvas.polygons(*[box(*p, 0.034 * scale, 0.038 * scale) for p in places])
    panes = canvas.polygons(*[box(*p, 0.025 * scale, 0.029 * scale) for p in places])
    canvas.paint(frames, np.float32((250, 250, 246)) * ambient)
    dark = light is LIGHTS["night"]
    canvas.paint(panes, (255, 220, 120) if dark else np.float32((136, 190, 222)) * ambient)


def _pine(canvas, light, place, scale):
    """Four tiers, dark green."""
    x, ground = place
    _trunk(canvas, light, place, 0.016 * scale, 0.07 * scale)
    for i in range(4):
        bottom = ground - (0.05 + 0.085 * i) * scale
        wide = (0.115 - 0.021 * i) * scale
        tier = canvas.polygons([(x - wide, bottom), (x, bottom - 0.15 * scale), (x + wide, bottom)])
        canvas.shade(tier, 0.0, 0.014, 0.006, 0.25)
        green = np.float32((34, 104 + 9 * i, 74)) * light.ambient
        canvas.paint(tier, canvas.lit(green, (x, bottom - 0.07), wide, 0.22))


def _round_tree(canvas, light, place, scale, colour):
    """A trunk and a crown of round parts."""
    x, ground = place
    _trunk(canvas, light, place, 0.022 * scale, 0.2 * scale)
    middle = ground - 0.27 * scale
    parts = ((-0.07, 0.03, 0.075), (0.07, 0.03, 0.075), (0.0, -0.055, 0.085), (0.0, 0.04, 0.085))
    crown = canvas.ellipses(
        *[(x + dx * scale, middle + dy * scale, r * scale, r * scale) for dx, dy, r in parts]
    )
    canvas.paint(crown, canvas.lit(np.float32(colour) * light.ambient, (x, middle), 0.15, 0.3))
    return x, middle


def _oak(canvas, light, place, scale):
    _round_tree(canvas, light, place, scale, (92, 158, 52))


def _cherry(canvas, light, place, scale):
    _round_tree(canvas, light, place, scale, (250, 178, 206))


_TREE_PAINTERS = {"pine": _pine, "oak": _oak, "cherry": _cherry}


def _trunk(canvas, light, place, wide, high):
    x, ground = place
    canvas.shade(canvas.ellipses((x + 0.02, ground, 0.1, 0.018)), 0.0, 0.0, 0.012, 0.35)
    trunk = canvas.polygons(box(x, ground - high / 2, wide, high / 2))
    canvas.paint(trunk, canvas.lit(np.float32((116, 78, 52)) * light.ambient, place, wide * 2, 0.2))


def _boat_scene(canvas, scene, rng):
    light = LIGHTS[scene.time or rng.choice(TIMES)]
    orb_x, _ = paint_sky(canvas, light, rng)
    if scene.mountain:
        paint_mountain(canvas, light, rng, HORIZON)
    _sea(canvas, light, rng, orb_x)
    _boat(canvas, light, scene.colour, (rng.uniform(0.36, 0.64), rng.uniform(0.74, 0.82)),
          rng.uniform(0.92, 1.12))  # fmt: skip


def _sea(canvas, light, rng, orb_x):
    depth = (canvas.y - HORIZON) / (1.0 - HORIZON)  # (size, 1), 0 at the horizon
    mask = np.clip((canvas.y - HORIZON) * canvas.size + 0.5, 0.0, 1.0) + 0.0 * canvas.x
    canvas.paint(mask, canvas.gradient(light.sea, depth))
    path = np.exp(-(((canvas.x - orb_x) / (0.05 + 0.12 * np.clip(depth, 0.0, 1.0))) ** 2))
    canvas.add_light(0.4 * mask * path * np.clip(1.2 - depth, 0.0, 1.0), light.orb)
    rows = rng.uniform(0.05, 1.0, 9) ** 0.8
    waves = [
        (rng.uniform(0.0, 1.0), HORIZON + (1.0 - HORIZON) * row, 0.03 + 0.06 * row, 0.0045)
        for row in rows
    ]
    canvas.add_light(0.28 * canvas.ellipses(*waves), (255, 255, 255))


def _boat(canvas, light, colour, place, scale):
    """A wooden hull, a mast, a main sail and a smaller one in front."""
    x, water = place
    ambient = np.float32(light.ambient)
    canvas.shade(canvas.ellipses((x, water + 0.01, 0.2 * scale, 0.02)), 0.0, 0.01, 0.012, 0.35)
    deck, mast_x = water - 0.075 * scale, x + 0.015 * scale
    mast = canvas.polygons(box(mast_x, deck - 0.18 * scale, 0.007 * scale, 0.19 * scale))
    canvas.paint(mast, np.float32((96, 66, 46)) * ambient)
    top = deck - 0.37 * scale
    foot = deck - 0.035 * scale
    sail = canvas.polygons(
        [(mast_x + 0.014 * scale, top + 0.03), (mast_x + 0.19 * scale, foot),
         (mast_x + 0.014 * scale, foot)],
        [(mast_x - 0.014 * scale, top + 0.06), (mast_x - 0.14 * scale, foot),
         (mast_x - 0.014 * scale, foot)],
    )  # fmt: skip
    canvas.paint(sail, canvas.lit(np.float32(COLOURS[colour]) * ambient, (x, foot - 0.15), 0.18))
    hull = canvas.polygons(
        [(x - 0.2 * scale, deck), (x + 0.21 * scale, deck), (x + 0.14 * scale, water + 0.012),
         (x - 0.13 * scale, water + 0.012)]
    )  # fmt: skip
    canvas.paint(hull, canvas.lit(np.float32((134, 84, 54)) * ambient, (x, deck), 0.2, 0.2))
    stripe = canvas.polygons(box(x + 0.004, deck + 0.009, 0.195 * scale, 0.009))
    canvas.paint(stripe * hull, np.float32((236, 222, 196)) * ambient)


def _shapes_scene(canvas, scene, rng):
    name = scene.background or rng.choice(
        [name for name in BACKGROUNDS if all(name != thing.colour for thing in scene.things)]
    )
    backdrop = np.float32(BACKGROUNDS[str(name)])
    glow = np.hypot(canvas.x - 0.45, canvas.y - 0.4) / 0.75
    canvas.pixels[:] = np.clip(backdrop * (1.03 - 0.13 * glow[..., None] ** 2), 0.0, 255.0)
    for thing, place, radius in _places(scene, rng):
        outline = OUTLINES[thing.shape]
        mask = canvas.polygons([(place[0] + radius * x, place[1] + radius * y) for x, y in outline])
        canvas.shade(mask, 0.02, 0.03, 0.018, 0.32)
        canvas.paint(mask, canvas.lit(COLOURS[thing.colour], place, radius, 0.13))


RADII = {"small": (0.13, 0.16), "big": (0.29, 0.34), None: (0.14, 0.33)}
PAIR_RADIUS = (0.165, 0.2)


def _places(scene, rng):
    """Each thing with its middle and radius."""
    if len(scene.things) == 1:
        radius = rng.uniform(*RADII[scene.things[0].size])
        room = 0.46 - radius
        yield scene.things[0], 0.5 + rng.uniform(-room, room, 2), radius
        return
    sign = -1.0 if scene.relation in ("left", "above") else 1.0
    along, across = sign * rng.uniform(0.22, 0.27), rng.uniform(-0.09, 0.09, 2)
    for i, thing in enumerate(scene.things):
        place = np.array([along if i == 0 else -along, across[i]])
        if scene.relation in ("above", "below"):
            place = place[::-1]
        yield thing, 0.5 + place, rng.uniform(*PAIR_RADIUS)


def box(x, y, across, down):
    """The corners of a box around (x, y), as far across and down from there."""
    return [(x - across, y - down), (x + across, y - down), (x + across, y + down),
            (x - across, y + down)]  # fmt: skip


def _star():
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, 1.12, 0.5)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles) + 0.08], -1)


def _heart():
    t = np.linspace(0.0, 2.0 * np.pi, 64, endpoint=False)
    x = 16.0 * np.sin(t) ** 3
    y = 13.0 * np.cos(t) - 5.0 * np.cos(2 * t) - 2.0 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 16.0, (-y - 2.5) / 15.5], -1)


def _circle():
    angles = np.linspace(0.0, 2.0 * np.pi, 96, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], -1) * 0.95


# Closed outlines about the origin, some 1 in radius.
OUTLINES = {
    "circle": _circle(),
    "square": np.array(box(0.0, 0.0, 0.82, 0.82)),
    "triangle": np.array([(0.0, -0.95), (1.02, 0.8), (-1.02, 0.8)]),
    "star": _star(),
    "heart": _heart(),
}
