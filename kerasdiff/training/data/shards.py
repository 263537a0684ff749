"""Pictures with captions in TFRecord shards: a few large files instead of very many small ones.

Each record is a `tf.train.Example` with the features `image/encoded` (a PNG, JPEG, WebP or BMP
file), `image/height`, `image/width` (integers) and `caption` (UTF-8), and a file is called
`pictures-00003-of-00010.tfrecord`. So `tf.data.TFRecordDataset` reads them as well.
"""

import glob
import io
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

from kerasdiff import images
from kerasdiff.files import whole_file
from kerasdiff.training.data.examples import decode_example, encode_example
from kerasdiff.training.data.records import read_record, scan_records, write_record
from kerasdiff.training.data.sources import (
    PictureSource,
    checked_caption,
    item_size,
    read_upright,
    size_choices,
    summary,
    upright_size,
)

ENCODED, HEIGHT, WIDTH, CAPTION = "image/encoded", "image/height", "image/width", "caption"


class Shards(PictureSource):
    """The pictures of a set of shards, in the order of the files' names.

    Opening it goes through the records by their lengths: lengths and their checksums, the
    features, and that the set is whole are checked. Of the pictures only the header is read, and
    that only where height and width are missing. Checksums of the data are checked when an item is
    read; see `PictureSource` for what happens to damaged ones. Records without a usable picture,
    size or caption are entered in `skipped` as `"FILE, record 17"`, counted from 0.

    Args:
        path: a folder (all its `*.tfrecord` files), a file, or a pattern such as `"data/train-*"`.
        size: of all pictures, an int or (height, width), which are then scaled and cropped as by
            `PictureFolder`; None leaves them as they are.
        buckets: list of (height, width) to choose from by aspect ratio, instead of `size`.
        max_upscale: a picture that would have to be enlarged more than this is left out.

    Raises:
        ValueError: there are no shards, the set is incomplete, a file is no TFRecord file or cut
            off (it names file and offset), or no record can be used.
    """

    def __init__(self, path, size=None, buckets=None, max_upscale=2.0):
        self.choices = size_choices(size, buckets)
        self.paths = _shard_files(path)
        names, sizes, skipped, self.places = [], [], {}, []
        self.captions, self.bytes = [], []
        for shard, file in enumerate(self.paths):
            for number, (offset, data) in enumerate(scan_records(file)):
                name = f"{file}, record {number}"
                try:
                    encoded, caption, stored = _features(data)
                    stored = stored or upright_size(io.BytesIO(encoded))
                    sizes.append(item_size(stored, self.choices, max_upscale))
                except ValueError as error:
                    skipped[name] = str(error)
                else:
                    names.append(name)
                    self.captions.append(caption)
                    self.bytes.append(len(encoded))
                    self.places.append((shard, offset))
        if not names:
            why = f": {summary(skipped)}" if skipped else ""
            raise ValueError(f"{path}: no record can be used, of {len(skipped)} found{why}")
        super().__init__(names, sizes, skipped)

    def read(self, i):
        """Item i as an upright PIL image and its caption; ValueError if it is broken."""
        shard, offset = self.places[i]
        try:
            encoded, caption, _ = _features(read_record(self.paths[shard], offset))
        except OSError as error:
            raise ValueError(f"{self.paths[shard]}: {error.strerror}") from error
        file = io.BytesIO(encoded)
        size = upright_size(file)
        if self.choices is None and size != self.sizes[i]:
            raise ValueError(f"is {size[0]}x{size[1]} and said to be {self.sizes[i]}")
        return read_upright(file), caption


