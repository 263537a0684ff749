"""Safetensors: read what the reference package writes, write what it reads, refuse the rest."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from kerasdiff.checkpoints.files import CheckpointError, Tensors, open_tensors, write_safetensors
from kerasdiff.checkpoints.tensors import LazyTensor

ARRAYS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.array([1, -2, 3], np.int64),
    "half": np.array([[0.5, -2]], np.float16),
    "brain": np.array([1.5, 3.0, -7], ml_dtypes.bfloat16),
    "flag": np.array([True, False, True]),
    "scalar": np.array(3.5, np.float32),
    "none": np.zeros((0, 4), np.float32),
}


def raw(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    count = len(text) if length is None else length
    path.write_bytes(count.to_bytes(8, "little") + text + data)
    return path


def entry(begin, end, shape=(4,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_reads_what_the_reference_package_writes(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(ARRAYS, path, {"format": "pt"})
    with open_tensors(path) as tensors:
        assert set(tensors) == set(ARRAYS)
        assert tensors.metadata == {"format": "pt"}
        for name, array in ARRAYS.items():
            assert tensors.shape(name) == array.shape
            assert tensors.dtype(name) == array.dtype == tensors[name].dtype
            np.testing.assert_array_equal(tensors[name], array)


def test_the_reference_package_reads_what_is_written(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, ARRAYS, {"format": "pt"})
    loaded = safetensors.numpy.load_file(path)
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
    assert open_tensors(path).metadata == {"format": "pt"}


def test_arrays_are_views_of_the_file_and_outlive_it(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, ARRAYS)
    with open_tensors(path) as tensors:
        array = tensors["a.weight"]
    assert not array.flags.owndata and not array.flags.writeable
    np.testing.assert_array_equal(array, ARRAYS["a.weight"])


def test_a_file_is_found_again_from_another_folder(tmp_path, monkeypatch):
    write_safetensors(tmp_path / "a.safetensors", ARRAYS)
    (tmp_path / "other").mkdir()
    write_safetensors(tmp_path / "other" / "a.safetensors", {"a.weight": ARRAYS["a.weight"] + 1})
    monkeypatch.chdir(tmp_path)
    tensors = open_tensors("a.safetensors")
    monkeypatch.chdir(tmp_path / "other")
    np.testing.assert_array_equal(tensors["a.weight"], ARRAYS["a.weight"])


@pytest.mark.parametrize("change", ("shorter", "as long", "in place", "touched"))
def test_a_file_that_was_changed_after_it_was_opened_is_not_read(tmp_path, change):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": np.zeros(1000, np.float32)})
    os.utime(path, ns=(0, 10**18))  # long ago: clocks of file systems may be coarse
    tensors = open_tensors(path)
    before = tensors["a"]
    if change == "shorter":
        write_safetensors(path, {"a": np.ones(1000, np.float16)})
    elif change == "as long":
        write_safetensors(path, {"a": np.ones(1000, np.float32)})
    elif change == "in place":
        with path.open("r+b") as file:
            file.write(path.read_bytes())
    else:
        path.touch()
    with pytest.raises(CheckpointError) as error:
        tensors["a"]
    assert str(error.value) == (
        f"{path}: was changed after it was opened: open the checkpoint again to read what it holds"
    )
    np.testing.assert_array_equal(before, np.zeros(1000, np.float32))
    assert set(open_tensors(path)) == {"a"} and open_tensors(path)["a"].shape == (1000,)


def test_a_file_that_is_gone_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, ARRAYS)
    tensors = open_tensors(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="a.safetensors: cannot be read: No such file"):
        tensors["a.weight"]


def test_a_file_is_not_held_open_and_may_be_replaced(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, ARRAYS)
    tensors = open_tensors(path)
    assert not [name for name in _open_files() if name == str(path)]
    write_safetensors(path, tensors)  # over itself
    np.testing.assert_array_equal(open_tensors(path)["a.weight"], ARRAYS["a.weight"])


def _open_files():
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        pytest.skip("the system does not list open files")
    for number in os.listdir(folder):
        try:
            yield os.readlink(f"{folder}/{number}")
        except FileNotFoundError:  # what listed them
            pass


@pytest.mark.parametrize(
    ("header", "data", "complaint"),
    [
        (b"{not json", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not a checkpoint"),
        (b'{"a":' + b"[" * 100_000, b"", "not valid JSON"),
        (b'{"a":\xff}', b"", "not valid JSON"),
        ({"a": entry(0, 16), "b": entry(8, 24)}, bytes(24), "'b' at byte 8 overlaps"),
        ({"a": entry(0, 16), "b": entry(0, 16)}, bytes(16), "'b' at byte 0 overlaps"),
        ({"a": entry(4, 20)}, bytes(20), "leaves a gap"),
        ({"a": entry(0, 16)}, bytes(15), "truncated"),
        ({"a": entry(0, 16)}, bytes(17), "longer than its tensors"),
        ({"a": entry(0, 12)}, bytes(12), "needs 16 bytes"),
        ({"a": entry(16, 0)}, bytes(16), "needs 16 bytes"),
        ({"a": entry(-16, 0)}, bytes(16), "offsets"),
        ({"a": entry(0, 2**70, (2**68,))}, bytes(16), "truncated"),
        ({"a": entry(0, 16, (True, 4))}, bytes(16), "shape"),
        ({"a": entry(0, 16, (-2, -2))}, bytes(16), "shape"),
        ({"a": entry(0, 16, (4.0,))}, bytes(16), "shape"),
        ({"a": entry(0, 4, dtype="F8_E4M3")}, bytes(4), "8-bit floats (F8_E4M3)"),
        ({"a": entry(0, 4, dtype="Q4")}, bytes(4), "unknown dtype 'Q4'"),
        ({"a": {"dtype": "F32", "shape": [4]}}, bytes(16), "lacks"),
        ({"a": 3}, b"", "lacks"),
        ({"__metadata__": {"a": 1}}, b"", "not a table of strings"),
        (b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 16)).encode(),) * 2), bytes(16), "twice"),
        (
            b"{%s}" % b",".join(b'"%d":0' % min(i, 199_998) for i in range(200_000)),
            b"",
            "'199998' t",
        ),
        (b'{"a":%s}' % (b"9" * 5000), b"", "not valid JSON"),
    ],
)
def test_a_bad_header_is_named(tmp_path, header, data, complaint):
    path = raw(tmp_path / "bad.safetensors", header, data)
    with pytest.raises(CheckpointError) as error:
        open_tensors(path)
    assert complaint in str(error.value) and "bad.safetensors" in str(error.value)


@pytest.mark.parametrize("length", [10**6, 2**40, 2**63])
def test_a_header_longer_than_the_file_takes_no_memory(tmp_path, length):
    path = raw(tmp_path / "bad.safetensors", {"a": entry(0, 16)}, bytes(16), length)
    with pytest.raises(CheckpointError, match="bad.safetensors"):
        open_tensors(path)


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": np.ones(3, np.float32)})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="a.safetensors"):
            open_tensors(path)


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": np.ones(3, np.float32)})
    old = path.read_bytes()

    def fail():
        raise RuntimeError("no more data")

    broken = Tensors("test", {"a": LazyTensor((3,), np.dtype(np.float32), fail)})
    with pytest.raises(RuntimeError, match="no more data"):
        write_safetensors(path, broken)
    lying = Tensors("test", {"a": LazyTensor((4,), np.dtype("f4"), lambda: np.ones(3, "f4"))})
    with pytest.raises(CheckpointError, match="announced"):
        write_safetensors(path, lying)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_place_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_safetensors(tmp_path / "missing" / "a.safetensors", {"a": np.ones(3, np.float32)})
    with pytest.raises(CheckpointError, match="complex"):
        write_safetensors(tmp_path / "a.safetensors", {"a": np.ones(3, np.complex64)})
    assert not list(tmp_path.iterdir())


def test_cast_changes_floats_alone_and_refuses_to_overflow():
    tensors = Tensors.of({"w": np.array([1.0, 65504], np.float32), "n": np.array([7])})
    half = tensors.cast("float16")
    assert half["w"].dtype == half.dtype("w") == np.float16
    assert half["n"].dtype == np.int64
    np.testing.assert_array_equal(half["w"], [1, 65504])
    with pytest.raises(CheckpointError, match="'w' holds NaN or infinity as float16, in 1 of 2"):
        Tensors.of({"w": np.array([1.0, 70000], np.float32)}).cast("float16")["w"]
    with pytest.raises(ValueError, match="float8"):
        tensors.cast("float8")
