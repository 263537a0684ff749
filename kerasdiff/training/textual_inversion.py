"""Textual inversion (arXiv 2208.01618): a new word learnt from a few pictures, and nothing else.

The new tokens' rows are the only variable that trains; everything else is frozen, so that no
optimizer, weight decay or average can touch it.
"""

import keras
import numpy as np
from keras import ops

from kerasdiff.text_encoder import EMBEDDINGS
from kerasdiff.training.diffusion import DiffusionTrainer

TEMPLATES = (
    "a photo of a {}", "a rendering of a {}", "a cropped photo of the {}", "the photo of a {}",
    "a photo of a clean {}", "a photo of one {}", "a close-up photo of a {}",
    "a good photo of a {}", "a depiction of a {}", "an illustration of a {}",
)  # fmt: skip
"""Of the paper's repository."""


class TextualInversionTrainer(DiffusionTrainer):
    """Learns rows for tokens beyond a text encoder's vocabulary.

    Batches are those of `DiffusionTrainer`; their `tokens` may hold ids from the vocabulary's size
    on, as a tokenizer gives them to which the tokens have been added.

    Args:
        config, diffusion_model, text_encoder, image_encoder, snr_gamma: see `DiffusionTrainer`;
            the networks are frozen and stay so: set `trainable` before they are trained elsewhere.
        rows: (n, width), what the tokens start from, such as `rows_of` a similar word.

    Attributes:
        rows: the variable, (n, width).

    Raises:
        ValueError: if `rows` has another width than the text encoder.
    """

    def __init__(
        self, config, diffusion_model, text_encoder, rows, image_encoder=None, snr_gamma=None,
        name="textual_inversion_trainer",
    ):  # fmt: skip
        diffusion_model.trainable = text_encoder.trainable = False
        super().__init__(config, diffusion_model, text_encoder, image_encoder, snr_gamma, name)
        rows = np.asarray(rows, "float32")
        if rows.ndim != 2 or rows.shape[1] != text_encoder.config.width:
            raise ValueError(
                f"`rows` must be (n, {text_encoder.config.width}), not {tuple(rows.shape)}"
            )
        self.rows = self.add_weight(rows.shape, keras.initializers.Constant(0.0), name="rows")
        self.rows.assign(rows)
        self.embeddings = text_encoder.get_layer(EMBEDDINGS)
        # The text encoder from the tokens' vectors on, with the same layers.
        self.transformer = keras.Model(self.embeddings.output, text_encoder.output)

    def _context(self, batch):
        tokens, size = batch["tokens"], self.text_encoder.config.vocab_size
        known = self.embeddings.token_embedding(ops.minimum(tokens, size - 1))  # (B, T, width)
        new = ops.take(self.rows, ops.clip(tokens - size, 0, self.rows.shape[0] - 1), axis=0)
        vectors = ops.where((tokens >= size)[..., None], ops.cast(new, known.dtype), known)
        positions = ops.arange(tokens.shape[1], dtype="int32")[None]
        return self.transformer(vectors + self.embeddings.position_embedding(positions))


class InversionSource:
    """Pictures of one thing, captioned by templates with its token.

    Args:
        source: a source of pictures (see `sources.PictureSource`) whose captions are not used.
        token: what stands in the templates, several tokens written out.
        templates: sentences with {}.
        repeats: how often each picture comes, with another template.
    """

    def __init__(self, source, token, templates=TEMPLATES, repeats=10):
        if not templates or not all("{}" in template for template in templates):
            raise ValueError("`templates` must be sentences with {} where the token goes")
        self.source, self.token, self.templates = source, token, tuple(templates)
        self.skipped = source.skipped
        self.sizes = list(source.sizes) * repeats

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        picture, _ = self.source[i % len(self.source)]
        return picture, self._caption(i)

    @property
    def captions(self):
        """That of each item."""
        return [self._caption(i) for i in range(len(self))]

    def _caption(self, i):
        round_, place = divmod(i, len(self.source))
        return self.templates[(round_ + place) % len(self.templates)].format(self.token)


def rows_of(text_encoder, tokenizer, word, count=1):
    """The vectors of a word that is in the vocabulary, for `rows` to start from.

    Args:
        word: the first of its tokens counts.
        count: of vectors, all alike.

    Returns:
        (count, width) float32.
    """
    ids = tokenizer.encode(word)[1:-1]
    if not ids:
        raise ValueError(f"`word` must hold a token, not {word!r}")
    table = ops.convert_to_numpy(text_encoder.get_layer(EMBEDDINGS).token_embedding.embeddings)
    return np.repeat(np.asarray(table, "float32")[ids[:1]], count, axis=0)
