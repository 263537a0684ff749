"""TFRecord files with random access, in NumPy alone.

A record is its length (8 bytes), a checksum of the length (4), the data, and a checksum of the
data (4), all little endian. The checksum is CRC-32C (RFC 3720, B.4), rotated and with a constant
added so that checksums of checksums differ (TensorFlow's `lib/hash/crc32c.h`). Read like this, any
record can be had by its offset, and processes that load data need no TensorFlow.
"""

import functools
import mmap
import os

import numpy as np

HEADER, FOOTER = 12, 4
MAX_RECORD = 1 << 28
"""Longer records, in bytes, are refused: they hold more than the largest picture that is read."""


def write_record(file, data):
    """Appends a record to an open binary file."""
    length = len(data).to_bytes(8, "little")
    for part in (length, data):
        file.write(part)
        file.write(masked_crc32c(part).to_bytes(4, "little"))


def scan_records(path):
    """The records of a file one after another, without reading what is not looked at.

    Lengths and their checksums are checked, data is not.

    Yields:
        Offset of the record, and its data as a memoryview of the mapped file.

    Raises:
        ValueError: the file does not consist of whole records; it names file and offset.
    """
    size = os.path.getsize(path)
    if not size:
        return  # no records; an empty file cannot be mapped
    with open(path, "rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    offset = 0
    while offset < len(view):
        length = _length(path, offset, bytes(view[offset : offset + HEADER]), len(view))
        yield offset, view[offset + HEADER : offset + HEADER + length]
        offset += HEADER + length + FOOTER


def read_record(path, offset):
    """The data of the record at `offset`, as bytes; ValueError if a checksum is wrong."""
    with open(path, "rb") as file:
        file.seek(offset)
        size = os.fstat(file.fileno()).st_size
        length = _length(path, offset, file.read(HEADER), size)
        data, checksum = file.read(length), file.read(FOOTER)
    if masked_crc32c(data) != int.from_bytes(checksum, "little"):
        raise ValueError(f"{path}: the record at byte {offset} is damaged (checksum of the data)")
    return data


def _length(path, offset, header, file_size):
    length = int.from_bytes(header[:8], "little")
    where = f"{path}: the record at byte {offset}"
    if len(header) < HEADER:
        raise ValueError(f"{where} is cut off within its header")
    if masked_crc32c(header[:8]) != int.from_bytes(header[8:], "little"):
        gzip = header.startswith(b"\x1f\x8b") and not offset
        hint = ": a compressed file; decompress it first" if gzip else ""
        raise ValueError(f"{where} is damaged (checksum of the length){hint}")
    if length > MAX_RECORD:
        raise ValueError(f"{where} is {length} bytes long; at most {MAX_RECORD} are read")
    if offset + HEADER + length + FOOTER > file_size:
        raise ValueError(f"{where} is {length} bytes long, and the file ends before that")
    return length


def masked_crc32c(data):
    """The checksum that stands in TFRecord files."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data):
    """CRC-32C (Castagnoli) of bytes, as an int.

    A CRC is linear: of two halves, that of the first, moved on by as many zero bytes as the second
    has, and that of the second add up (by exclusive or). So lanes of 64 bytes advance together,
    and are then joined in pairs. Zeros in front change nothing where the CRC starts at 0, and
    a start at all ones is the same as flipping the first 32 bits.
    """
    if len(data) < 256:
        crc = 0xFFFFFFFF
        for byte in data:
            crc = _table_list()[(crc ^ byte) & 255] ^ (crc >> 8)
        return crc ^ 0xFFFFFFFF
    lanes = np.zeros((-(-len(data) // 64), 64), "uint8")
    flat = lanes.reshape(-1)[-len(data) :]
    flat[:] = np.frombuffer(data, "uint8")
    flat[:4] ^= 255
    table, crc = _table(), np.zeros(len(lanes), "uint32")
    for column in lanes.T.copy():  # (lanes, 64) -> (64, lanes)
        crc = table[(crc ^ column) & 255] ^ (crc >> 8)
    level = 6  # a lane has 2**6 bytes
    while len(crc) > 1:
        crc = np.concatenate([np.zeros(len(crc) % 2, "uint32"), crc])
        crc = _times(_zeros(level), crc[0::2]) ^ crc[1::2]
        level += 1
    return int(crc[0]) ^ 0xFFFFFFFF


@functools.cache
def _table():
    """What each byte does to a CRC: (256,) uint32."""
    table = np.arange(256, dtype="uint32")
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ 0x82F63B78, table >> 1)
    return table.astype("uint32")


@functools.cache
def _table_list():
    return _table().tolist()


@functools.cache
def _zeros(level):
    """What 2**level zero bytes do to each bit of a CRC: a matrix of bits, (32,) uint32."""
    if level:
        return _times(_zeros(level - 1), _zeros(level - 1))
    bits = np.uint32(1) << np.arange(32, dtype="uint32")
    return _table()[bits & 255] ^ (bits >> 8)


def _times(matrix, vectors):
    """A matrix (32,) of bits times vectors (n,) of bits: uint32 (n,)."""
    result = np.zeros_like(vectors)
    for i in range(32):
        result ^= (vectors >> i & 1) * matrix[i]
    return result
