"""Where compiled programs are kept between runs, so that the second run starts at once.

Weights are a program's inputs: what is kept are instructions alone, some megabytes a program, good
for one version of the compiler, its options and one kind of processor, and kept apart by all three.
They run as you: a folder that others may write to is not used.
"""

import functools
import hashlib
import os
import platform
import shutil
from pathlib import Path

import keras

from kerasdiff.files import cache_folder

LARGEST = 1 << 30  # bytes kept of one compiler's programs; the oldest go first
SWITCH = "KERASDIFF_KEEP_PROGRAMS"


@functools.cache
def keep_programs():
    """Has the compiler keep its programs for the next run of the process; once, for all of it.

    On TensorFlow it must come before the first tensor or question about devices: options are read
    then. Folders that were chosen already, in the environment or by the user's own lines, stay.

    Returns:
        The folder; None where nothing is kept, as with options in a file: programs are told apart
        by those that the environment itself names.
    """
    if any(names_file(variable) for variable in ("XLA_FLAGS", "TF_XLA_FLAGS")):
        return None
    name = keras.backend.backend()
    if name == "tensorflow":
        import tensorflow as tf

        option, given = "--tf_xla_persistent_cache_directory", os.environ.get("TF_XLA_FLAGS", "")
        folder = None if option in given else programs_folder(f"{name}-{tf.__version__}")
        # Flags are split at blanks.
        is_one_word = folder and len(str(folder).split()) == 1
        if is_one_word and add_options("TF_XLA_FLAGS", {option: folder}):
            return folder
    if name == "jax":
        import jax

        folder = programs_folder(f"{name}-{jax.__version__}")
        if folder and not jax.config.jax_compilation_cache_dir:
            jax.config.update("jax_compilation_cache_dir", str(folder))
            return folder
    return None


def add_options(variable, options):
    """Adds to a variable of the environment the options, by name, that it does not say yet.

    Returns:
        Whether any were added: none to the name of a file of options.
    """
    if names_file(variable):
        return False
    given = os.environ.get(variable, "").strip()
    added = [f"{name}={value}" for name, value in options.items() if name not in given]
    os.environ[variable] = " ".join([given, *added]).strip()
    return bool(added)


def names_file(variable):
    """Whether a variable of the environment names a file of options."""
    given = os.environ.get(variable, "").strip()
    return bool(given) and not given.startswith("-")


def programs_folder(compiler):
    """A folder of your own for one compiler's programs, made if missing, and not too full.

    Args:
        compiler: its name and version, "tensorflow-2.21.0" say.

    Returns:
        A `Path`; None where nothing can be kept (no such folder can be had, or less than a
        gigabyte is free on its disk) or shall be: `KERASDIFF_KEEP_PROGRAMS=0` in the environment.
    """
    if os.environ.get(SWITCH) == "0":
        return None
    folder = cache_folder() / "programs" / f"{compiler}-{_conditions()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_yours(folder) or shutil.disk_usage(folder).free < LARGEST:
            return None
        _forget_oldest(folder, LARGEST)
    except OSError:
        return None
    return folder.resolve()


def forget_programs(folder):
    """Removes what is kept in a folder, as `programs_folder` gave it."""
    _forget_oldest(folder, -1)  # empty files too


def _is_yours(folder):
    """Whether nobody else may put a program there."""
    if not hasattr(os, "getuid"):
        return True  # Windows, where home folders are one's own
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _forget_oldest(folder, largest):
    """Removes files, the oldest first, until the rest are at most so many bytes."""
    files = [(path.stat(), path) for path in Path(folder).iterdir() if path.is_file()]
    size = sum(status.st_size for status, _ in files)
    for status, path in sorted(files, key=lambda file: file[0].st_mtime):
        if size <= largest:
            return
        path.unlink(missing_ok=True)  # another process may tidy up too
        size -= status.st_size


def _conditions():
    """A word for XLA's options, and for what this processor can do: programs use all of it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    options = os.environ.get("XLA_FLAGS", "")  # no part of TensorFlow's own names for programs
    known = f"{platform.machine()} {platform.processor()} {flags} {options}"
    return hashlib.sha256(known.encode()).hexdigest()[:12]
