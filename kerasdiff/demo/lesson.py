"""The text encoder's first lesson: what a caption says stands where.

Stable Diffusion's text encoder has learnt to read before its UNet learns to draw. From the UNet's
gradients alone ours had not learnt after 160,000 samples which of two things is the left one: read
by attention from its frozen output that was right half of the time, after 800 steps of this lesson
in 999 of 1,000 places. It asks for all that captions say: what it does not ask for is lost.
"""

import keras
import numpy as np
from keras import ops

from kerasdiff.demo.captions import caption
from kerasdiff.demo.scenes import Boat, House, random_scene
from kerasdiff.demo.words import BACKGROUNDS, COLOURS, OPPOSITE, SHAPES, SIZES, TIMES, TREES
from kerasdiff.training.trainer import Trainer

PLACES = ("left", "right", "above", "below", "alone", "behind", "sky", "ground", "size")
KINDS = ("nothing", *SHAPES, "house", "boat", *TREES, "mountain", *TIMES, *SIZES)
HUES = ("none", *dict.fromkeys((*COLOURS, *BACKGROUNDS)))
UNTOLD = -1


def places(scene):
    """What stands in each of `PLACES`: (9, 2) integers, of `KINDS` and `HUES`, or `UNTOLD`."""
    told = np.zeros((len(PLACES), 2), "int32")
    if isinstance(scene, House | Boat):
        things, relation = _country(scene)
        around = {"behind": "mountain" if scene.mountain else None, "sky": scene.time}
    else:
        things = [(thing.shape, thing.colour) for thing in scene.things]
        relation, around = scene.relation, {"size": scene.things[0].size}
        told[PLACES.index("ground")] = 0, HUES.index(scene.background or "none")
    where = [relation, OPPOSITE.get(relation)] if len(things) == 2 else ["alone"]
    if None in where:
        told[: PLACES.index("alone")] = UNTOLD
    else:
        for place, (kind, hue) in zip(where, things, strict=True):
            told[PLACES.index(place)] = KINDS.index(kind), HUES.index(hue)
    for place, kind in around.items():
        told[PLACES.index(place)] = KINDS.index(kind or "nothing"), 0
    return told


def _country(scene):
    """The kinds and colours of a house and its tree, or of a boat, and where the first stands."""
    if isinstance(scene, Boat):
        return [("boat", scene.colour)], None
    things = [("house", scene.colour), *([(scene.tree, "none")] if scene.tree else [])]
    return things, scene.side


class Captions(keras.utils.PyDataset):
    """Batches of tokens (B, T) and of what they say, (B, 9, 2); never the same twice.

    Args:
        tokenizer: packs captions.
        batch_size: captions in a batch.
        count: batches.
        start: number of the first batch.
    """

    def __init__(self, tokenizer, batch_size, count, start=0):
        super().__init__()
        self.tokenizer, self.batch_size = tokenizer, batch_size
        self.count, self.start = count, start

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        rng = np.random.default_rng([3, self.start + i])
        scenes = [random_scene(rng) for _ in range(self.batch_size)]
        tokens = [self.tokenizer.pack(caption(scene, rng)) for scene in scenes]
        return np.stack(tokens), np.stack([places(scene) for scene in scenes])


class Reader(Trainer):
    """Reads from a text encoder's output, by attention with one query for each place.

    Args:
        text_encoder: what learns; it gives (B, T, width).
        width: of keys and values.
    """

    def __init__(self, text_encoder, width=64):
        super().__init__(name="reader")
        self.text_encoder, self.width = text_encoder, width
        self.queries = self.add_weight((len(PLACES), width), "glorot_uniform", name="queries")
        self.keys, self.values = keras.layers.Dense(width), keras.layers.Dense(width)
        self.kinds, self.hues = keras.layers.Dense(len(KINDS)), keras.layers.Dense(len(HUES))
        for layer in (self.keys, self.values):
            layer.build((None, None, text_encoder.config.width))
        for layer in (self.kinds, self.hues):
            layer.build((None, len(PLACES), width))
        self.built = True

    def call(self, tokens):
        """Logits (B, 9, kinds and hues)."""
        positions = np.arange(tokens.shape[1], dtype="int32")[None]
        context = self.text_encoder({"tokens": tokens, "positions": positions})
        scores = ops.matmul(self.queries, ops.swapaxes(self.keys(context), 1, 2))  # (B, 9, T)
        weights = ops.softmax(scores / self.width**0.5)
        seen = ops.gelu(ops.matmul(weights, self.values(context)))
        return ops.concatenate([self.kinds(seen), self.hues(seen)], axis=-1)


def lesson_loss(told, logits):
    """Mean cross-entropy of all that is told."""
    losses = 0.0
    for i, part in enumerate(_split(logits)):
        known = ops.cast(told[..., i] != UNTOLD, "float32")
        each = ops.sparse_categorical_crossentropy(
            ops.maximum(told[..., i], 0), part, from_logits=True
        )
        losses += ops.sum(known * each) / ops.sum(known)
    return losses


def lesson_score(told, logits):
    """The share of places of which both kind and colour are read right."""
    right = True
    for i, part in enumerate(_split(logits)):
        read = ops.cast(ops.argmax(part, axis=-1), told.dtype)
        right = ops.logical_and(right, read == told[..., i])
    known = told[..., 0] != UNTOLD
    return ops.sum(ops.cast(right & known, "float32")) / ops.sum(ops.cast(known, "float32"))


def _split(logits):
    return logits[..., : len(KINDS)], logits[..., len(KINDS) :]
