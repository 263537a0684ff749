"""Files are known by what they hold; what they are instead is said; shards stay in their folder."""

import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kerasdiff.checkpoints.files import (
    CheckpointError,
    open_tensors,
    read_json,
    whole_folder,
    write_safetensors,
)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git-LFS pointer"),
        (b"\n<!DOCTYPE html><html>Access denied</html>", "a web page"),
        (b"just some words, more than eight", "a text file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02", "before 1.6"),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "a picture"),
        (bytes(100), "unknown format"),
        (b"PK\3\4 damaged", "not loaded"),
    ],
)
def test_what_is_not_a_checkpoint_is_said_to_be_what_it_is(tmp_path, content, complaint):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        open_tensors(path)
    assert complaint in str(error.value) and str(path) in str(error.value)


def test_a_missing_file_a_folder_and_another_zip_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        open_tensors(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="is a directory"):
        open_tensors(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="a zip file, not a checkpoint"):
        open_tensors(tmp_path / "a.zip")


def test_a_wrong_suffix_does_not_matter(tmp_path):
    write_safetensors(tmp_path / "model.ckpt", {"a": np.ones(2, np.float32)})
    np.testing.assert_array_equal(open_tensors(tmp_path / "model.ckpt")["a"], [1, 1])


@pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 100_000, "<html></html>"])
def test_bad_json_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match="config.json"):
        read_json(path)


@pytest.fixture
def sharded(tmp_path):
    write_safetensors(tmp_path / "m-1.safetensors", {"a": np.ones(2, np.float32)})
    write_safetensors(tmp_path / "m-2.safetensors", {"b": np.zeros(3, np.float16)})
    index = tmp_path / "m.safetensors.index.json"

    def write(weight_map):
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return index

    return write


def test_shards_are_seen_as_one(sharded):
    tensors = open_tensors(sharded({"a": "m-1.safetensors", "b": "m-2.safetensors"}))
    assert tensors.shapes == {"a": (2,), "b": (3,)}
    np.testing.assert_array_equal(tensors["a"], [1, 1])
    assert tensors["b"].dtype == np.float16


@pytest.mark.parametrize(
    "shard", ["../m-1.safetensors", "/etc/passwd", "a/b", "a\\b", "C:x", "..", "", 3, None, ["m"]]
)
def test_a_shard_outside_the_folder_is_refused(sharded, shard):
    with pytest.raises(CheckpointError, match="not a file name in its folder"):
        open_tensors(sharded({"a": shard}))


@pytest.mark.parametrize("shard", ["m.safetensors.index.json", "x.index.fp16.json"])
def test_a_shard_that_is_an_index_is_refused(sharded, shard):
    index = sharded({"a": shard})
    (index.parent / shard).write_text(index.read_text())
    with pytest.raises(CheckpointError, match=f"the shard '{shard}' is an index itself"):
        open_tensors(index)


def test_a_shard_nested_to_any_depth_is_refused(sharded):
    index = sharded({})
    limit = sys.getrecursionlimit()
    for depth in range(limit - 100, limit):
        index.write_text(f'{{"weight_map": {{"a": {"[" * depth}{"]" * depth}}}}}')
        with pytest.raises(CheckpointError, match="m.safetensors.index.json"):
            open_tensors(index)


def test_an_index_that_disagrees_with_its_shards_is_refused(sharded):
    with pytest.raises(CheckpointError, match="disagrees with m-1.safetensors about b"):
        open_tensors(sharded({"a": "m-1.safetensors", "b": "m-1.safetensors"}))
    with pytest.raises(CheckpointError, match="no such file"):
        open_tensors(sharded({"a": "m-9.safetensors"}))
    with pytest.raises(CheckpointError, match="has no weight_map"):
        open_tensors(sharded({}))


# Folders that appear whole


def fill(path):
    with whole_folder(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("text")


def test_a_folder_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    seen = set()
    monkeypatch.setattr(os, "fsync", lambda number: seen.add(os.fstat(number).st_ino))
    with whole_folder(tmp_path / "new") as folder:
        (folder / "inner").mkdir()
        for name in ("a", "inner/b", "inner/empty"):
            (folder / name).write_text(name[:7])
    files = [path for path in (tmp_path / "new").rglob("*") if path.is_file()]
    assert seen == {path.stat().st_ino for path in files} and len(seen) == 3


def test_a_disk_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match=f"{tmp_path}/new.*cannot be written: Input/output"):
        fill(tmp_path / "new")
    assert [*tmp_path.iterdir()] == []


def test_a_folder_appears_where_a_link_leads(tmp_path):
    (tmp_path / "empty").mkdir()
    for target in ("empty", "missing"):
        link = tmp_path / f"to {target}"
        link.symlink_to(tmp_path / target, target_is_directory=True)
        fill(link)
        assert link.is_symlink() and (tmp_path / target / "inner" / "file").read_text() == "text"
    assert {path.name for path in tmp_path.iterdir()} == {
        "empty", "missing", "to empty", "to missing",
    }  # fmt: skip


@pytest.mark.parametrize("name", (".", "../here", "link"))
def test_the_current_folder_is_refused_before_anything_is_made(tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here", target_is_directory=True)
    monkeypatch.chdir(tmp_path / "here")
    path = tmp_path / "link" if name == "link" else name
    with pytest.raises(CheckpointError) as error:
        with whole_folder(path):
            pytest.fail("too late")
    assert str(error.value) == (
        f"{path}: is the current folder, which cannot be replaced: name a new folder inside it"
    )
    fill("inside")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["inside"]


def test_a_mount_point_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    (tmp_path / "volume").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "volume", target_is_directory=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "volume")
    for path in (tmp_path / "volume", tmp_path / "link"):
        with pytest.raises(CheckpointError, match=f"{path}: is a mount point.*a new folder inside"):
            with whole_folder(path):
                pytest.fail("too late")
    fill(tmp_path / "volume" / "inside")


@pytest.mark.parametrize("name", ("a file", "a link to a file", "a full folder"))
def test_what_is_there_is_not_replaced(tmp_path, name):
    fill(tmp_path / "a full folder")
    (tmp_path / "a file").write_text("text")
    (tmp_path / "a link to a file").symlink_to(tmp_path / "a file")
    with pytest.raises(CheckpointError, match=f"{name}: exists and is not an empty folder"):
        with whole_folder(tmp_path / name):
            pytest.fail("too late")
