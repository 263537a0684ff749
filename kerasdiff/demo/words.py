"""What the demo model can be asked for: the words of its captions, and the colours they mean."""

COLOURS = {
    "red": (216, 46, 46),
    "orange": (246, 140, 32),
    "yellow": (252, 214, 58),
    "green": (52, 166, 84),
    "blue": (44, 104, 214),
    "purple": (132, 66, 188),
    "pink": (247, 138, 186),
    "white": (246, 246, 242),
}
BACKGROUNDS = {
    "white": (240, 240, 238),
    "black": (30, 30, 36),
    "gray": (146, 150, 156),
    "teal": (28, 118, 124),
    "beige": (226, 202, 164),
}
SHAPES = ("circle", "square", "triangle", "star", "heart")
SIZES = ("small", "big")
TREES = ("pine", "oak", "cherry")
TIMES = ("day", "dawn", "sunset", "night")
RELATIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
