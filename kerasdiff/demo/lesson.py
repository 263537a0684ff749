"""The text encoder's first lesson: what a caption says stands where.

Stable Diffusion's text encoder has learnt to read before its UNet learns to draw. From the UNet's
gradients alone ours had not learnt after 160,000 samples which of two things is the left one: read
from its frozen output that was right half of the time. The lesson asks for all that captions say:
what it does not ask for is lost.
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
# Names alone would be learnt as unlike as any; a new word for a new colour needs what lies between.
TINTS = np.float32([COLOURS.get(hue, BACKGROUNDS.get(hue, (128, 128, 128))) for hue in HUES]) / 255


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
    """Reads each place from a token of its own: the last nine, which captions leave to padding.

    So the UNet need not find out which word speaks of the left side: a token there says what the
    left side holds, whatever the sentence.

    Args:
        text_encoder: what learns; it gives (B, T, width).
    """

    def __init__(self, text_encoder):
        super().__init__(name="reader")
        self.text_encoder = text_encoder
        self.answers = keras.layers.Dense(len(KINDS) + len(HUES) + 3)
        self.answers.build((None, None, text_encoder.config.width))
        self.built = True

    def call(self, tokens):
        """Logits of kinds and hues, and the hue's colour, (B, 9, kinds + hues + 3)."""
        positions = np.arange(tokens.shape[1], dtype="int32")[None]
        context = self.text_encoder({"tokens": tokens, "positions": positions})
        return self.answers(context[:, -len(PLACES) :])


def lesson_loss(told, answers):
    """Mean cross-entropy of all that is told, and the squared error of colours."""
    known = ops.cast(told[..., 0] != UNTOLD, "float32")
    told = ops.cast(ops.maximum(told, 0), "int32")
    kinds, hues, tints = _split(answers)
    errors = ops.mean(ops.square(tints - ops.take(TINTS, told[..., 1], axis=0)), axis=-1)
    for i, logits in enumerate((kinds, hues)):
        errors += ops.sparse_categorical_crossentropy(told[..., i], logits, from_logits=True)
    return ops.sum(known * errors) / ops.sum(known)


def lesson_score(told, answers):
    """The share of places of which both kind and colour are read right."""
    kinds, hues, _ = _split(answers)
    told = ops.cast(told, "int32")
    right = ops.equal(ops.cast(ops.argmax(kinds, axis=-1), "int32"), told[..., 0])
    right = ops.logical_and(
        right, ops.equal(ops.cast(ops.argmax(hues, axis=-1), "int32"), told[..., 1])
    )
    known = ops.cast(told[..., 0] != UNTOLD, "float32")
    return ops.sum(known * ops.cast(right, "float32")) / ops.sum(known)


def _split(answers):
    return ops.split(answers, [len(KINDS), len(KINDS) + len(HUES)], axis=-1)
