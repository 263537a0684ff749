"""A file whose weights are read when they are needed, which may be hours after it was opened."""

import os
from contextlib import contextmanager

import numpy as np

from kerasdiff.checkpoints.tensors import CheckpointError


class SteadyFile:
    """A file that is opened anew for each read, and must be what it was at first.

    It is not held open: Windows would let nobody replace it, and shards are many.

    Args:
        path: of the file; an absolute one, where the current folder may change.

    Attributes:
        size: in bytes.
    """

    def __init__(self, path):
        self.path = path
        with path.open("rb") as file:
            self.size, self._changed = _state(file)

    @contextmanager
    def open(self):
        """The open binary file.

        Raises:
            CheckpointError: it is gone, or was changed or replaced.
        """
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error.strerror}") from error
        with file:
            if _state(file) != (self.size, self._changed):
                raise CheckpointError(
                    f"{self.path}: was changed after it was opened: "
                    "open the checkpoint again to read what it holds"
                )
            yield file

    def map(self, offset, length):
        """`length` bytes from `offset` on, as a read-only uint8 map that outlives the file."""
        with self.open() as file:
            return np.memmap(file, np.uint8, mode="r", offset=offset, shape=(length,))


def _state(file):
    """(size, when it was changed): inodes are not steady, some network file systems renumber."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
