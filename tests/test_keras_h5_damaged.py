"""What a hostile or damaged `.h5` file may hold is refused in one line that names the file."""

import h5py
import numpy as np
import pytest
from keras_h5_cases import write_h5
from layouts import layout_json

from kerasdiff.checkpoints.files import CheckpointError
from kerasdiff.checkpoints.keras_h5 import read_keras_h5
from kerasdiff.configs import SD1

LAYER = "padded_conv2d"
BIAS = f"{LAYER}/{LAYER}/conv2d/bias:0"


@pytest.fixture
def path(tmp_path):
    write_h5(tmp_path / "x.h5", layout_json("keras_cv_h5")["decoder"])
    return tmp_path / "x.h5"


@pytest.mark.parametrize("names", [3, np.zeros(3), LAYER, [""], h5py.Empty("S1")])
@pytest.mark.parametrize("where", ["layer_names", "weight_names"])
def test_names_of_another_kind_are_refused(path, names, where):
    with h5py.File(path, "r+") as file:
        (file if where == "layer_names" else file[LAYER]).attrs[where] = names
    with pytest.raises(CheckpointError, match="x.h5: "):
        read_keras_h5(path, "decoder", SD1)


def test_a_layer_that_is_data_is_refused(path):
    with h5py.File(path, "r+") as file:
        del file[LAYER]
        file.create_dataset(LAYER, (3,)).attrs["weight_names"] = ["x"]
    with pytest.raises(CheckpointError, match="x.h5: damaged, or not weights of Keras 2"):
        read_keras_h5(path, "decoder", SD1)


@pytest.mark.parametrize(
    "data", [np.array([b"text"] * 4), np.zeros(4, [("x", "f4")]), h5py.Empty("f4")]
)
def test_weights_that_are_no_numbers_are_refused(path, data):
    with h5py.File(path, "r+") as file:
        del file[BIAS]
        file[BIAS] = data
    with pytest.raises(CheckpointError, match=f"x.h5: '{LAYER}' has weights that are no numbers"):
        read_keras_h5(path, "decoder", SD1)


@pytest.mark.parametrize("kind", ["soft", "external", "storage", "virtual"])
def test_links_and_data_outside_the_file_are_refused(path, kind):
    (path.parent / "secret").write_bytes(bytes(64))
    with h5py.File(path, "r+") as file:
        del file[BIAS]
        if kind == "soft":
            file[BIAS] = h5py.SoftLink("/padded_conv2d_1")
        elif kind == "external":
            file[BIAS] = h5py.ExternalLink("other.h5", "/x")
        elif kind == "storage":
            where = [(str(path.parent / "secret"), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset(BIAS, (4,), np.float16, external=where)
        else:
            virtual = h5py.VirtualLayout((4,), np.float16)
            virtual[:] = h5py.VirtualSource("other.h5", "x", (4,))
            file.create_virtual_dataset(BIAS, virtual)
    with pytest.raises(CheckpointError, match="link to elsewhere|in another file"):
        read_keras_h5(path, "decoder", SD1)
