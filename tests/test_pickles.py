"""PyTorch's zip files are read without PyTorch, and nothing in them is ever run."""

import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from torch_zip import Call, Global, Storage, tensor, view, write_state_dict, write_torch_zip

from kerasdiff.checkpoints.files import CheckpointError, open_tensors

ARRAYS = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "half": np.array([0.5, -2], np.float16),
    "brain": np.array([[1.5, 3.0]], ml_dtypes.bfloat16),
    "count": np.array(7, np.int64),
    "none": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_tensors_come_back(tmp_path, compression):
    path = tmp_path / "model.ckpt"
    write_state_dict(path, ARRAYS, compression=compression)
    tensors = open_tensors(path)
    assert set(tensors) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert tensors.shape(name) == array.shape and tensors.dtype(name) == array.dtype
        assert tensors[name].dtype == array.dtype and tensors[name].shape == array.shape
        np.testing.assert_array_equal(tensors[name], array)


def test_views_of_one_storage_with_strides_and_offsets(tmp_path):
    data = np.arange(20, dtype=np.float32)
    storage = Storage("0", data)
    top = {
        "whole": view(storage, (4, 5), (5, 1)),
        "transposed": view(storage, (5, 4), (1, 5)),
        "column": view(storage, (4,), (5,), offset=2),
        "scalar": view(storage, (), (), offset=19),
    }
    write_torch_zip(tmp_path / "m.bin", top, [storage])
    tensors = open_tensors(tmp_path / "m.bin")
    grid = data.reshape(4, 5)
    np.testing.assert_array_equal(tensors["whole"], grid)
    np.testing.assert_array_equal(tensors["transposed"], grid.T)
    np.testing.assert_array_equal(tensors["column"], grid[:, 2])
    assert tensors["scalar"] == 19


def test_stored_entries_are_mapped_and_read_only(tmp_path):
    write_state_dict(tmp_path / "m.ckpt", ARRAYS)
    array = open_tensors(tmp_path / "m.ckpt")["a.weight"]
    assert isinstance(array.base, np.memmap) and not array.flags.writeable


def test_a_file_that_was_replaced_after_it_was_opened_is_not_read(tmp_path):
    path = tmp_path / "a.ckpt"
    write_state_dict(path, {"a": np.zeros(9, np.float32)})
    os.utime(path, ns=(0, 10**18))  # long ago: clocks of file systems may be coarse
    tensors = open_tensors(path)
    write_state_dict(tmp_path / "b.ckpt", {"a": np.ones(9, np.float32)})
    (tmp_path / "b.ckpt").replace(path)
    with pytest.raises(CheckpointError, match="was changed after it was opened: open the check"):
        tensors["a"]
    assert open_tensors(path)["a"].all()


def test_a_training_checkpoint_gives_its_state_dict(tmp_path):
    """As PyTorch Lightning writes it: settings, callbacks and optimisers lie beside the weights."""
    callback = Global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    scalar = Call(
        Global("numpy.core.multiarray", "scalar"),
        Call(Global("numpy", "dtype"), "f8", False, True, state=(3, "<", None)),
        Call(Global("_codecs", "encode"), "abc", "latin1"),
    )
    settings = Call(Global("omegaconf.dictconfig", "DictConfig"), {"a": 1}, state={"_content": 2})

    def wrap(state):
        return {
            "epoch": 3,
            "callbacks": {callback: {"best_model_score": scalar}},
            "hyper_parameters": settings,
            "state_dict": state,
            "optimizer_states": [{"state": {0: tensor("9", np.ones(3, np.float32))}}],
        }

    write_state_dict(tmp_path / "m.ckpt", ARRAYS, wrap)
    assert set(open_tensors(tmp_path / "m.ckpt")) == set(ARRAYS)


