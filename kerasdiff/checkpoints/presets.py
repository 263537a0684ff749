"""Known checkpoints by name: where they are downloaded from, and how a download is made sure of.

The list is `weights/manifest.json`; one small model lies beside it. A downloaded file lands in one
cache folder, `~/.cache/kerasdiff` or what the environment variable `KERASDIFF_HOME` names; it grows
beside its place as `*.part`, so that a download that was cut goes on where it stopped, and takes
its name only when its size and, where known, its SHA-256 are right.
"""

import hashlib
import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from kerasdiff import progress
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.files import alone, cache_folder, sync

BLOCK = 1 << 20


class DownloadError(CheckpointError):
    """A checkpoint that could not be downloaded; says how to do without."""


@dataclass(frozen=True)
class Preset:
    """A published checkpoint.

    Attributes:
        kind: `"checkpoint"` (a whole model in one file), `"vae"` (that part alone) or `"shipped"`
            (a folder that comes with kerasdiff).
        file: the name of the file in the cache folder, or of the folder beside the manifest.
        urls: addresses of the same bytes, tried in turn.
        size: in bytes, None where it is not known for certain.
        sha256: hexadecimal, None where it is not known for certain.
        prediction_type: what the file itself does not show, as in `ScheduleConfig`; or None.
        num_steps, guidance_scale: what it is best called with, as in `StableDiffusionConfig`; or
            None.
    """

    name: str
    kind: str
    description: str
    file: str
    urls: tuple[str, ...]
    licence: str
    size: int | None = None
    sha256: str | None = None
    prediction_type: str | None = None
    num_steps: int | None = None
    guidance_scale: float | None = None


def presets():
    """Every known `Preset` by name."""
    text = (_weights_folder() / "manifest.json").read_text("utf-8")
    return {
        name: Preset(name, **{**entry, "urls": tuple(entry["urls"])})
        for name, entry in json.loads(text).items()
    }


def _weights_folder():
    """Where the manifest lies: package data where installed, beside the package in a checkout."""
    try:
        folder = resources.files("kerasdiff.weights")
        if (folder / "manifest.json").is_file():
            return folder
    except ModuleNotFoundError:
        pass
    return Path(__file__).resolve().parents[2] / "weights"


def find(name_or_path):
    """The local path of a preset, downloaded if it must be, or of a file or folder.

    Args:
        name_or_path: a preset's name, such as `"sd-v1-5"`, or a path that exists.

    Raises:
        DownloadError: if the preset is not in the cache and cannot be downloaded.
        CheckpointError: if there is neither such a preset nor such a path.
    """
    if not isinstance(name_or_path, (str, os.PathLike)) or not str(name_or_path):
        raise CheckpointError(
            f"a checkpoint must be a preset's name, a file or a folder, not {name_or_path!r:.80}"
        )
    known = presets()
    if str(name_or_path) in known:
        preset = known[str(name_or_path)]
        return _shipped(preset) if preset.kind == "shipped" else download(preset)
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    raise CheckpointError(
        f"{str(name_or_path)!r} is neither a file or folder nor a preset; "
        f"presets: {', '.join(known)}"
    )


def _shipped(preset):
    """The path of a preset that comes with kerasdiff."""
    path = Path(str(_weights_folder() / preset.file))
    if not path.is_dir():
        raise CheckpointError(
            f"the preset {preset.name!r} comes with kerasdiff, but {path} is not there; "
            "install kerasdiff again"
        )
    return path


def download(preset):
    """The path of the preset's file in the cache folder, downloaded unless it is there.

    Raises:
        DownloadError: if no address gives the file, whole and unchanged, or one of another size is
            there.
    """
    path = cache_folder() / preset.file
    if _is_there(path, preset):
        return path
    failures = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path):
            if _is_there(path, preset) or _fetch_from_any(preset, path, failures):
                return path
    except OSError as error:
        failures.append(f"  {error}")
    raise DownloadError(
        f"the preset {preset.name!r} could not be downloaded:\n"
        + "\n".join(failures)
        + f"\nDownload {preset.urls[0]} by hand and put it at {path}, "
        "or give the path of the file in place of the preset's name"
    )


def _is_there(path, preset):
    """Whether the file is in the cache folder, where anybody may put it."""
    if not path.exists():
        return False
    size = path.stat().st_size
    if preset.size not in (None, size):
        raise DownloadError(
            f"{path} has {size} bytes, not the {preset.size} of the preset {preset.name!r}: remove "
            "it to have it downloaded, or give its path in place of the preset's name"
        )
    return True


def _fetch_from_any(preset, path, failures):
    """Whether one of the addresses gave the file; adds to `failures` why others did not."""
    part = path.with_name(path.name + ".part")
    for url in preset.urls:
        try:
            _fetch(url, part, preset)
            _verify(part, preset)
            sync(part)
        # URLError and time-outs are OSError; a cut connection is an HTTPException
        except (OSError, http.client.HTTPException, DownloadError) as error:
            failures.append(f"  {url}: {error or type(error).__name__}")
        else:
            os.replace(part, path)
            return True
    return False


def _fetch(url, part, preset):
    """Append to `part` what is missing of it."""
    done = part.stat().st_size if part.exists() else 0
    if preset.size is not None and done >= preset.size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "kerasdiff"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    with urllib.request.urlopen(request, timeout=60) as answer:
        if done and not _continues(answer, done):
            done = 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else preset.size
        if preset.size is not None and total != preset.size:
            raise DownloadError(f"offers {total} bytes, expected {preset.size}")
        with part.open("ab" if done else "wb") as file, _bar(preset, done, total) as bar:
            while block := answer.read(BLOCK):
                file.write(block)
                bar.update(len(block))
            have = file.tell()
    if total is not None and have != total:
        raise DownloadError(f"broke off after {have} of {total} bytes")


def _continues(answer, done):
    """Whether the server sends the rest; some ignore Range and send the whole."""
    return answer.status == 206 and answer.headers.get("Content-Range", "").startswith(
        f"bytes {done}-"
    )


def _bar(preset, done, total):
    return progress.bar(total, "B", desc=preset.file, initial=done, unit_scale=True)


def _verify(part, preset):
    """Check size and hash; a file that fails is removed, for it cannot be continued."""
    size = part.stat().st_size
    fault = None
    if preset.size is not None and size != preset.size:
        fault = f"gave {size} bytes, expected {preset.size}"
    elif preset.sha256 is not None:
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != preset.sha256:
            fault = f"gave a file of SHA-256 {digest}, expected {preset.sha256}"
    if fault:
        part.unlink()
        raise DownloadError(fault)
