"""The house: imports go downwards, rooms stay small, and the backend alone knows frameworks."""

import ast
import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "kerasdiff"
FLOORS = {
    -2: "files progress",
    -1: "backend",
    0: "configs block_plan attention noise images options tokenizer_files tiles walks",
    1: "clip_tokenizer layers noise_scheduler",
    2: "text_encoder image_encoder decoder diffusion_model",
    3: "samplers deep_cache denoiser conditioning checkpoints start added_tokens",
    4: "sampling held_models",
    5: "compiled_models",
    6: "export",
    7: "stable_diffusion",
    8: "training models",
    9: "demo",
    10: "cli web",
    11: "__main__",
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names.split()}
FREE = {"configs", "block_plan"}  # descriptions: whoever needs them may import them
MODULES = sorted(ROOT.rglob("*.py"))


def room(path):
    """`samplers` for kerasdiff/samplers/table.py, `noise` for kerasdiff/noise.py."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported_rooms(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kerasdiff"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [name.name for name in node.names]
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("kerasdiff."):
                    yield name.name.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downwards(path):
    if path == ROOT / "__init__.py":
        return
    here = room(path)
    assert here in FLOOR, f"{here} has no floor: add it to FLOORS"
    for other in set(imported_rooms(ast.parse(path.read_text()))) - FREE - {here}:
        assert FLOOR[other] < FLOOR[here], f"{here} imports {other}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_are_small(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 40, f"{path.name}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_backend_and_the_ways_out_know_a_framework(path):
    if room(path) in ("backend", "export"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] not in {"tensorflow", "jax", "torch", "openvino"}


def test_every_room_is_installed():
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT.parent / "setup.cfg")
    listed = set(config["options"]["packages"].split()) - {"kerasdiff.weights"}
    folders = {path.parent for path in ROOT.rglob("__init__.py")}
    assert listed == {".".join(path.relative_to(ROOT.parent).parts) for path in folders}
