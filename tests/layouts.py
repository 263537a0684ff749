"""The published layouts (names and shapes) that lie in `golden/layouts`."""

import gzip
import json
from pathlib import Path

FOLDER = Path(__file__).parent / "golden" / "layouts"


def layout(name):
    """A layout: dict of name to shape."""
    return {n: tuple(shape) for n, shape in layout_json(name).items()}


def layout_json(name):
    """A layout file as it stands."""
    return json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))
