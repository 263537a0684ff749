"""A small pickle takes little time and memory, whatever it describes, and says what is wrong."""

import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import pytest

from kerasdiff.checkpoints.files import CheckpointError, open_tensors


def write_pickle(path, text):
    """A zip of PyTorch's with this pickle, and a storage "0" of two float32."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", text)
        archive.writestr("archive/data/0", bytes(8))


def text(string):
    return b"X" + struct.pack("<I", len(string)) + string.encode()


def doubled(empty, join):
    """Opcodes of something that holds another twice, which does so too, 60 times."""
    return empty + (b"q\x01" + join) * 60


def shaped(sizes):
    """Opcodes of a tensor of this shape, and strides of the same numbers."""
    return TENSOR.replace(b"K\x02\x85K\x01\x85", b"(" + sizes + b"tq\x05h\x05")


TUPLES = doubled(b")", b"h\x01\x86")
LISTS = doubled(b"]", b"0]h\x01ah\x01a")
FROZENSETS = doubled(b"(\x91", b"0(h\x01(h\x01\x91\x91")
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n"
    + text("0") + text("cpu") + b"K\x02tQK\x00K\x02\x85K\x01\x85tR"
)  # fmt: skip
TABLE = b"ccollections\nOrderedDict\nq\x02"
PAIRS = b"]q\x03" + b"".join(b"](M" + struct.pack("<H", i) + b"Nea" for i in range(2**14))
STATE = b"}q\x03(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(2**14)) + b"u"
HUGE = b"\x8b" + struct.pack("<I", 2**16) + b"\x7f" * 2**16 + b"q\x04"
READ = """
import resource, sys
from kerasdiff.checkpoints.files import CheckpointError, open_tensors
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
try:
    print(sorted(open_tensors(sys.argv[1])))
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "opcodes, told",
    [
        (b"}(" + text("name") + LISTS + text("string_to_param") + b"}" + text("*") + TENSOR + b"su",
         "['*']"),
        (b"}" + TUPLES + b"Ns", "a name is _Tuple, not text"),
        (b"(" + TUPLES + b"Nd", "a name is _Tuple, not text"),
        (TABLE + b"]](" + TUPLES + b"Nea\x85R", "a name is _Tuple, not text"),
        (b"]\x8f(" + TUPLES + b"\x90a", "holds list, not a table"),
        (b"](" + TUPLES + b"\x91a", "holds list, not a table"),
        (b"}" + FROZENSETS + b"Ns" + FROZENSETS.replace(b"\x01", b"\x05") + b"Ns",
         "a name is _Placeholder, not text"),
        (b"](" + TABLE + PAIRS + b"h\x02h\x03\x85R" * 2**13 + b"e", "holds list, not a table"),
        (b"](" + TABLE + STATE + b"h\x02)Rh\x03b" * 2**13 + b"e", "holds list, not a table"),
        (b"]" + HUGE + shaped(b"h\x04" * 2**14) + b"a", "shape or strides are no whole numbers"),
        (b"]" + HUGE + shaped(b"h\x04") + b"a", "shape or strides are no whole numbers"),
        (shaped(b"K\x00" * 65), "shape or strides are no whole numbers"),
        (b"\x96" + struct.pack("<Q", 2**34), "its pickle is damaged"),
        (b"]" * 2**24, "its pickle takes 16777"),
    ],
)  # fmt: skip
def test_a_small_pickle_takes_little_time_and_memory(tmp_path, opcodes, told):
    write_pickle(tmp_path / "evil.ckpt", b"\x80\x02" + opcodes + b".")
    command = [sys.executable, "-c", READ, tmp_path / "evil.ckpt"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert told in result.stdout, result.stderr


def test_a_memo_index_beyond_all_memory_takes_none(tmp_path):
    write_pickle(tmp_path / "m.ckpt", b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b".")
    tracemalloc.start()
    assert not open_tensors(tmp_path / "m.ckpt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_table_that_holds_itself_is_refused(tmp_path):
    loop = b"\x80\x02}q\x00X\x0a\x00\x00\x00state_dictq\x01h\x00s."
    write_pickle(tmp_path / "m.ckpt", loop)
    with pytest.raises(CheckpointError, match="'state_dict' is dict, not a tensor"):
        open_tensors(tmp_path / "m.ckpt")


def test_a_name_that_unfolds_without_end_is_not_told(tmp_path):
    lists = b"]" + b"q\x000](h\x00h\x00e" * 40  # each holds the one before twice
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + lists
    evil = b"\x80\x02}X\x01\x00\x00\x00a" + storage + b"X\x03\x00\x00\x00cpuK\x01tQs."
    write_pickle(tmp_path / "m.ckpt", evil)
    with pytest.raises(CheckpointError, match="a storage without a name"):
        open_tensors(tmp_path / "m.ckpt")


def test_keys_and_sets_that_are_no_names_may_lie_beside_the_weights(tmp_path):
    beside = {(1, 2): {3, (4, 5)}, frozenset([6]): (7, [8])}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        write_pickle(tmp_path / "m.ckpt", pickle.dumps({"x": beside, "state_dict": {}}, protocol))
        assert not open_tensors(tmp_path / "m.ckpt")
