"""Batches as a pure function of seed and step: pictures, and every random number of the step.

Noise is data: whoever asks for step 1,234 gets the same batch, in a new process after a kill, or on
another machine that takes its own rows of it.
"""

import keras
import numpy as np

from kerasdiff.clip_tokenizer import SimpleTokenizer
from kerasdiff.training.data.buckets import group_batches
from kerasdiff.training.data.captions import check_captions


class Batches(keras.utils.PyDataset):
    """An endless dataset for `fit`, which must be called with `shuffle=False`.

    Where pictures are of several sizes, each batch is of one; on TensorFlow the `fit` of this
    package's trainers takes them, while that of other models expects the first two batches' sizes.

    Args:
        source: a sequence of (picture, caption) with `sizes`, such as `PictureFolder`.
        batch_size: pictures a step.
        draw: function of an item, a `numpy.random.Generator` and (row, B) that makes a row of the
            batch, such as `AutoencoderDraw` or `DiffusionDraw`. Pictures come in random order, so
            that the number of the row may stand for a stratum. Where it has a method `check`, that
            is called with the source before anything is drawn.
        seed: of the order of pictures and of all that is drawn.
        start: number of the first step, to go on where a run was cut.
        part: (i, n) takes the i-th of n equal parts of each batch's rows: what process i of n
            feeds. The rows are those of the whole batch, noise included.
        **options: of `keras.utils.PyDataset`, such as `workers`.

    Attributes:
        error: what reading a batch raised, or None; `fit` may come out with another one.

    Raises:
        ValueError: if `batch_size` cannot be cut into the parts, or captions do not fit.
    """

    def __init__(self, source, batch_size, draw, seed=0, start=0, part=(0, 1), **options):
        super().__init__(**options)
        if batch_size < 1 or batch_size % part[1]:
            raise ValueError(
                f"`batch_size` must be a multiple of the number of processes, {part[1]}, "
                f"not {batch_size}"
            )
        if hasattr(draw, "check"):
            draw.check(source)
        size = batch_size // part[1]
        self.rows = slice(part[0] * size, (part[0] + 1) * size)
        self.source, self.batch_size, self.draw = source, batch_size, draw
        self.seed, self.start, self.part = seed, start, part
        self.error, self._epochs = None, {}
        self.steps_per_epoch = len(self._epoch(0))

    @property
    def num_batches(self):
        """None: there is no end."""
        return None

    def __getitem__(self, index):
        try:
            return self._read(index)
        except Exception as error:
            self.error = error
            raise

    def _read(self, index):
        step = self.start + index
        indices = self.indices(step)
        drawn = [
            self.draw(
                self.source[indices[row]],
                np.random.default_rng([self.seed, 1, step, row]),
                (row, self.batch_size),
            )
            for row in range(self.batch_size)[self.rows]
        ]
        return ({name: np.stack([row[name] for row in drawn]) for name in drawn[0]},)

    def indices(self, step):
        """Which pictures step number `step` takes."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[place]

    def _epoch(self, epoch):
        batches = self._epochs.get(epoch)
        if batches is None:
            rng = np.random.default_rng([self.seed, 0, epoch])
            batches = group_batches(self.source.sizes, self.batch_size, rng)
            # Two are kept: workers that read ahead are in the next one already.
            self._epochs = dict([*self._epochs.items()][-1:] + [(epoch, batches)])
        return batches


class AutoencoderDraw:
    """Rows for `AutoencoderTrainer`: a picture and the noise of the posterior.

    Args:
        config: the `AutoencoderConfig`.
        crop: pixels a side of a square cut out anywhere of each picture (arXiv 2112.10752,
            appendix G, trains so); None takes whole pictures.
    """

    def __init__(self, config, crop=None):
        self.config, self.crop = config, crop

    def __call__(self, item, rng, stratum):
        picture, _ = item
        if self.crop:
            y, x = (rng.integers(max(side - self.crop, 0) + 1) for side in picture.shape[:2])
            picture = picture[y : y + self.crop, x : x + self.crop]
        shape = latent_shape(picture.shape, self.config)
        return {"pictures": picture, "noise": rng.standard_normal(shape, "float32")}


class DiffusionDraw:
    """Rows for `DiffusionTrainer`: a picture or its moments, tokens, noise and timestep.

    Args:
        tokenizers: the `SimpleTokenizer` of each text encoder, in a list.
        config: the `StableDiffusionConfig`.
        caption_dropout: share of captions that are left empty, for guidance (arXiv 2207.12598).
        offset_noise: strength of noise that is the same all over a channel, so that pictures may
            become very dark or bright (Guttenberg 2023).
        stratified: timesteps are spread evenly over a batch, one in each of B equal parts, instead
            of independently: the same expectation with less variance.
        moments: whether the source holds moments of latents (see `cache_moments`), not pictures.
        shift: moves timesteps towards noise: a share s of the way is taken for `shift` s /
            (1 + (shift - 1) s) (arXiv 2403.03206, section 5.3.2). What words alone decide is learnt
            where little else can be seen; 1 trains all timesteps alike.
        pure_noise: share of rows at the last timestep. Where it is noise alone (zero terminal SNR)
            every picture begins there, and only there the caption alone decides what lies where:
            at any other timestep much of that can be seen. Not together with the trainer's
            `snr_gamma`, which gives that timestep no weight.

    Raises:
        ValueError: if `caption_dropout` or `pure_noise` is no share, or `shift` not positive.
    """

    def __init__(
        self, tokenizers, config, caption_dropout=0.1, offset_noise=0.0, stratified=True,
        moments=False, shift=1.0, pure_noise=0.0,
    ):  # fmt: skip
        for name, share in (("caption_dropout", caption_dropout), ("pure_noise", pure_noise)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"`{name}` must be from 0 to 1, not {share}")
        if not shift > 0.0:
            raise ValueError(f"`shift` must be positive, not {shift}")
        self.tokenizers, self.config = tokenizers, config
        self.caption_dropout, self.offset_noise = caption_dropout, offset_noise
        self.stratified, self.moments = stratified, moments
        self.shift, self.pure_noise = shift, pure_noise

    def check(self, source):
        """Raises ValueError if captions are too long for a tokenizer, where the source tells them.

        100,000 captions take some seconds.
        """
        for tokenizer in self.tokenizers:
            if isinstance(tokenizer, SimpleTokenizer) and hasattr(source, "captions"):
                check_captions(source, tokenizer)

    def __call__(self, item, rng, stratum):
        array, caption = item
        if self.moments:
            shape = (*array.shape[:-1], array.shape[-1] // 2)
        else:
            shape = latent_shape(array.shape, self.config.autoencoder)
        if rng.random() < self.caption_dropout:
            caption = ""
        place, (row, count) = rng.random(), stratum
        if self.stratified:
            place = (row + place) / count
        last = place >= 1.0 - self.pure_noise
        place = 1.0 if last else place / (1.0 - self.pure_noise)
        place *= self.shift / (1.0 + (self.shift - 1.0) * place)
        timesteps = self.config.schedule.num_train_timesteps
        noise = rng.standard_normal(shape, "float32")
        if self.offset_noise:
            offset = rng.standard_normal(shape[-1:], "float32")
            noise += np.float32(self.offset_noise) * offset
        drawn = {
            "moments" if self.moments else "pictures": array,
            "posterior_noise": rng.standard_normal(shape, "float32"),
            "noise": noise,
            "timesteps": np.int32(min(place * timesteps, timesteps - 1)),
        }
        for i, tokenizer in enumerate(self.tokenizers):
            drawn[f"tokens_{i + 1}" if i else "tokens"] = tokenizer.pack(caption)
        return drawn


def latent_shape(picture_shape, config):
    """(H, W, 3) to (H / f, W / f, C)."""
    height, width = picture_shape[:2]
    return (height // config.factor, width // config.factor, config.latent_channels)
