"""Learnt tokens in files: the forms that are shared, and what is refused."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from torch_zip import Call, Global, tensor, write_torch_zip

from kerasdiff.checkpoints.embeddings import read_embedding, write_embedding
from kerasdiff.checkpoints.tensors import CheckpointError

ROWS = np.arange(12, dtype="float32").reshape(3, 4)


@pytest.mark.parametrize("form, key", [("diffusers", "<cat>"), ("web-ui", "emb_params")])
def test_both_forms_come_back(tmp_path, form, key):
    path = tmp_path / "<cat>.safetensors"
    write_embedding(path, "<cat>", ROWS, form)
    assert list(load_file(path)) == [key]
    embedding = read_embedding(path)
    assert embedding.token == "<cat>"
    np.testing.assert_array_equal(embedding.vectors[0], ROWS)


def test_a_single_vector_and_half_precision_are_read(tmp_path):
    save_file({"<cat>": ROWS[0].astype("float16")}, tmp_path / "e.safetensors")
    (rows,) = read_embedding(tmp_path / "e.safetensors").vectors
    assert rows.shape == (1, 4) and rows.dtype == np.float32


def test_sdxl_has_one_for_each_text_encoder(tmp_path):
    save_file({"clip_g": ROWS[:, :3].copy(), "clip_l": ROWS}, tmp_path / "cat.safetensors")
    embedding = read_embedding(tmp_path / "cat.safetensors")
    assert embedding.token == "cat"
    assert [rows.shape for rows in embedding.vectors] == [(3, 4), (3, 3)]


def parameter_dict(**state):
    """PyTorch's module of this name, as a pickle describes it."""
    return Call(Global("torch.nn.modules.container", "ParameterDict"), state=state)


def write_inversion(path, wrap, names=("*",), **beside):
    """A textual inversion as a `.pt` file, its parameters wrapped."""
    data = {name: tensor(str(key), ROWS) for key, name in enumerate(names)}
    storages = [call.arguments[0] for call in data.values()]
    rebuild = Global("torch._utils", "_rebuild_parameter")
    parameters = {name: Call(rebuild, call, True, {}) for name, call in data.items()}
    write_torch_zip(path, {"string_to_param": wrap(parameters)} | beside, storages)


@pytest.mark.parametrize("beside, token", [({}, "cat"), ({"name": "<cat>"}, "<cat>")])
@pytest.mark.parametrize(
    "wrap", [lambda table: table, lambda table: parameter_dict(training=True, _parameters=table)]
)
def test_inversions_of_web_uis_and_of_the_original_are_read(tmp_path, wrap, beside, token):
    write_inversion(tmp_path / "cat.pt", wrap, **beside)
    embedding = read_embedding(tmp_path / "cat.pt")
    assert embedding.token == token
    np.testing.assert_array_equal(embedding.vectors[0], ROWS)


@pytest.mark.parametrize(
    "wrap, names, message",
    [
        (lambda table: table, ["*", "#"], "string_to_param holds 2 tensors, not one"),
        (lambda table: parameter_dict(_parameters=table), "*#", "holds 2 tensors"),
        (lambda table: parameter_dict(_parameters={}), "*", "holds 0 tensors"),
        (lambda table: parameter_dict(_parameters=3), "*", "holds int, not one tensor"),
        (lambda table: parameter_dict(), "*", "holds NoneType, not one tensor"),
        (lambda table: list(table.values()), "*", "holds list, not one tensor"),
        (lambda table: parameter_dict(_parameters={"*": 3}), "*", "'cat' is int, not a tensor"),
    ],
)
def test_inversions_of_other_than_one_tensor_are_refused(tmp_path, wrap, names, message):
    write_inversion(tmp_path / "cat.pt", wrap, names, name="cat")
    with pytest.raises(CheckpointError, match=message) as error:
        read_embedding(tmp_path / "cat.pt")
    assert "cat.pt" in str(error.value)


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"a": ROWS, "b": ROWS}, "holds 2 tensors"),
        ({"clip_l": ROWS, "clip_g": ROWS[:2]}, "different numbers"),
        ({"a": ROWS[None]}, "has shape"),
        ({"a": np.ones((76, 2), "float32")}, "has shape"),
        ({"a": np.ones((0, 2), "float32")}, "has shape"),
        ({"a": np.full((1, 2), np.nan, "float32")}, "NaN"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, tensors, message):
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / "e.safetensors")
    with pytest.raises(CheckpointError, match=message) as error:
        read_embedding(tmp_path / "e.safetensors")
    assert "e.safetensors" in str(error.value)


@pytest.mark.parametrize(
    "name, rows, form, message",
    [
        ("cat.safetensors", ROWS, "other", "form"),
        ("cat.pt", ROWS, "diffusers", "safetensors"),
        ("cat.safetensors", ROWS[0], "diffusers", "vectors"),
        ("dog.safetensors", ROWS, "web-ui", "cat.safetensors"),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_file_is_there(
    tmp_path, name, rows, form, message
):
    with pytest.raises(ValueError, match=message):
        write_embedding(tmp_path / name, "cat", rows, form)
    assert not list(tmp_path.iterdir())
