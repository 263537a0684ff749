"""What the documentation shows runs, on a tiny checkpoint and a few pictures."""

import re
from pathlib import Path

import numpy as np
import pytest
from drawn_checkpoint import write_checkpoint

from kerasdiff import images
from kerasdiff.cli import main
from kerasdiff.configs import TINY

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path for path in (ROOT / "docs").glob("*.md") if path.stem not in ("keras_cv", "serving")
)  # which have tests of their own


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
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)


def test_settings_of_the_training_page_are_taken():
    text = (ROOT / "docs" / "training.md").read_text()
    (settings,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    Path("my.toml").write_text(settings)
    assert main(["train", "my.toml", "--dry-run"]) == 0


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{page.name}" for page in PAGES)])
def test_links_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
