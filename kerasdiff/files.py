"""Files that appear whole or not at all, and the folder for what is fetched or kept."""

import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def cache_folder():
    """Where downloads and compiled programs land; `KERASDIFF_HOME` moves it."""
    return Path(os.environ.get("KERASDIFF_HOME") or Path.home() / ".cache" / "kerasdiff")


@contextmanager
def alone(path):
    """Within this context no other process is within one for the same path; it waits its turn.

    An empty file stays beside `path`. Where the system has no such locks, nobody waits.
    """
    if fcntl is None:
        yield
        return
    with path.with_name(f"{path.name}.lock").open("w") as file:
        with suppress(OSError):  # some network file systems know no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def beside(path):
    """A path for what will be `path` when it is whole, that nobody else has, on any machine."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")


def sync(path):
    """Has the system put a file on the disk: after a crash a renamed one might be empty."""
    with path.open("r+b") as file:  # Windows does so for a file that can be written alone
        os.fsync(file.fileno())


@contextmanager
def whole_file(path):
    """A binary file that takes its name when it is complete and on the disk.

    Raises:
        OSError: the place cannot be written to, and is named. As after any other error nothing is
            left behind, and what stood there before stays.
    """
    path = Path(path)
    growing = beside(path)
    try:
        with growing.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(growing, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        growing.unlink(missing_ok=True)
