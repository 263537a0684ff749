"""Every notebook runs whole, and each cell that shows a picture shows one that is not empty."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
from drawn_checkpoint import CONFIG, write_checkpoint
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
LARGEST = 1_500_000  # bytes, so that a repository page shows them quickly
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="session", autouse=True)
def kept_programs(tmp_path_factory):
    """One notebook takes what another compiled, as on a machine of yours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERASDIFF_KEEP_PROGRAMS", "1")
        patch.setenv("KERASDIFF_HOME", str(tmp_path_factory.mktemp("home")))
        yield


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


def test_there_is_one_for_each_thing_to_do():
    assert [path.stem for path in NOTEBOOKS] == [
        "attention_memory", "export_to_saved_model", "fine_tuning", "image_to_image", "inpainting",
        "open_any_checkpoint", "samplers_compared", "text_to_image", "textual_inversion",
        "walk_through_latent_space",
    ]  # fmt: skip


@each
def test_it_opens_in_colab_installs_once_and_is_kept_with_its_pictures(path):
    notebook = nbformat.read(path, as_version=4)
    first, install, *others = notebook.cells
    assert re.match(r"\[!\[.*?\]\(.*?\)\]\(https://colab\S*/" + path.name, first.source)
    assert "%pip install" in install.source
    assert not any("%pip" in cell.source for cell in others)
    assert path.stat().st_size < LARGEST
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any(pictures(cell) for cell in code)


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


@each
def test_it_runs_and_shows_what_it_is_kept_with(path, tmp_path):
    run_and_look(nbformat.read(path, as_version=4), tmp_path)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder like Stable Diffusion 1.5's: its tokens, schedule and 50 steps, little weights."""
    folder = tmp_path_factory.mktemp("published") / "model"
    write_checkpoint(folder, replace(CONFIG, image_size=(64, 64)))
    return folder


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if "attention" not in path.stem],
                         ids=lambda path: path.stem)  # fmt: skip
def test_one_variable_at_the_top_switches_to_another_model(path, published, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    (top,) = [cell for cell in notebook.cells if cell.source.startswith('MODEL = "demo"')]
    top.source = top.source.replace('"demo"', repr(str(published)))
    for cell in notebook.cells:
        # As it is kept it was compiled in the test before; of few steps a graph is ready sooner.
        cell.source = re.sub(r"(from_preset\([^)]+)\)", r"\1, jit_compile=False)", cell.source)
        # Training is as long as it need be to go through.
        cell.source = re.sub("STEPS = 120", "STEPS = 10", cell.source)
        cell.source = re.sub(
            "epochs=8, steps_per_epoch=10", "epochs=1, steps_per_epoch=2", cell.source
        )
    run_and_look(notebook, tmp_path)
