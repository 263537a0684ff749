"""The whole sampler as a TensorFlow SavedModel: tokens and a seed in, pictures out.

What Python decides in a call is inside the graph: the sampler's tables are constants, chosen by the
number of steps and the strength; noise is drawn from the seed. The rest is the code that Python
runs, traced once more, with the plain forms of products, which suit every machine.
"""

from functools import partial

import numpy as np
import tensorflow as tf
from keras import ops

from kerasdiff import conditioning, sampling, start
from kerasdiff.backend import Program
from kerasdiff.conditioning import Conditioning
from kerasdiff.export.noise import FEWEST, draws
from kerasdiff.image_encoder import sample_moments
from kerasdiff.samplers import COLUMNS, Table

_SLOT, _WEIGHT = COLUMNS.index("noise_slot"), COLUMNS.index("noise_weight")
_GUIDANCE = np.float32([name == "guidance" for name in COLUMNS])
NOT_FINITE = (
    "the decoded picture is not finite: the latents or the weights hold NaN or infinite values; "
    "a sampler of dtype float16 may overflow, export it in bfloat16 or float32"
)


def text_lengths(models):
    """How many tokens a row has for each text encoder: its tokenizer may have fewer than it."""
    suffixes = models.config.text_suffixes
    return tuple(getattr(models, f"tokenizer{suffix}").max_length for suffix in suffixes)


