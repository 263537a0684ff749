"""Sources made of what is at hand: pictures in memory, and several sources as one."""

import numpy as np

from kerasdiff.training.data.sources import identity


class Pictures:
    """A source of pictures in memory (see `sources.PictureSource`).

    Args:
        pictures: uint8 (H, W, 3), one array of all or a list.
        captions: a text each; None leaves them empty.

    Raises:
        ValueError: if there are not as many captions as pictures.
    """

    def __init__(self, pictures, captions=None):
        self.pictures = [np.asarray(picture) for picture in pictures]
        self.captions = [""] * len(self.pictures) if captions is None else list(captions)
        if len(self.captions) != len(self.pictures):
            raise ValueError(f"{len(self.captions)} captions for {len(self.pictures)} pictures")
        self.sizes = [picture.shape[:2] for picture in self.pictures]
        self.skipped = {}

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, i):
        return self.pictures[i], self.captions[i]


class Several:
    """Sources one after the other as one: to learn new pictures without forgetting old ones."""

    def __init__(self, *sources):
        self.sources = sources
        self.sizes = [size for source in sources for size in source.sizes]

    @property
    def captions(self):
        """Those of each of them, where all can tell."""
        return [caption for source in self.sources for caption in source.captions]

    @property
    def skipped(self):
        """What each of them left out."""
        return {name: why for source in self.sources for name, why in source.skipped.items()}

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        source, i = self._place(i)
        return source[i]

    def identity(self, i):
        """See `sources.identity`."""
        return identity(*self._place(i))

    def _place(self, i):
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        for source in self.sources:
            if i < len(source):
                return source, i
            i -= len(source)
