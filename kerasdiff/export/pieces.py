"""The UNet cut along its plan, for runtimes whose files and converters end at a few gigabytes."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from kerasdiff.block_plan import unet_blocks
from kerasdiff.diffusion_model import timestep_embedding


class Piece(NamedTuple):
    """Blocks in a row, as a function from named tensors to a dict of them.

    The first takes the UNet's inputs, with the timestep itself, and gives `embedding` too; the last
    gives `prediction`. Between them go `hidden_1`, `hidden_2`, ... and the kept skips `skip_0`,
    `skip_1`, ...

    Attributes:
        model: a `DiffusionModel`.
        blocks: of its plan, those that embed the timestep among them.
        inputs: names; the first goes through the blocks.
        outputs: names; the first has gone through the blocks.
    """

    model: object
    blocks: Sequence
    inputs: Sequence
    outputs: Sequence

    def run(self, **tensors):
        """Float32 (1, h, w, C) of each output by name."""
        embedders = [block for block in self.blocks if block.kind == "time"]
        if embedders:
            config = self.model.config
            rule = config.channels[0], config.flip_sin_to_cos, config.freq_shift
            tensors["timestep_embedding"] = timestep_embedding(tensors["timestep"], *rule)
        walk = self.model.walk(tensors)
        walk.embedding = walk.embed(embedders) if embedders else tensors.get("embedding")
        walk.skips = [tensors[name] for name in self.inputs if name.startswith("skip")]
        x = walk.along(tensors[self.inputs[0]], self.blocks[len(embedders) :])
        results = {self.outputs[0]: x}
        if "embedding" in self.outputs:
            results["embedding"] = walk.embedding
        fresh = [name for name in self.outputs if name.startswith("skip")]
        results |= zip(fresh, walk.skips[len(walk.skips) - len(fresh) :], strict=True)
        return {name: tf.cast(value, "float32") for name, value in results.items()}

    @property
    def variables(self):
        """Those of its blocks."""
        return [v for block in self.blocks for v in self.model.get_layer(block.name).variables]


def cut(model, count):
    """A `DiffusionModel` as `Piece`s of about equal weights, at most `count` of them."""
    runs = _runs(model, count)
    pieces, kept, pushed = [], [], 0
    for i, run in enumerate(runs):
        before, used = list(kept), set()
        for block in run:
            if block.kind == "up":  # its size is that of the skip that joins next
                used.add(kept[-1])
            if block.skip == "pop":
                used.add(kept.pop())
            if block.skip == "push":
                kept.append(f"skip_{pushed}")
                pushed += 1
        taken = [name for name in before if name in used]
        fresh = [name for name in kept if name not in before]
        outputs = ["prediction"] if i == len(runs) - 1 else [f"hidden_{i + 1}", *fresh]
        outputs += ["embedding"] * (i == 0 < len(runs) - 1)
        pieces.append(Piece(model, run, [*_inputs(model.config, run, i), *taken], outputs))
    return pieces


def _runs(model, count):
    """The plan's blocks in lists of about equal weights."""
    blocks = unet_blocks(model.config)
    sizes = [model.get_layer(block.name).count_params() for block in blocks]
    runs, done = [[] for _ in range(count)], 0
    for block, size in zip(blocks, sizes, strict=True):
        # by the middle of a block, in whole numbers
        runs[(2 * done + size) * count // (2 * sum(sizes))].append(block)
        done += size
    return [run for run in runs if run]


def _inputs(config, blocks, index):
    """Names of what the blocks of a piece take, without the skips."""
    kinds = {block.kind for block in blocks}
    names = [f"hidden_{index}", *["embedding"] * ("res" in kinds)]
    if index == 0:
        added = {"added_embedding": config.added_embed_dim,
                 "guidance_embedding": config.time_cond_dim}  # fmt: skip
        names = ["latent", "timestep", *(name for name, width in added.items() if width)]
    return [*names, *["context"] * ("transformer" in kinds)]
