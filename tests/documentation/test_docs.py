"""What the documentation shows runs, on a tiny checkpoint and a few pictures."""

import re
from pathlib import Path

import numpy as np
import pytest
from drawn_checkpoint import write_checkpoint

from kerasdiff import images
from kerasdiff.cli import main
from kerasdiff.configs import TINY
from kerasdiff.stable_diffusion import StableDiffusion

ROOT = Path(__file__).parents[2]
ALL = sorted((ROOT / "docs").glob("*.md"))
# The request of the page on serving has a test of its own, beside the exports'.
PAGES = [path for path in ALL if path.stem not in ("keras_cv", "serving")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_checkpoint(folder, TINY["sd1"])  # a folder, which says how small its pictures are
    return folder


@pytest.fixture(autouse=True)
def desk(checkpoint, tmp_path, monkeypatch):
    """A working directory with `model.safetensors` and a folder of `pictures`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").symlink_to(checkpoint)
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        picture = np.random.default_rng(i).integers(0, 256, (256, 256, 3), "uint8")
        images.save_png(tmp_path / "pictures" / f"{i}.png", picture)
        (tmp_path / "pictures" / f"{i}.txt").write_text("an oak in the snow")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run_in_their_order(page):
    run(page)


def blocks_of(page, language):
    """What stands in a page's blocks of a language."""
    pattern = rf"^```{language}\n(.*?)^```"
    found = re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found


def run(page, smaller=()):
    """Runs a page's blocks one after the other, with some words for others; gives their names."""
    names = {}
    assert all(old in page.read_text() for old, _ in smaller)
    for block in blocks_of(page, "python"):
        for old, new in smaller:
            block = block.replace(old, new)
        exec(compile(block, str(page), "exec"), names)
    return names


def test_the_readmes_examples_run_in_their_order(monkeypatch):
    exported = []
    monkeypatch.setattr(StableDiffusion, "export", lambda _, path: exported.append(path))
    shorter = ("steps_per_epoch=1000", "epochs=1, steps_per_epoch=1")
    names = run(ROOT / "README.md", (shorter,))
    assert names["pictures"].shape == (1, 128, 128, 3) == names["mixed"].shape
    assert names["night"].shape == (1, 128, 128, 3) and exported == ["sampler"]


def test_the_page_for_keras_cvs_users_runs(tiny_preset):
    names = run(ROOT / "docs" / "keras_cv.md", (("512", "32"),))
    assert names["images"].shape == (3, 32, 32, 3)


@pytest.mark.parametrize("name", ["README.md", "docs/training.md"])
def test_settings_of_runs_are_taken(name):
    (settings,) = blocks_of(ROOT / name, "toml")
    Path("my.toml").write_text(settings.replace("sd-v1-5", "model.safetensors"))
    assert main(["train", "my.toml", "--dry-run"]) == 0


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{page.name}" for page in ALL)])
def test_links_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
