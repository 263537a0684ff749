"""Quiet frameworks and a fixed backend for the whole suite."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("KERASDIFF_KEEP_PROGRAMS", "0")  # a test leaves nothing in the home folder

import pytest  # noqa: E402, after what frameworks read at their import

from kerasdiff.backend import prepare_compiler  # noqa: E402

# XLA reads its options once, and a test's child processes inherit those of the environment: set in
# the midst of a suite they would round otherwise than the test that expects the same bits.
prepare_compiler()

# Files that take the longest begin first, lest one worker waits for the other in the end.
LONGEST = (
    "test_training_killed", "test_compiled_training", "test_keras_cv_tutorials",
    "test_export_saved_model", "test_export_parts", "test_pictures_live", "test_models_live",
    "test_samplers_live", "test_training", "test_demo_model_live", "test_learnt_tokens",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Sorts files for `--no-loadscope-reorder`; within a file the order stays."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture
def uncompiled():
    """Functions run operation by operation: for pictures of few steps that is quicker."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def single(tmp_path):
    """Writes a family's tiny checkpoint as a single file."""
    from checkpoint_cases import TINY, parts_of

    from kerasdiff.checkpoints.save import save_file

    def save(family="sd1", dtype=None):
        path = tmp_path / f"{family}.safetensors"
        save_file(path, TINY[family], parts_of(family), dtype)
        return path

    return save


@pytest.fixture(scope="session")
def drawn_folder(tmp_path_factory):
    """A tiny checkpoint in a folder."""
    from stable_diffusion_cases import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory)


@pytest.fixture
def tiny_preset(monkeypatch, drawn_folder):
    """What keras-cv's classes take for Stable Diffusion 1.4 is a tiny checkpoint."""
    from kerasdiff.checkpoints.checkpoint import open_checkpoint
    from kerasdiff.configs import TINY
    from kerasdiff.models.stable_diffusion import published

    monkeypatch.setitem(published.CONFIGS, "sd-v1-4", TINY["sd1"])
    monkeypatch.setattr(published, "find_and_open", lambda name: open_checkpoint(drawn_folder))
