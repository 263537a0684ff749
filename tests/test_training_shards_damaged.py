"""Shards that are damaged, cut off, incomplete or none at all are named."""

import shutil

import pytest
import tensorflow as tf
from shard_cases import example, items, put

from kerasdiff.training.data import records
from kerasdiff.training.data.shards import Shards, write_shards


def damage(path, offset, data):
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(data)] = data
    path.write_bytes(whole)


def test_a_changed_byte_is_found_when_it_is_read(tmp_path):
    (path,) = write_shards(items(4), tmp_path)
    _, (offset, _), *_ = records.scan_records(path)
    damage(path, offset + 200, b"\xff\xff")  # amid the picture
    source = Shards(path)
    assert len(source) == 4
    with pytest.warns(UserWarning, match="record 1: .*at byte .* damaged .checksum of the data"):
        picture, caption = source[1]
    assert caption == "picture 3 ⛰", "the next of its size"
    assert list(source.skipped) == [f"{path}, record 1"]


def test_a_wrong_size_is_found_when_it_is_read(tmp_path):
    put(tmp_path / "a.tfrecord", example(size=(16, 20)), example(size=(16, 16)))
    with pytest.warns(UserWarning, match="record 0: is 16x16 and said to be"):
        assert Shards(tmp_path)[0][0].shape == (16, 20, 3)


def test_a_shard_that_vanishes_is_named(tmp_path):
    paths = write_shards(items(4), tmp_path, 2)
    source = Shards(tmp_path)
    paths[0].unlink()
    with pytest.warns(UserWarning, match="00000-of-00002.*No such file"):
        assert source[0][1] == "picture 2 ⛰"


@pytest.mark.parametrize("keep", [5, 12, 40, -1])
def test_a_shard_that_is_cut_off_is_an_error(tmp_path, keep):
    (path,) = write_shards(items(1), tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="pictures-00000.*the record at byte 0 is"):
        Shards(tmp_path)


@pytest.mark.parametrize("length, reason", [(2**60, "at most"), (10_000_000, "the file ends")])
def test_a_length_that_cannot_be_is_an_error(tmp_path, length, reason):
    (path,) = write_shards(items(2), tmp_path)
    _, (offset, _) = records.scan_records(path)
    header = length.to_bytes(8, "little")
    damage(path, offset, header)
    with pytest.raises(ValueError, match=f"at byte {offset} is damaged .checksum of the length"):
        Shards(tmp_path)
    damage(path, offset, header + records.masked_crc32c(header).to_bytes(4, "little"))
    with pytest.raises(ValueError, match=f"pictures.*byte {offset} is {length} bytes.*{reason}"):
        Shards(tmp_path)


@pytest.mark.parametrize("data", [b"no TFRecord file at all", b"short", b"\0" * 100])
def test_what_is_no_shard_is_an_error(tmp_path, data):
    (tmp_path / "a.tfrecord").write_bytes(data)
    with pytest.raises(ValueError, match="a.tfrecord: the record at byte 0"):
        Shards(tmp_path)


def test_compressed_shards_are_named_as_such(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord"), "GZIP") as writer:
        writer.write(example())
    with pytest.raises(ValueError, match="a compressed file"):
        Shards(tmp_path)


def test_an_incomplete_set_is_an_error(tmp_path):
    paths = write_shards(items(4), tmp_path, 1)
    paths[2].unlink()
    with pytest.raises(ValueError, match="00002-of-00004.tfrecord is missing: 3 of 4 shards"):
        Shards(tmp_path)
    with pytest.raises(ValueError, match="00001-of-00004.tfrecord is missing: 1 of 4 shards"):
        Shards(paths[0])


def test_mixed_sets_are_an_error(tmp_path):
    write_shards(items(4), tmp_path, 1)
    (extra,) = write_shards(items(4), tmp_path / "other")
    shutil.move(extra, tmp_path)
    with pytest.raises(ValueError, match=r"sets of \[1, 4\] shards are mixed"):
        Shards(tmp_path)


@pytest.mark.parametrize("name", [".", "absent", "absent-*"])
def test_no_shards_are_an_error(tmp_path, name):
    with pytest.raises(ValueError, match="there is no TFRecord file"):
        Shards(tmp_path / name)