class Sampler(tf.Module):
    """Functions of tensors over the models of one checkpoint.

    Args:
        models: a `CompiledModels`.
        tables: a `tables.Tables`.
        size: (height, width) of pictures, or (None, None) for any.
        batch_size: pictures at once, or None for any.
        jit_compile: whether the networks run by XLA.
    """

    def __init__(self, models, tables, size, batch_size, jit_compile):
        super().__init__("sampler")
        self.config, self.tables = models.config, tables
        self.size, self.batch_size = size, batch_size
        self.factor = self.config.autoencoder.factor
        self.latent_size = tuple(side and side // self.factor for side in size)
        self.channels = self.config.autoencoder.latent_channels
        self.paints = self.config.paints
        self.text_lengths = text_lengths(models)
        self.mode = "off" if self.config.diffusion_model.time_cond_dim else "batched"
        self._programs(models, jit_compile)

    def _programs(self, models, jit_compile):
        names = ["text_encoder", "text_encoder_2"][: len(self.config.text_encoders)]
        encoders = [getattr(models, name) for name in names]
        network, decoder, encoder = models.diffusion_model, models.decoder, models.image_encoder

        def loop(*arguments):
            return sampling.loop(network, *arguments, self.mode)

        # One picture at a time: the autoencoder needs the most memory of all.
        def decode(latents):
            return tf.map_fn(lambda latent: _float32(decoder(latent[None])[0]), latents)

        def moments(pictures):
            return tf.map_fn(lambda picture: _float32(encoder.moments(picture[None])[0]), pictures)

        program = partial(Program, jit_compile=jit_compile, travels=True)
        self.encoders = [program(each, each) for each in encoders]
        self.vocabularies = [each.config.vocab_size for each in encoders]  # with learnt words
        self.loop = program(loop, network)
        self.decoder = program(decode, decoder)
        self.moments = program(moments, encoder)
        used = [*encoders, network, decoder, encoder]
        self.weights = [variable.value for each in used for variable in each.variables]

    # What the signatures are made of

    def encode(self, tokens):
        """A `Conditioning` of tokens, a list with (B, T) int32 for each text encoder.

        Where a family's negative prompt is zeros by default (SDXL), rows that begin with -1 are.
        """
        contexts, pooled = [], None
        given = tf.ones_like(tokens[0][:, :1], tf.bool)  # (B, 1)
        if self.config.zero_empty_negative:
            given = tokens[0][:, :1] >= 0
        for encoder, size, ids in zip(self.encoders, self.vocabularies, tokens, strict=True):
            ids = _known(tf.where(given, ids, 0), size)
            positions = np.arange(ids.shape[1], dtype="int32")[None]
            output = encoder({"tokens": ids, "positions": positions})
            if isinstance(output, dict):
                output, pooled = output["context"], output["pooled"]
            contexts.append(_float32(output))
        given = _float32(given)
        pooled = None if pooled is None else _float32(pooled) * given
        return Conditioning(tf.concat(contexts, -1) * given[..., None], pooled)

    def encode_pictures(self, pictures, noise):
        """Latents like `noise` (B, h, w, C), of pictures (1 or B, H, W, 3) in [-1, 1]."""
        moments = self.moments(pictures)
        shape = tf.shape(noise)
        moments = tf.broadcast_to(moments, tf.concat([shape[:3], 2 * shape[3:]], 0))
        static = (*noise.shape[:3], 2 * self.channels)
        return sample_moments(tf.ensure_shape(moments, static), noise, self.config.autoencoder)

    def decode(self, latents):
        """Latents (B, h, w, C) as uint8 pictures."""
        # As uint8, NaN would be a black picture.
        decoded = tf.debugging.assert_all_finite(self.decoder(latents), NOT_FINITE)
        unit = tf.clip_by_value(decoded * 0.5 + 0.5, 0.0, 1.0)
        pictures = tf.cast(tf.round(unit * 255.0), "uint8")
        return tf.ensure_shape(pictures, (self.batch_size, *self.size, 3))

    def drawing(self, seed, count, latent_size, most):
        """A function that gives the next of at most `most` draws of all `count` streams."""
        seeds = seed + tf.range(tf.cast(count, "int64"))
        height, width = latent_size
        enough = height * width * self.channels >= FEWEST
        message = (
            f"a picture's latents must have {FEWEST} numbers for noise of a seed, not those of"
        )
        with tf.control_dependencies([tf.debugging.Assert(enough, [message, height, "x", width])]):
            noise = draws(tf.identity(seeds), most, (height, width, self.channels))
        shape = (most, self.batch_size, *self.latent_size, self.channels)
        noise = iter(tf.unstack(tf.ensure_shape(noise, shape)))
        return lambda: next(noise)

    def table(self, steps, taken, guidance_scale):
        """The `Table` of the last `taken` of `steps` steps; `rows` has more rows than count."""
        tables, at = self.tables, self.tables.place(steps, taken)
        head = tf.gather(tables.heads, at)  # (W, columns)
        most = int(tables.counts.max())
        later = tf.range(len(tables.heads[0]), max(most, len(tables.heads[0])))
        places = tf.minimum(tf.gather(tables.tails, at) + later, len(tables.wholes) - 1)
        tail = tf.gather(tables.wholes, places)
        used = _float32(tail[:, _WEIGHT] != 0.0)
        shift = used * _float32(tf.gather(tables.shifts, at))  # (rows - W,)
        tail -= shift[:, None] * np.eye(len(COLUMNS), dtype="float32")[_SLOT]
        rows = tf.concat([head, tail], 0)
        scale = guidance_scale if self.mode == "off" else tf.maximum(guidance_scale, 1.0)
        rows = rows * (1.0 - _GUIDANCE) + scale * _GUIDANCE
        signal, noise = tf.unstack(tf.gather(tables.scales, at))
        count = tf.gather(tables.counts, at)
        return Table(rows, signal, noise, tables.noise_slots, count, sigmas=None)

    def run(self, table, begin, tokens, negative_tokens, guidance_scale, picture_size):
        """Pictures of a run from a `start.Start`; a table's `steps` are its rows."""
        positive, negative = self.encode(tokens), None
        if self.mode != "off":
            negative = self.encode(negative_tokens)
        inputs = begin.inputs | conditioning.network_inputs(
            self.config.diffusion_model, positive, negative, guidance_scale, *picture_size
        )
        inputs["guidance_rescale"] = tf.constant(0.0)
        noise = tf.stack(begin.noise) if begin.noise else ops.zeros_like(begin.x)[None]
        stop, carry = tf.cast(table.steps, "int32"), sampling.new_carry(begin.x)
        carry = self.loop(table.rows, tf.constant(0), stop, carry, noise, inputs)
        return self.decode(carry.x)

    # Starts

    def start_from_noise(self, table, steps, draw, noise=None):
        pure = table._replace(initial_noise=tf.gather(self.tables.pure_noise, steps))
        return start.prepare(pure, draw, noise)

    def start_from_image(self, table, draw, image):
        return start.prepare_from_image(table, draw, self.encode_pictures, image)

    def start_from_mask(self, table, steps, taken, drawing, image, mask):
        """The start of inpainting: from noise alone where all steps are taken."""

        def prepare(table, from_noise):
            return start.prepare_inpainting(
                table, drawing(), self.encode_pictures, image, mask, self.factor, self.paints,
                from_noise,
            )  # fmt: skip

        pure_noise = tf.gather(self.tables.pure_noise, steps)
        pure = table._replace(initial_signal=0.0, initial_noise=pure_noise)
        whole = tf.equal(steps, taken)
        return tf.cond(whole, lambda: prepare(pure, True), lambda: prepare(table, False))


def _known(ids, size):
    """Tokens, once they are known to be of a vocabulary of this size."""
    known = tf.reduce_all((ids >= 0) & (ids < size))
    message = f"tokens must be from 0 to {size - 1}, not"
    with tf.control_dependencies([tf.debugging.Assert(known, [message, ids])]):
        return tf.identity(ids)


def _float32(tensor):
    return tf.cast(tensor, "float32")
