"""A run's settings beside its state, so that a run goes on as it began or says what differs.

Until there is a state, they bind nobody: a run that failed at its first step may be changed.
"""

import json
from dataclasses import asdict
from pathlib import Path

from kerasdiff.files import whole_file
from kerasdiff.training.checkpoints import latest
from kerasdiff.training.data.sources import items_digest

FREE = (
    "output", "output_dtype", "checkpoints.", "samples.", "jit_compile", "remat", "data.folder",
    "data.shards", "data.workers",
)  # fmt: skip
"""Settings that change no number of a step. The data counts by what it is, not where."""


def check_record(folder, settings, source):
    """Compares what a run is about with what was written down, if there is a state of it.

    Args:
        folder: of the run.
        settings: a `settings.Settings`.
        source: of pictures and captions.

    Returns:
        Whether it was written down and there is a state.

    Raises:
        ValueError: if the folder is of a run with other settings or pictures: names each
            difference.
    """
    path = _path(folder)
    if not path.exists() or latest(folder)[0] is None:
        return False
    new = _record(settings, source)
    try:
        old = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is damaged: {error}") from error
    ignored = FREE if settings.optimizer.schedule == "cosine" else (*FREE, "steps")
    differences = [
        f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(ignored)
    ]
    if differences:
        raise ValueError(
            f"{folder}: holds a run with other settings: {'; '.join(differences)}. Go on with "
            "those, or take another folder (`checkpoints.folder`)"
        )
    return True


def write_record(folder, settings, source):
    """Writes down what a run is about, or compares as `check_record`; makes the folder."""
    if check_record(folder, settings, source):
        return
    path = _path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(json.dumps(_record(settings, source), indent=2).encode())


def _path(folder):
    return Path(folder) / "settings.json"


def _record(settings, source):
    digest = items_digest(source, range(len(source)))[:16]
    pictures = {"count": len(source), "sizes, captions and files": digest}
    return dict(_flat(json.loads(json.dumps(asdict(settings) | {"pictures": pictures}))))


def _flat(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
