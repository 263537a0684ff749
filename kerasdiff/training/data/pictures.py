"""A folder of pictures with captions: `name.txt` beside `name.png`, or one `metadata.jsonl`."""

import json
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from kerasdiff.training.data.sources import (
    MAX_CAPTION,
    PictureSource,
    checked_caption,
    item_size,
    read_upright,
    size_choices,
    summary,
    upright_size,
)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
METADATA = "metadata.jsonl"


class PictureFolder(PictureSource):
    """The pictures of a folder and its sub-folders, links followed, in the order of their names.

    Captions are taken from `metadata.jsonl` in the folder, if there is one: lines such as
    `{"file_name": "trees/oak.png", "text": "an oak"}`, the convention of Hugging Face's
    imagefolder. Otherwise from UTF-8 text files beside the pictures. Names that begin with a dot
    are passed over.

    Opening it reads the headers of the pictures. What cannot be used is left out and entered in
    `skipped`: no picture, damaged, too small or too large, caption missing, empty or unreadable.
    For damage that shows later see `PictureSource`. Pictures are turned upright, scaled (Lanczos)
    to cover the item's size, cropped around their centre, and transparent pixels are white.

    Args:
        path: of the folder.
        size: of all pictures in pixels: an int or (height, width).
        buckets: list of (height, width) to choose from by aspect ratio, instead of `size`; see
            `make_buckets`.
        max_upscale: a picture that would have to be enlarged more than this is left out.

    Raises:
        ValueError: an argument is wrong, or no picture can be used: it says what was found and why.
    """

    def __init__(self, path, size=512, buckets=None, max_upscale=2.0):
        self.path = Path(path)
        choices = size_choices(size, buckets)
        if not self.path.is_dir():
            raise ValueError(f"{path}: no such folder")
        found, skipped = _picture_files(self.path)
        caption_of = _caption_finder(self.path, found, skipped)
        names, sizes, self.captions, self.bytes = [], [], [], []
        for name in found:
            try:
                caption = caption_of(name)
                sizes.append(item_size(upright_size(self.path / name), choices, max_upscale))
            except ValueError as error:
                skipped[name] = str(error)
            else:
                names.append(name)
                self.captions.append(caption)
                self.bytes.append(os.path.getsize(self.path / name))
        if not names:
            why = f": {summary(skipped)}" if skipped else ""
            raise ValueError(
                f"{path}: no picture with a caption can be used, of {len(found)} pictures "
                f"({', '.join(SUFFIXES)}) found{why}"
            )
        super().__init__(names, sizes, skipped)

    def read(self, i):
        """Item i as an upright PIL image and its caption; ValueError if it is broken."""
        return read_upright(self.path / self.names[i]), self.captions[i]

    def identity(self, i):
        """See `PictureSource`; times of files are not in it, which copying changes."""
        return [*super().identity(i), self.names[i]]


def _picture_files(folder):
    """Names of all pictures below a folder, sorted, with slashes; and what could not be listed."""
    found, skipped = [], {}

    def unlisted(error):
        skipped[_name(error.filename, folder)] = f"cannot be listed: {error.strerror}"

    root, seen = folder.resolve(), set()

    def is_new(path):
        """Whether no link led there before: links may lead in a circle, or to what is here."""
        real = path.resolve()
        if real.is_relative_to(root):
            return folder / real.relative_to(root) == path
        is_new = real not in seen
        seen.add(real)
        return is_new

    for place, folders, files in os.walk(folder, onerror=unlisted, followlinks=True):
        shown = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in shown if is_new(Path(place, name))]
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                found.append(_name(Path(place, name), folder))
    return sorted(found), skipped


def _name(path, folder):
    return Path(path).relative_to(folder).as_posix()


def _caption_finder(folder, found, skipped):
    """A function from a picture's name to its caption; ValueError where there is none."""
    if not os.path.lexists(folder / METADATA):
        return lambda name: _caption_beside(folder / name)
    captions = _read_metadata(folder / METADATA, set(found), skipped)

    def caption_of(name):
        if name not in captions:
            raise ValueError(f"no caption: {METADATA} does not name it")
        return captions[name]

    return caption_of


def _caption_beside(picture):
    path = picture.with_suffix(".txt")
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_CAPTION + 1)
    except FileNotFoundError:
        raise ValueError(f"no caption: there is no {path.name}") from None
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from None
    if len(text) > MAX_CAPTION:
        raise ValueError(f"{path.name}: more than {MAX_CAPTION} bytes are no caption")
    try:
        return checked_caption(text.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _read_metadata(path, found, skipped):
    """Captions by the names of pictures; lines that cannot be used are entered in `skipped`."""
    captions = {}
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    if line.strip():
                        name, caption = _metadata_line(line)
                        if name not in found:
                            raise ValueError(f"{name!r:.200}: no such picture in the folder")
                        if name in captions:
                            raise ValueError(f"{name!r:.200} was named in a line before")
                        captions[name] = caption
                except ValueError as error:
                    skipped[f"{METADATA}, line {number}"] = str(error)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    return captions


def _metadata_line(line):
    """A line of `metadata.jsonl` as name of a file inside the folder, and caption."""
    try:
        entry = json.loads(line.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON in UTF-8: {error}") from None
    name = entry.get("file_name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not isinstance(entry.get("text"), str):
        raise ValueError('is not of the form {"file_name": "...", "text": "..."}')
    windows = PureWindowsPath(name)
    if windows.drive or windows.root or ".." in windows.parts:
        raise ValueError(f"{name!r:.200} leads out of the folder")
    try:
        return PurePosixPath(name).as_posix(), checked_caption(entry["text"])
    except ValueError as error:
        raise ValueError(f"{name!r:.200}: {error}") from None
