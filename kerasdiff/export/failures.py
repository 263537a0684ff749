"""What a failed export leaves and says: nothing, and one line."""

import re
from contextlib import contextmanager, suppress
from pathlib import Path

from kerasdiff.checkpoints.files import whole_folder

LONGEST = 200
_FULL = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "Read-only file system",
)
_INNER = re.compile(r"\{\{.*?\}\}|<unknown>:0:|loc\(.*\): (?=error|')|\[Op:\w+\]|\\n")


@contextmanager
def new_folder(path):
    """`whole_folder`, which after an error also takes away the parents that it made."""
    missing = [parent for parent in Path(path).parents if not parent.exists()]
    try:
        with whole_folder(path) as beside:
            yield beside
    except BaseException:
        with suppress(OSError):  # someone else may have put something there
            for parent in missing:  # the innermost first
                parent.rmdir()
        raise


def reason(error):
    """One short line of what TensorFlow, a converter or the system says."""
    text = str(getattr(error, "message", None) or error)
    for known in _FULL:  # TensorFlow wraps it in names of operations and temporary files
        if known.lower() in text.lower():
            return known
    lines = [" ".join(_INNER.sub(" ", line).split()) for line in text.splitlines()]
    lines = [line for line in lines if re.search(r"\w", line)] or [type(error).__name__]
    # What ends with a colon is a heading, as OpenVINO writes several.
    line = next((line for line in lines if not line.endswith(":")), lines[0])
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
