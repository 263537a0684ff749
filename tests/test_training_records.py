"""TFRecord files and Example messages, held against TensorFlow's and the CRC's definition."""

import numpy as np
import pytest
import tensorflow as tf

from kerasdiff.training.data.examples import decode_example, encode_example
from kerasdiff.training.data.records import crc32c, read_record, scan_records, write_record


def bits_of_crc32c(data):
    """CRC-32C by its definition, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next two: RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"", 0),
    ],
)
def test_checksums_are_those_of_the_standard(data, expected):
    assert crc32c(data) == expected


@pytest.mark.parametrize("length", [255, 256, 257, 319, 320, 321, 1000, 4096, 20_011])
def test_lanes_give_the_checksum_of_the_definition(length):
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == crc32c(memoryview(data)) == bits_of_crc32c(data)


@pytest.mark.parametrize("place", [0, 3, 4, 63, 500, 999])
def test_any_changed_bit_changes_the_checksum(place):
    data = bytearray(1000)
    data[place] = 1
    assert crc32c(data) != crc32c(bytes(1000))


def test_records_pass_to_tensorflow_and_back(tmp_path):
    data = [np.random.default_rng(n).bytes(n) for n in (0, 1, 300, 70_000)]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for each in data:
            writer.write(each)
    with open(tmp_path / "ours", "wb") as file:
        for each in data:
            write_record(file, each)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    found = list(scan_records(tmp_path / "theirs"))
    assert [bytes(view) for _, view in found] == data
    assert [read_record(tmp_path / "theirs", offset) for offset, _ in found] == data


def test_every_damaged_byte_of_a_record_is_noticed(tmp_path):
    path = tmp_path / "a"
    with open(path, "wb") as file:
        write_record(file, b"some data")
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="the record at byte 0 is damaged"):
            read_record(path, 0)


LISTS = {
    "bytes_list": tf.train.BytesList,
    "int64_list": tf.train.Int64List,
    "float_list": tf.train.FloatList,
}


def feature(**lists):
    return tf.train.Feature(**{kind: LISTS[kind](value=value) for kind, value in lists.items()})


def serialized(**features):
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def test_examples_of_tensorflow_are_read():
    data = serialized(
        texts=feature(bytes_list=[b"x", b"", b"long" * 100]),
        numbers=feature(int64_list=[0, -1, 300, 1 << 62]),
        floats=feature(float_list=[1.0]),
        nothing=feature(),
        unasked=feature(bytes_list=[b"y"]),
    )
    assert decode_example(data, {"texts", "numbers", "floats", "nothing", "absent"}) == {
        "texts": [b"x", b"", b"long" * 100],
        "numbers": [0, -1, 300, 1 << 62],
        "floats": [],
        "nothing": [],
    }


def test_numbers_that_are_not_packed_are_read():
    data = b"\x0a\x0e\x0a\x0c\x0a\x01n\x12\x07\x1a\x05\x08\x05\x08\xac\x02"
    assert list(tf.train.Example.FromString(data).features.feature["n"].int64_list.value) == [
        5,
        300,
    ]
    assert decode_example(data, {"n"}) == {"n": [5, 300]}


def test_examples_are_written_as_tensorflow_writes_them():
    ours = encode_example({"b": b"x" * 300, "a": 70_000, "empty": b"", "zero": 0})
    theirs = tf.train.Example.FromString(ours)
    assert theirs.SerializeToString(deterministic=True) == ours
    assert theirs.features.feature["a"].int64_list.value == [70_000]
    assert theirs.features.feature["b"].bytes_list.value == [b"x" * 300]


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x05abc",  # five bytes announced, three there
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # 2**64 - 1 bytes
        b"\x0a" + b"\x80" * 12,  # a number without end
        b"\x0b",  # a group
        b"\x08\x05",  # a number where the features belong
        b"\x0a\x02\x08\x05",
        b"\x0a",
    ],
)
def test_what_is_no_example_is_refused(data):
    with pytest.raises(ValueError, match="not a tf.train.Example"):
        decode_example(data, {"a"})


def test_damage_gives_features_or_a_value_error():
    rng = np.random.default_rng(0)
    whole = serialized(a=feature(bytes_list=[b"text"]), n=feature(int64_list=[5, 300]))
    refused = 0
    for _ in range(2000):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        try:
            assert isinstance(decode_example(data[: rng.integers(1, 60)], {"a", "n"}), dict)
        except ValueError:
            refused += 1
    assert 500 < refused < 2000
