"""The notebooks that train, as long as they say."""

import nbformat
import pytest
from notebook_run import NOTEBOOKS, TRAINING, run_and_look


@pytest.mark.parametrize("name", TRAINING)
def test_training_runs_whole(name, tmp_path):
    (path,) = [path for path in NOTEBOOKS if path.stem == name]
    notebook = nbformat.read(path, as_version=4)
    assert any(TRAINING[name][0] in cell.source for cell in notebook.cells)
    run_and_look(notebook, tmp_path)