def test_parameters_and_metadata_of_modules_are_understood(tmp_path):
    data = tensor("0", np.ones((2, 2), np.float32))
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), data, True, OrderedDict())
    state = Call(
        Global("collections", "OrderedDict"),
        [["w", parameter]],
        state={"_metadata": OrderedDict({"": {"version": 1}})},
    )
    write_torch_zip(tmp_path / "m.bin", state, [data.arguments[0]])
    np.testing.assert_array_equal(open_tensors(tmp_path / "m.bin")["w"], np.ones((2, 2)))


class Command:
    """Pickled as a call of the shell, as a malicious checkpoint has it."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("place", ["top", "beside", "inside"])
def test_a_checkpoint_that_would_run_a_command_does_not(tmp_path, place):
    touched = tmp_path / "touched"
    pickle.loads(pickle.dumps(Command(touched)))  # the attack works where nobody looks
    assert touched.exists()
    touched.unlink()

    def wrap(state):
        if place == "inside":
            state["x"] = Command(touched)
        return {
            "top": Command(touched),
            "beside": {"callbacks": Command(touched), "state_dict": state},
            "inside": {"state_dict": state},
        }[place]

    write_state_dict(tmp_path / "evil.ckpt", ARRAYS, wrap)
    with pytest.raises(CheckpointError, match=r"evil.ckpt.*calls (posix|nt).system.*nothing was"):
        open_tensors(tmp_path / "evil.ckpt")
    assert not touched.exists()


@pytest.mark.parametrize(
    "path",
    [
        ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"), ("os", "system"),
        ("subprocess", "Popen"), ("collections", "namedtuple"), ("__builtin__", "__import__"),
        ("kerasdiff.checkpoints.presets", "download"), ("torchy", "load"), ("shutil", "rmtree"),
    ],
)  # fmt: skip
def test_names_no_checkpoint_needs_are_refused_by_name(tmp_path, path):
    top = {"epoch": Global(*path), "state_dict": {}}
    write_torch_zip(tmp_path / "evil.ckpt", top, [])
    with pytest.raises(CheckpointError, match=rf"{path[0]}\.{path[1]}"):
        open_tensors(tmp_path / "evil.ckpt")


def test_a_function_of_torch_is_a_placeholder_and_is_not_called(tmp_path):
    code = Call(Global("torch.jit", "load"), "/etc/passwd")
    write_torch_zip(tmp_path / "m.ckpt", {"x": code, "state_dict": {}}, [])
    assert len(open_tensors(tmp_path / "m.ckpt")) == 0
    write_torch_zip(tmp_path / "m.ckpt", {"state_dict": {"x": code}}, [])
    with pytest.raises(CheckpointError, match=r"'x' is torch.jit.load, not a tensor"):
        open_tensors(tmp_path / "m.ckpt")


ROW = Storage("0", np.ones(4, np.float32))


@pytest.mark.parametrize(
    ("top", "complaint"),
    [
        ([1, 2], "holds list"),
        ({"a": 1.5}, "'a' is float, not a tensor"),
        ({3: tensor("0", np.ones(1, np.float32))}, "a name is int, not text"),
        ({"a": view(ROW, (5,), (1,))}, "shape .5,. in 4 elements"),
        ({"a": view(ROW, (2,), (1,), offset=3)}, "in 4 elements"),
        ({"a": view(ROW, (2**40,), (0,))}, "in 4 elements"),
        ({"a": view(ROW, (-1,), (1,))}, "shape or strides"),
        ({"a": view(ROW, (2, 2), (1,))}, "strides"),
        ({"a": view(ROW, (2,), (2.0,))}, "strides"),
        ({"a": view(3, (2,), (1,))}, "without a storage"),
        ({"a": view(Storage("8", np.ones(4, np.float32)), (4,), (1,))}, "'a' is missing"),
        ({"a": Global("torch", "float8_e4m3fn")}, "8-bit floats"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, top, complaint):
    write_torch_zip(tmp_path / "m.ckpt", top, [ROW])
    with pytest.raises(CheckpointError, match=complaint):
        open_tensors(tmp_path / "m.ckpt")


def test_the_state_of_a_checked_tensor_cannot_be_set(tmp_path):
    """BUILD would otherwise write a larger shape past the check of the strides."""
    checked = view(ROW, (4,), (1,))
    checked.state = {"shape": (2**30,)}
    write_torch_zip(tmp_path / "m.ckpt", {"a": checked}, [ROW])
    with pytest.raises(CheckpointError, match="state of a tensor"):
        open_tensors(tmp_path / "m.ckpt")


def test_a_storage_that_claims_more_than_the_zip_holds_is_refused(tmp_path):
    storage = Storage("0", np.ones(4, np.float32))
    storage.claimed = 2**40
    write_torch_zip(tmp_path / "m.ckpt", {"a": view(storage, (2**40,), (1,))}, [storage])
    with pytest.raises(CheckpointError, match="has 16 bytes instead of 4398046511104"):
        open_tensors(tmp_path / "m.ckpt")


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "m.ckpt"
    write_state_dict(path, {"a": np.ones(3, np.float32)})
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="m.ckpt"):
            open_tensors(path)


def test_every_damaged_byte_gives_tensors_or_one_kind_of_error(tmp_path):
    path = tmp_path / "m.ckpt"
    write_state_dict(path, {"a": np.ones(3, np.float32)})
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            for name, array in open_tensors(path).items():
                assert isinstance(name, str) and array.size <= 3
        except CheckpointError:
            pass


def test_other_machines_and_programs_are_named(tmp_path):
    write_torch_zip(tmp_path / "m.ckpt", {}, [])
    with zipfile.ZipFile(tmp_path / "big.ckpt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}, 2))
        archive.writestr("x/byteorder", "big")
    with pytest.raises(CheckpointError, match="big-endian"):
        open_tensors(tmp_path / "big.ckpt")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("x/constants.pkl", b"")
        archive.writestr("x/code/data.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        open_tensors(tmp_path / "script.pt")


def test_what_unpacks_to_more_than_is_asked_for_takes_no_memory(tmp_path):
    data = Storage("0", np.zeros(2**24, np.float32))  # 64 MiB, packed into 64 KiB
    top = {"a": view(data, (2, 2), (1, 2), offset=5)}
    write_torch_zip(tmp_path / "m.ckpt", top, [data], compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "order.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/byteorder", bytes(2**26))
    tracemalloc.start()
    assert open_tensors(tmp_path / "m.ckpt")["a"].tolist() == [[0, 0], [0, 0]]
    assert not open_tensors(tmp_path / "order.ckpt")
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()


def resized(path, entry, size):
    """Makes a zip claim another unpacked size of one of its entries, last in its directory."""
    data = bytearray(path.read_bytes())
    at = data.rindex(entry.encode()) - 46  # the directory's record ends with the name
    assert data[at : at + 4] == b"PK\1\2"
    data[at + 24 : at + 28] = struct.pack("<I", size)
    path.write_bytes(data)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("entry", ["data.pkl", "byteorder", "data/0"])
def test_a_zip_bomb_takes_no_memory_whatever_size_it_claims(tmp_path, compression, entry):
    state = {"a": view(Storage("0", np.zeros(2, np.float32)), (1,), (1,), offset=1)}
    path = tmp_path / "m.ckpt"
    write_torch_zip(path, state, [])
    with zipfile.ZipFile(path) as archive:
        texts = {"data.pkl": archive.read("archive/data.pkl"), "byteorder": b"", "data/0": b""}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in sorted(texts, key=lambda name: name == entry):
            bomb = bytes(2**25) if name == entry else b""
            archive.writestr(f"archive/{name}", texts[name] + bomb)
    resized(path, f"archive/{entry}", 8)
    if entry != "data/0":
        resized(path, "archive/data/0", 8)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="m.ckpt"):
        open_tensors(path)["a"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


def test_a_pickle_shorter_than_the_zip_says_is_refused(tmp_path):
    path = tmp_path / "m.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    resized(path, "archive/data.pkl", 8)
    with pytest.raises(CheckpointError, match="shorter than the zip says"):
        open_tensors(path)
