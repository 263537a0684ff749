"""Files that appear whole or not at all, and the folder for what is fetched or kept."""

import os
from contextlib import contextmanager
from pathlib import Path


def cache_folder():
    """Where downloads and compiled programs land; `KERASDIFF_HOME` moves it."""
    return Path(os.environ.get("KERASDIFF_HOME") or Path.home() / ".cache" / "kerasdiff")


@contextmanager
def whole_file(path):
    """A binary file that takes its name when it is complete and on the disk.

    Raises:
        OSError: the place cannot be written to, and is named. As after any other error nothing is
            left behind, and what stood there before stays.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        beside.unlink(missing_ok=True)
