"""The demo's pictures as a source for training: scenes painted by number, or kept in memory."""

import numpy as np

from kerasdiff.demo.captions import caption
from kerasdiff.demo.painting import paint
from kerasdiff.demo.scenes import random_scene


class DemoScenes:
    """A source (see `training.data.sources`) of scenes that are no held-out combinations.

    Args:
        count: number of pictures; picture i is the same for every count.
        size: width and height in pixels.
        seed: of all of them.
        keep: whether pictures are kept once painted: 49 kB each at 128 pixels.
    """

    def __init__(self, count, size=128, seed=0, keep=False):
        self.count, self.size, self.seed = count, size, seed
        self.sizes, self.skipped = [(size, size)] * count, {}
        self._kept = {} if keep else None

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if self._kept is not None and i in self._kept:
            return self._kept[i]
        if not 0 <= i < self.count:
            raise IndexError(i)
        rng = np.random.default_rng([self.seed, int(i)])
        scene = random_scene(rng)
        item = paint(scene, rng, self.size), caption(scene, rng)
        if self._kept is not None:
            self._kept[i] = item
        return item

    def identity(self, i):
        """See `training.data.sources.identity`."""
        return ["DemoScenes", self.size, self.seed, i]
