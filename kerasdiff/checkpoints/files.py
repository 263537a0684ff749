"""Opening a file of tensors by what it holds, not by what it is called; writing whole folders."""

import json
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

from kerasdiff.checkpoints.pickles import read_pickle
from kerasdiff.checkpoints.safetensor_files import read_safetensors, write_safetensors
from kerasdiff.checkpoints.tensors import CheckpointError, Tensors
from kerasdiff.files import beside, sync

__all__ = [
    "CheckpointError", "Tensors", "open_tensors", "read_json", "whole_folder", "write_safetensors",
]  # fmt: skip

INDEX = re.compile(r"\.index(\.\w+)?\.json$")
HDF5 = b"\x89HDF\r\n\x1a\n"
MAX_JSON = 100_000_000


def open_tensors(path):
    """Open a file of tensors: safetensors, PyTorch's zip format, or a sharded index of either.

    Args:
        path: a file; for a sharded checkpoint its index (`*.index.json`, `*.index.fp16.json`),
            whose shards lie beside it.

    Returns:
        `Tensors`: names to arrays, read one at a time; also a context manager.

    Raises:
        CheckpointError: naming the file and what it is instead.
    """
    path = Path(path).absolute()  # weights are read later, perhaps from another current folder
    head = _head(path)
    if INDEX.search(path.name):
        return _open_shards(path)
    if head.startswith(b"PK\3\4"):
        return read_pickle(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**48:
        return read_safetensors(path)
    raise CheckpointError(f"{path}: {_what_it_is(head)}, not a checkpoint of tensors")


def read_json(path):
    """The table that a JSON file holds; CheckpointError if it is missing or holds anything else."""
    path = Path(path)
    head = _head(path)
    if path.stat().st_size > MAX_JSON:
        raise CheckpointError(f"{path}: too long for a JSON file")
    try:
        table = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        what = _what_it_is(head)
        raise CheckpointError(f"{path}: {what}, not valid JSON ({error})") from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{path}: holds a {type(table).__name__}, not a table")
    return table


@contextmanager
def whole_folder(path):
    """A folder that appears at `path` complete and on the disk, or, after any error, not at all.

    Gives the folder to fill, which lies beside it.

    Raises:
        CheckpointError: at once if `check_replaceable` does; or `path` cannot be written to.
    """
    place = check_replaceable(path)
    growing = beside(place)
    try:
        growing.mkdir(parents=True)
        yield growing
        for file in growing.rglob("*"):
            if file.is_file():
                sync(file)
        if place.exists():
            place.rmdir()
        growing.rename(place)
    except (OSError, CheckpointError) as error:
        text = str(error)
        if isinstance(error, OSError):
            text = f"{error.filename or path}: cannot be written: {error.strerror or error}"
        # It may name the folder while it grew.
        raise CheckpointError(text.replace(str(growing), str(path))) from error
    finally:
        shutil.rmtree(growing, ignore_errors=True)


def check_replaceable(path):
    """The real path, through links, of a folder that is not there yet or empty.

    Raises:
        CheckpointError: it is a file or holds something, or is an empty folder that must stay.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise CheckpointError(f"{path}: exists and is not an empty folder")
    for found, what in (
        (os.path.ismount(place), "a mount point"), (place == Path.cwd(), "the current folder"),
    ):  # fmt: skip
        if found:
            raise CheckpointError(
                f"{path}: is {what}, which cannot be replaced: name a new folder inside it"
            )
    return place


def _head(path):
    if path.is_dir():
        raise CheckpointError(f"{path}: is a directory, a file was expected")
    try:
        with path.open("rb") as file:
            return file.read(512)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def _what_it_is(head):
    text = head.lstrip().lower()
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a git-LFS pointer: the file itself was not downloaded (run `git lfs pull`)"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, perhaps an error or a licence page saved by a download"
    if head.startswith(HDF5):
        return "an HDF5 file: keras-cv's weights hold one model each, give it as that part"
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04"):
        return (
            "a pickle in PyTorch's format before 1.6: open it once with PyTorch and save it again, "
            "or look for a .safetensors version"
        )
    if head.startswith(b"GGUF"):
        return "a GGUF file"
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return "a picture"
    if all(byte >= 32 or byte in b"\t\n\r" for byte in head):
        return "a text file"
    return "of an unknown format, or truncated"


def _open_shards(path):
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: has no weight_map")
    for shard in weight_map.values():
        if not isinstance(shard, str) or shard in ("", ".", "..") or set(shard) & set("/\\:\0"):
            what = shard if isinstance(shard, str) else type(shard).__name__
            raise CheckpointError(f"{path}: the shard {what!r} is not a file name in its folder")
        if INDEX.search(shard):  # it could name this one
            raise CheckpointError(f"{path}: the shard {shard!r} is an index itself")
    shards = {name: open_tensors(path.parent / name) for name in sorted(set(weight_map.values()))}
    entries = {}
    for shard, tensors in shards.items():
        listed = {name for name, where in weight_map.items() if where == shard}
        if listed != set(tensors):
            odd = sorted(listed.symmetric_difference(tensors))
            raise CheckpointError(f"{path}: disagrees with {shard} about {', '.join(odd[:5])}")
        entries.update(tensors.entries)

    def close():
        for tensors in shards.values():
            tensors.close()

    return Tensors(path, entries, on_close=close)