def write_shards(source, folder, items_per_shard=1000):
    """Writes a source's items as shards, pictures as PNG; each file appears whole or not at all.

    Args:
        source: a sequence of (picture, caption), such as `PictureFolder`. A picture that it finds
            broken is written as what takes its place.
        folder: where to; it is made, and must not hold shards already.
        items_per_shard: in all files but the last.

    Returns:
        List of the files' paths.

    Raises:
        ValueError: an argument or an item is wrong.
        OSError: the place cannot be written to, named with its reason. The files before are whole.
    """
    folder = Path(folder)
    if items_per_shard < 1:
        raise ValueError(f"`items_per_shard` must be at least 1, not {items_per_shard}")
    if not len(source):
        raise ValueError("`source` is empty: there is nothing to write")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.tfrecord")):
        raise ValueError(f"{folder}: holds TFRecord files already; take an empty folder")
    starts = range(0, len(source), items_per_shard)
    paths = []
    for shard, start in enumerate(starts):
        paths.append(folder / f"pictures-{shard:05}-of-{len(starts):05}.tfrecord")
        stop = min(start + items_per_shard, len(source))
        _write_shard(paths[-1], (_record(source, i) for i in range(start, stop)))
    return paths


def _write_shard(path, records):
    with whole_file(path) as file:
        for record in records:
            write_record(file, record)


def _record(source, i):
    picture, caption = source[i]
    shape, dtype = np.shape(picture), getattr(picture, "dtype", None)
    if dtype != np.uint8 or len(shape) != 3 or shape[-1] != 3 or not all(shape):
        raise ValueError(f"item {i}: a picture must be uint8 (H, W, 3), not {dtype} {shape}")
    png = io.BytesIO()
    Image.fromarray(picture).save(png, format="PNG")
    try:
        caption = checked_caption(caption).encode()
    except ValueError as error:
        raise ValueError(f"item {i}: {error}") from None
    return encode_example(
        {ENCODED: png.getvalue(), HEIGHT: shape[0], WIDTH: shape[1], CAPTION: caption}
    )


def _features(data):
    """(encoded picture, caption, (height, width) or None) of a record; ValueError if unusable."""
    features = decode_example(data, {ENCODED, HEIGHT, WIDTH, CAPTION})
    encoded, caption = _one(features, ENCODED, memoryview), _one(features, CAPTION, memoryview)
    stored = None
    if HEIGHT in features and WIDTH in features:
        stored = _one(features, HEIGHT, int), _one(features, WIDTH, int)
        if min(stored) < 1 or stored[0] * stored[1] > images.MAX_PIXELS:
            raise ValueError(f"{stored} is no size from 1 to {images.MAX_PIXELS} pixels")
    return encoded, checked_caption(str(caption, "utf-8")), stored


def _one(features, name, kind):
    values = features.get(name, [])
    if len(values) != 1 or not isinstance(values[0], kind):
        what = "number" if kind is int else "string"
        raise ValueError(
            f"the feature {name!r} must hold one {what}; it holds {len(values)} values"
        )
    return values[0]


def _shard_files(path):
    """The files that a folder, file or pattern means, sorted; ValueError if some are missing."""
    text = str(path)
    pattern = os.path.join(glob.escape(text), "*.tfrecord") if os.path.isdir(text) else text
    files = [text] if os.path.isfile(text) else sorted(filter(os.path.isfile, glob.glob(pattern)))
    if not files:
        raise ValueError(f"{path}: there is no TFRecord file; a folder or a pattern is expected")
    sets = {}
    for file in files:
        match = re.fullmatch(r"(.*)-(\d{5,9})-of-(\d{5,9})(.*)", file, re.DOTALL)
        if match:
            prefix, number, count, suffix = match.groups()
            sets.setdefault((prefix, suffix), {}).setdefault(int(count), set()).add(int(number))
    for (prefix, suffix), counts in sets.items():
        if len(counts) > 1:
            raise ValueError(f"{prefix}*{suffix}: sets of {sorted(counts)} shards are mixed")
        ((count, numbers),) = counts.items()
        missing = next((i for i in range(count) if i not in numbers), None)
        if missing is not None:
            raise ValueError(
                f"{prefix}-{missing:05}-of-{count:05}{suffix} is missing: "
                f"{len(numbers)} of {count} shards are there"
            )
    return files
