"""Pictures of noise, and folders of them, some broken."""

import numpy as np
from PIL import Image

from kerasdiff.training.data.pictures import PictureFolder


def pixels(height=12, width=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype="uint8")


def put(folder, name, caption="a picture", picture=None, **options):
    """Writes a picture (12x12 unless given) and, unless None, its caption."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(pixels(seed=len(name)) if picture is None else picture)
    picture.save(path, **options)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, "utf-8")
    return path


def cut(path, keep=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def folder_of(tmp_path, count, broken=(), suffix=".jpg"):
    """`count` pictures whose captions are their numbers; the bodies of some are cut off."""
    for i in range(count):
        path = put(tmp_path, f"{i:02}{suffix}", str(i), pixels(64, 64, i))
        if i in broken:
            cut(path, 0.7)
    return PictureFolder(tmp_path, size=64)
