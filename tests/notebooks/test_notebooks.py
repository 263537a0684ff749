"""Every notebook runs, and each cell that shows a picture shows one that is not empty."""

import re
from dataclasses import replace

import nbformat
import pytest
from drawn_checkpoint import CONFIG, write_checkpoint
from notebook_run import NOTEBOOKS, pictures, run_and_look, shorten

LARGEST = 1_500_000  # bytes, so that a repository page shows them quickly
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="session", autouse=True)
def kept_programs(tmp_path_factory):
    """One notebook takes what another compiled, as on a machine of yours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERASDIFF_KEEP_PROGRAMS", "1")
        patch.setenv("KERASDIFF_HOME", str(tmp_path_factory.mktemp("home")))
        yield


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


@each
def test_it_runs_and_shows_as_many_pictures_as_it_is_kept_with(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    shorten(notebook)
    run_and_look(notebook, tmp_path)


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
    shorten(notebook)
    run_and_look(notebook, tmp_path)
