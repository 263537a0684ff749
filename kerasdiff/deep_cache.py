"""Deep features of the UNet kept from one step to the next (DeepCache, arXiv 2312.00858).

From step to step the features of the inner levels change little. One call keeps them; the calls
after it compute the outermost blocks alone, with the kept features where the inner ones would be.
"""

from keras import ops

from kerasdiff.block_plan import unet_blocks

OUTER = 2
"""Skips of the way down that are computed in every call: `conv_in` and the first layer."""


class Keeping:
    """A UNet that notes its deep features while it is called, a tensor a call.

    Args:
        model: a `DiffusionModel`.

    Attributes:
        features: list of (B, h, w, C), in the order of calls.
    """

    def __init__(self, model):
        self.model, self.config, self.features = model, model.config, []

    def __call__(self, inputs, training=False):
        walk, outer, inner, last = _cut(self.model, inputs)
        deep = walk.along(walk.along(inputs["latent"], outer), inner)
        self.features.append(deep)
        return walk.along(deep, last)


class Reusing:
    """A UNet that computes its outermost blocks alone.

    Args:
        model: a `DiffusionModel`.
        features: what `Keeping` noted, of all rows; calls for some of them take their share in
            order.
    """

    def __init__(self, model, features):
        self.model, self.config, self.features, self.taken = model, model.config, features, 0

    def __call__(self, inputs, training=False):
        walk, outer, _, last = _cut(self.model, inputs)
        walk.along(inputs["latent"], outer)
        rows = ops.shape(inputs["context"])[0]
        deep = self.features[self.taken : self.taken + rows]
        self.taken += rows
        return walk.along(deep, last)


def _cut(model, inputs):
    """A walk ready for the outer blocks, and the blocks before, within and after the deep part."""
    if model.config.controlnet_residuals:
        raise ValueError("deep features cannot be kept in a network that takes ControlNet's")
    walk, blocks = model.walk(inputs), unet_blocks(model.config)
    embedders = [block for block in blocks if block.kind == "time"]
    walk.embedding = walk.embed(embedders)
    blocks = blocks[len(embedders) :]
    pushes = [i for i, block in enumerate(blocks) if block.skip == "push"]
    pops = [i for i, block in enumerate(blocks) if block.skip == "pop"]
    down, up = pushes[OUTER - 1] + 1, pops[-OUTER]
    return walk, blocks[:down], blocks[down:up], blocks[up:]
