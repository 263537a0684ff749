"""Pictures at the edge: files, PIL images, arrays, grids."""

from kerasdiff.images.arrays import (
    MAX_PIXELS,
    in_eight_bits,
    overlay,
    read,
    size_of,
    to_float,
    to_mask,
    to_uint8,
)
from kerasdiff.images.files import (
    WEB_UI_SAMPLERS,
    check_target,
    parameters_text,
    read_parameters,
    save_gif,
    save_png,
)
from kerasdiff.images.grids import grid

__all__ = [
    "MAX_PIXELS", "WEB_UI_SAMPLERS", "check_target", "grid", "in_eight_bits", "overlay",
    "parameters_text", "read", "read_parameters", "save_gif", "save_png", "size_of", "to_float",
    "to_mask", "to_uint8",
]  # fmt: skip
