"""Moments of latents, encoded once: the image encoder is most of the cost of a small UNet."""

import hashlib
from pathlib import Path

import numpy as np

from kerasdiff.files import whole_file
from kerasdiff.training.autoencoder import to_floats
from kerasdiff.training.data.sources import items_digest

SHARD = 2000  # pictures a file


class Moments:
    """A source of moments (h, w, 2 C) float16, instead of pictures, and their captions.

    Args:
        files: what `cache_moments` wrote.
    """

    def __init__(self, files):
        self.captions = [str(caption) for path in files for caption in _read(path, "captions")]
        self.moments, end = None, 0
        for path in files:
            shard = _read(path, "moments")
            if self.moments is None:
                self.moments = np.empty((len(self.captions), *shard.shape[1:]), shard.dtype)
            begin, end = end, end + len(shard)
            self.moments[begin:end] = shard
            del shard  # before the next is read
        self.sizes, self.skipped = [self.moments.shape[1:3]] * len(self.captions), {}

    def __len__(self):
        return len(self.captions)

    def __getitem__(self, i):
        return self.moments[i], self.captions[i]


def _read(path, name):
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[name]


def cache_moments(source, image_encoder, folder, count=None, batch_size=50):
    """Encodes pictures of one size, shard by shard; shards that are there already are kept.

    A shard is known by its image encoder and its items: captions, sizes, and of files their names
    and bytes. A picture that was changed to one of as many bytes, under the same name, is not seen.

    Args:
        source: see `pictures.PictureFolder`. One without its method `identity` is read whole each
            time, to compare pixels.
        image_encoder: its moments are kept.
        folder: for the shards; made if missing.
        count: of pictures, from the first; None takes all.

    Returns:
        The shards' paths, for `Moments`.

    Raises:
        ValueError: a shard that is there is of another image encoder, or of other pictures or
            captions; before anything is encoded.
    """
    folder, encoder = Path(folder), _digest(image_encoder)
    folder.mkdir(parents=True, exist_ok=True)
    count = len(source) if count is None else count
    shards = {}
    for begin in range(0, count, SHARD):
        indices = range(begin, min(begin + SHARD, count))
        path = folder / f"moments-{begin:08d}-{indices.stop:08d}.npz"
        shards[path] = indices, {"encoder": encoder, "items": items_digest(source, indices)}
    missing = [path for path, (_, about) in shards.items() if not _is_kept(path, about)]
    for path in missing:
        indices, about = shards[path]
        rows, captions = [], []
        for at in range(0, len(indices), batch_size):
            items = [source[i] for i in indices[at : at + batch_size]]
            rows.append(_encode(image_encoder, [picture for picture, _ in items]))
            captions += [caption for _, caption in items]
        with whole_file(path) as beside:
            np.savez(beside, moments=np.concatenate(rows), captions=captions, **about)
    return list(shards)


def _digest(model):
    """What tells a model's weights from others'."""
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(np.ascontiguousarray(variable.value).view("uint8"))
    return digest.hexdigest()


_FAULTS = {
    "encoder": ("does not say which image encoder made it", "was encoded by another image encoder"),
    "items": ("does not say which pictures it is of", "is of other pictures or captions"),
}
"""Of a shard by what is known about it: where it is missing, and where it is another."""


def _is_kept(path, about):
    """Whether the shard is there; ValueError if it is not about the same."""
    if not path.exists():
        return False
    with np.load(path, allow_pickle=False) as arrays:
        for name, digest in about.items():
            if str(arrays.get(name, "")) != digest:
                fault = _FAULTS[name][name in arrays]
                raise ValueError(f"{path}: {fault}: remove it, or name another folder")
    return True


def latent_deviation(moments):
    """The standard deviation of samples of cached moments; its inverse is the scaling factor."""
    mean, log_variance = np.split(np.asarray(moments, "float32"), 2, axis=-1)
    return float(np.sqrt(np.var(mean) + np.mean(np.exp(log_variance))))


def _encode(image_encoder, pictures):
    floats = to_floats(np.stack(pictures))
    return np.asarray(image_encoder.moments.predict_on_batch(floats), "float16")
