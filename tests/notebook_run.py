"""Notebooks, run whole or with less training, and looked at."""

import base64
import io
from pathlib import Path

import numpy as np
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
TRAINING = {  # by notebook: what is written there, and what goes through as well
    "fine_tuning": ("STEPS = 120", "STEPS = 10"),
    "textual_inversion": ("epochs=8, steps_per_epoch=10", "epochs=1, steps_per_epoch=2"),
}


def shorten(notebook):
    """Lets training be as long as it need be to go through; `make meaning` trains whole."""
    for cell in notebook.cells:
        for whole, less in TRAINING.values():
            cell.source = cell.source.replace(whole, less)


def pictures(cell):
    """The pictures that a cell shows, float (H, W, 3) each, of a GIF the first."""
    found = [
        data[kind]
        for output in cell.get("outputs", [])
        for data in [output.get("data", {})]
        for kind in ("image/png", "image/gif")
        if kind in data
    ]
    opened = [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]
    return [np.asarray(image.convert("RGB"), "float32") for image in opened]


def run_and_look(notebook, folder):
    """Run the notebook whole; each cell shows as many pictures as were kept, and none empty."""
    kept = [len(pictures(cell)) for cell in notebook.cells]
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    for cell, count in zip(notebook.cells, kept, strict=True):
        shown = pictures(cell)
        assert len(shown) == count, cell.source
        assert all(picture.std() > 5.0 for picture in shown), cell.source
