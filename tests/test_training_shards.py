"""Shards: what is written is read, here and by TensorFlow; what cannot be used is refused."""

import pickle

import numpy as np
import pytest
import tensorflow as tf
from picture_cases import pixels
from PIL import Image
from shard_cases import example, items, put

from kerasdiff.training.data import records, shards
from kerasdiff.training.data.pictures import PictureFolder
from kerasdiff.training.data.shards import Shards, write_shards

# What is written and read


def test_what_is_written_is_read(tmp_path):
    paths = write_shards(items(7), tmp_path / "new", items_per_shard=3)
    assert [path.name for path in paths] == [f"pictures-{i:05}-of-00003.tfrecord" for i in range(3)]
    assert sorted((tmp_path / "new").iterdir()) == paths, "nothing else is left there"
    source = Shards(tmp_path / "new")
    assert len(source) == 7 and source.skipped == {}
    assert source.sizes == [picture.shape[:2] for picture, _ in items(7)]
    for i, (picture, caption) in enumerate(items(7)):
        np.testing.assert_array_equal(source[i][0], picture)
        assert source[i][1] == caption
    with pytest.raises(IndexError):
        source[7]


def test_a_folder_of_pictures_becomes_shards(tmp_path):
    for i in range(3):
        Image.fromarray(pixels(16, 16, i)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(str(i))
    folder = PictureFolder(tmp_path, size=8)
    write_shards(folder, tmp_path / "shards")
    source = Shards(tmp_path / "shards")
    for i in range(3):
        np.testing.assert_array_equal(source[i][0], folder[i][0])
        assert source[i][1] == folder[i][1]


def test_tensorflow_reads_what_is_written(tmp_path):
    (path,) = write_shards(items(3), tmp_path)
    found = [
        tf.train.Example.FromString(record.numpy()).features.feature
        for record in tf.data.TFRecordDataset(str(path))
    ]
    for (picture, caption), features in zip(items(3), found, strict=True):
        assert set(features) == {"image/encoded", "image/height", "image/width", "caption"}
        assert features["image/height"].int64_list.value == [picture.shape[0]]
        assert features["image/width"].int64_list.value == [picture.shape[1]]
        assert features["caption"].bytes_list.value == [caption.encode()]
        decoded = tf.io.decode_png(features["image/encoded"].bytes_list.value[0])
        np.testing.assert_array_equal(decoded, picture)


def test_shards_of_others_are_read(tmp_path):
    smooth = np.full((24, 16, 3), (200, 100, 50), "uint8")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter
    put(
        tmp_path / "theirs.tfrecord",
        example(smooth, "JPEG", size=(24, 16)),
        example(smooth, "PNG", " their caption "),
        example(smooth, "WEBP"),
        example(smooth, "JPEG", exif=exif),
    )
    source = Shards(tmp_path / "theirs.tfrecord")
    assert source.sizes == [(24, 16)] * 3 + [(16, 24)] and source.skipped == {}
    for i in range(4):
        assert source[i][0].shape == (*source.sizes[i], 3)
        assert np.abs(source[i][0].astype(int) - (200, 100, 50)).max() <= 4
    assert source[1][1] == "their caption"


def test_pictures_are_scaled_where_a_size_is_given(tmp_path):
    put(tmp_path / "a.tfrecord", example(pixels(20, 40)), example(pixels(40, 40)))
    assert Shards(tmp_path, size=16).sizes == [(16, 16)] * 2
    source = Shards(tmp_path, buckets=[(16, 32), (24, 24)])
    assert source.sizes == [(16, 32), (24, 24)]
    assert [source[i][0].shape[:2] for i in range(2)] == source.sizes


def test_folders_files_and_patterns_mean_the_same(tmp_path):
    folder = tmp_path / "with [brackets]"
    write_shards(items(4), folder, 2)
    write_shards(items(3), tmp_path / "other")
    assert len(Shards(folder)) == len(Shards(str(folder))) == 4
    assert len(Shards(tmp_path / "other" / "*.tfrecord")) == 3
    assert len(Shards(tmp_path / "other" / "pictures-00000-of-00001.tfrecord")) == 3
    put(tmp_path / "train-00000-of-00002", example())
    put(tmp_path / "train-00001-of-00002")  # no records
    assert len(Shards(tmp_path / "train-*")) == 1


def test_a_source_travels_to_other_processes(tmp_path):
    write_shards(items(5), tmp_path, 2)
    source = Shards(tmp_path)
    other = pickle.loads(pickle.dumps(source))
    assert other[3][1] == source[3][1] == "picture 3 ⛰"
    np.testing.assert_array_equal(other[3][0], source[3][0])


# What is left out


@pytest.mark.parametrize(
    "record, reason",
    [
        (b"no example", "not a tf.train.Example"),
        (b"", "'image/encoded' must hold one string; it holds 0 values"),
        (example(caption=None), "'caption' must hold one string"),
        (example(caption=" "), "the caption is empty"),
        (example(caption="Bäume".encode("latin-1")), "utf-8"),
        (example(size=(0, 8)), "is no size"),
        (example(size=(-8, 8)), "is no size"),
        (example(size=(1 << 40, 1 << 40)), "is no size"),
        (example(pixels(3, 3)), "would enlarge it more than 2 times"),
        (example(caption="x").replace(b"\xff\xd8\xff", b"%PS"), "not a picture"),
        (example(kind="GIF"), "not a picture in one of the formats PNG"),
    ],
)
def test_records_that_cannot_be_used_are_named(tmp_path, record, reason):
    path = put(tmp_path / "a.tfrecord", example(caption="first"), record, example(caption="last"))
    source = Shards(path, size=8)
    assert [caption for _, caption in source] == ["first", "last"]
    assert list(source.skipped) == [f"{path}, record 1"]
    assert reason in source.skipped[f"{path}, record 1"]


def test_shards_without_usable_records_say_why(tmp_path):
    put(tmp_path / "a.tfrecord")
    with pytest.raises(ValueError, match="no record can be used, of 0 found$"):
        Shards(tmp_path)
    put(tmp_path / "b.tfrecord", example(caption=None))
    with pytest.raises(ValueError, match="of 1 found: .*b.tfrecord, record 0: the feature"):
        Shards(tmp_path)


# What is refused on writing


def test_shards_are_not_written_over(tmp_path):
    (path,) = write_shards(items(2), tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="holds TFRecord files already"):
        write_shards(items(3), tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "item",
    [
        (pixels().astype("float32"), "x"),
        (pixels()[..., :1], "x"),
        (pixels()[0], "x"),
        ("picture.png", "x"),
        (pixels(), " "),
        (pixels(), None),
    ],
)
def test_items_that_cannot_be_are_refused_and_nothing_is_left(tmp_path, item):
    with pytest.raises(ValueError, match="item 1: "):
        write_shards([(pixels(), "good"), item], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count, per_shard, name", [(0, 10, "source"), (3, 0, "items_per_shard")])
def test_nothing_to_write_is_refused(tmp_path, count, per_shard, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        write_shards(items(count), tmp_path, per_shard)


def test_a_full_disk_leaves_whole_shards_only(tmp_path, monkeypatch):
    written = []

    def write_record(file, data):
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(data)
        records.write_record(file, data)

    monkeypatch.setattr(shards, "write_record", write_record)
    with pytest.raises(OSError, match="No space.*00001-of-00002.tfrecord"):
        write_shards(items(4), tmp_path, 2)
    (whole,) = tmp_path.iterdir()
    assert whole.name == "pictures-00000-of-00002.tfrecord"
    assert len(list(tf.data.TFRecordDataset(str(whole)))) == 2
