"""Compiled programs outlive the process, in a folder that is safe to take programs from."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest

from kerasdiff.backend import kept_programs
from kerasdiff.backend.kept_programs import forget_programs, programs_folder

RUN = """
import keras
import numpy as np
from kerasdiff.backend import Program, prepare_compiler
prepare_compiler()
layer = keras.layers.Dense(8)
layer.build((2, 4))
layer.kernel.assign(np.arange(32.0).reshape(4, 8) / 7.0)
model = keras.Sequential([layer])
program = Program(lambda x: keras.ops.exp(keras.ops.tanh(layer(x))), model, True)
print(np.asarray(program(np.arange(8.0).reshape(2, 4).astype("float32"))).tobytes().hex())
"""

TRAIN = """
import keras
import numpy as np
from kerasdiff.backend import prepare_compiler, training_function
prepare_compiler()
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones")])
model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=JIT)
batch = np.arange(8.0).reshape(2, 4).astype("float32"), np.ones((2, 1), "float32")
step = training_function(model)
step(iter([batch]))
print(model.get_weights()[0].tobytes().hex(), int(model.optimizer.iterations))
"""
PART = """
import keras
import numpy as np
from kerasdiff.attention import attention
from kerasdiff.backend import prepare_compiler, training_forms
from kerasdiff.backend.tensorflow_programs import compile_function
prepare_compiler()

def mix(x):
    with training_forms():
        return attention(x, x, x, query_chunk_size=4, key_chunk_size=8)

x = np.arange(240).reshape(1, 30, 2, 4).astype("float32") % 7
print(np.asarray(compile_function(mix, False, lambda: None)(x)).tobytes().hex())
"""
PROGRAMS = {
    "picture": RUN,
    "training step": TRAIN.replace("JIT", "True"),
    "update": TRAIN.replace("JIT", "False"),
    "part of a step": PART,
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERASDIFF_HOME", str(tmp_path))
    for name in ("TF_XLA_FLAGS", "KERASDIFF_KEEP_PROGRAMS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def answer(code=RUN):
    """What a new process computes by XLA."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def kept(home):
    """Name to (bytes, time of writing) of what is kept."""
    files = [path for path in (home / "programs").rglob("*") if path.is_file()]
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="module")
def firsts(tmp_path_factory):
    """Name of a program to what a first process gave, and a folder with what it kept."""
    return {}, tmp_path_factory.mktemp("firsts")


@pytest.fixture
def first(home, firsts):
    """Has a first process run a program, once for all tests: gives what that gave, and its file."""
    answers, folder = firsts

    def run(name):
        if name not in answers:
            answers[name] = answer(PROGRAMS[name])
            shutil.copytree(home, folder / name)
        else:
            shutil.copytree(folder / name, home, dirs_exist_ok=True)
        [path] = [path for path in (home / "programs").rglob("*") if path.is_file()]
        return answers[name], path

    return run


@pytest.mark.parametrize(
    "work", ("", "[keras.ops.ones(i) * 2 for i in range(9)]\n"), ids=("no work", "other work")
)
@pytest.mark.parametrize("code", ("picture", "training step", "part of a step"))
def test_the_next_process_takes_what_the_first_compiled(home, first, code, work):
    """Whatever other work it did before."""
    given, _ = first(code)
    written = kept(home)
    assert len(written) == 1
    again = PROGRAMS[code].replace("prepare_compiler()\n", f"prepare_compiler()\n{work}")
    assert answer(again) == given
    assert kept(home) == written


@pytest.mark.parametrize("code, left", [("picture", 0), *((code, 100) for code in PROGRAMS)])
def test_a_program_that_was_cut_off_is_compiled_again(home, first, code, left):
    given, path = first(code)
    path.write_bytes(path.read_bytes()[:left])
    assert answer(PROGRAMS[code]) == given
    assert all(size > 100 for size, _ in kept(home).values())


def test_nothing_is_kept_where_the_user_says_so(home, monkeypatch):
    monkeypatch.setenv("KERASDIFF_KEEP_PROGRAMS", "0")
    assert programs_folder("xla-1") is None
    answer()
    assert not (home / "programs").exists()


def test_a_folder_of_the_user_s_own_stays(home, monkeypatch):
    own = home / "own"
    own.mkdir()
    monkeypatch.setenv("TF_XLA_FLAGS", f"--tf_xla_persistent_cache_directory={own}")
    answer()
    assert len(list(own.iterdir())) == 1
    assert not (home / "programs").exists()


def test_compilers_options_and_processors_are_kept_apart(home, monkeypatch):
    folders = [programs_folder("xla-1"), programs_folder("xla-2")]
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX2")
    folders.append(programs_folder("xla-1"))
    monkeypatch.setattr(kept_programs.platform, "machine", lambda: "another")
    folders.append(programs_folder("xla-1"))
    assert len(set(folders)) == 4


def test_a_program_of_other_options_is_not_taken(home, first, monkeypatch):
    first("picture")
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=1")
    answer()
    folders = list((home / "programs").iterdir())
    assert [len(list(folder.iterdir())) for folder in folders] == [1, 1]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")
def test_a_folder_that_others_may_write_to_is_not_used(home):
    folder = programs_folder("xla-1")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    assert programs_folder("xla-1") is None


def test_nothing_is_kept_on_a_disk_that_is_nearly_full(home, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 1 << 20))
    assert programs_folder("xla-1") is None


def test_nothing_is_kept_where_no_folder_can_be_made(home, monkeypatch):
    (home / "file").write_text("in the way")
    monkeypatch.setenv("KERASDIFF_HOME", str(home / "file"))
    assert programs_folder("xla-1") is None


def test_the_oldest_go_when_there_are_too_many(home, monkeypatch):
    folder = programs_folder("xla-1")
    for i in range(4):
        (folder / str(i)).write_bytes(bytes(100))
        os.utime(folder / str(i), (i, i))
    monkeypatch.setattr(kept_programs, "LARGEST", 250)
    assert programs_folder("xla-1") == folder
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]
    forget_programs(folder)
    assert not list(folder.iterdir())
