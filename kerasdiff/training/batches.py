"""Batches as a pure function of seed and step: pictures, and every random number of the step.

Noise is data: whoever asks for step 1,234 gets the same batch, in a new process after a kill, or on
another machine that takes its own rows of it.
"""

import keras
import numpy as np

from kerasdiff.training.buckets import group_batches


class Batches(keras.utils.PyDataset):
    """An endless dataset for `fit`, which must be called with `shuffle=False`.

    Args:
        source: a sequence of (picture, caption) with `sizes`, such as `PictureFolder`.
        batch_size: pictures a step.
        draw: function of a list of items and a `numpy.random.Generator` that makes the batch, such
            as `AutoencoderDraw` or `DiffusionDraw`.
        seed: of the order of pictures and of all that is drawn.
        start: number of the first step, to go on where a run was cut.
        **options: of `keras.utils.PyDataset`, such as `workers`.
    """

    def __init__(self, source, batch_size, draw, seed=0, start=0, **options):
        super().__init__(**options)
        if not 1 <= batch_size:
            raise ValueError(f"`batch_size` must be at least 1, not {batch_size}")
        self.source, self.batch_size, self.draw = source, batch_size, draw
        self.seed, self.start = seed, start
        self._epochs = {}
        self.steps_per_epoch = len(self._epoch(0))

    @property
    def num_batches(self):
        """None: there is no end."""
        return None

    def __getitem__(self, index):
        step = self.start + index
        indices = self.indices(step)
        rng = np.random.default_rng([self.seed, 1, step])
        return (self.draw([self.source[i] for i in indices], rng),)

    def indices(self, step):
        """Which pictures step number `step` takes."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[place]

    def _epoch(self, epoch):
        if epoch not in self._epochs:
            rng = np.random.default_rng([self.seed, 0, epoch])
            batches = group_batches(self.source.sizes, self.batch_size, rng)
            self._epochs = {epoch - 1: self._epochs.get(epoch - 1), epoch: batches}
        return self._epochs[epoch]


class AutoencoderDraw:
    """Batches for `AutoencoderTrainer`: pictures and the noise of the posterior.

    Args:
        config: the `AutoencoderConfig`.
        pool: pictures are averaged over squares of so many pixels: 2 trains at half the size.
    """

    def __init__(self, config, pool=1):
        self.config, self.pool = config, pool

    def __call__(self, items, rng):
        pictures = np.stack([picture for picture, _ in items])
        if self.pool > 1:
            count, height, width, channels = pictures.shape
            shape = (count, height // self.pool, self.pool, width // self.pool, self.pool, channels)
            # (B, H, W, C) -> (B, H / p, p, W / p, p, C) -> (B, H / p, W / p, C)
            pictures = pictures.reshape(shape).mean((2, 4), dtype="float32") / 127.5 - 1.0
        return {"pictures": pictures, "noise": latent_noise(pictures.shape, self.config, rng)}


class DiffusionDraw:
    """Batches for `DiffusionTrainer`: latents or pictures, tokens, noise and timesteps.

    Args:
        tokenizers: the `SimpleTokenizer` of each text encoder, in a list.
        config: the `StableDiffusionConfig`.
        caption_dropout: share of captions that are left empty, for guidance (arXiv 2207.12598).
        offset_noise: strength of noise that is the same all over a channel, so that pictures may
            become very dark or bright (Guttenberg 2023).
        stratified: timesteps are spread evenly over a batch, one in each of B equal parts, instead
            of independently: the same expectation with less variance.
        moments: whether the source holds moments of latents (see `cache_moments`), not pictures.
    """

    def __init__(
        self, tokenizers, config, caption_dropout=0.1, offset_noise=0.0, stratified=True,
        moments=False,
    ):  # fmt: skip
        if not 0.0 <= caption_dropout <= 1.0:
            raise ValueError(f"`caption_dropout` must be from 0 to 1, not {caption_dropout}")
        self.tokenizers, self.config = tokenizers, config
        self.caption_dropout, self.offset_noise = caption_dropout, offset_noise
        self.stratified, self.moments = stratified, moments

    def __call__(self, items, rng):
        count = len(items)
        stack = np.stack([item for item, _ in items])
        captions = [
            "" if dropped else caption
            for dropped, (_, caption) in zip(
                rng.random(count) < self.caption_dropout, items, strict=True
            )
        ]
        if self.moments:
            shape = (*stack.shape[:-1], self.config.autoencoder.latent_channels)
        else:
            shape = latent_shape(stack.shape, self.config.autoencoder)
        steps = self.config.schedule.num_train_timesteps
        places = rng.random(count)
        if self.stratified:
            places = rng.permutation((np.arange(count) + places) / count)
        noise = rng.standard_normal(shape, "float32")
        if self.offset_noise:
            offset = rng.standard_normal((count, 1, 1, shape[-1]), "float32")
            noise += np.float32(self.offset_noise) * offset
        batch = {
            "moments" if self.moments else "pictures": stack,
            "posterior_noise": rng.standard_normal(shape, "float32"),
            "noise": noise,
            "timesteps": np.int32(places * steps),
        }
        for i, tokenizer in enumerate(self.tokenizers):
            rows = [tokenizer.pack(caption) for caption in captions]
            batch[f"tokens_{i + 1}" if i else "tokens"] = np.stack(rows).astype("int32")
        return batch


def latent_shape(pictures_shape, config):
    """(B, H, W, 3) to (B, H / f, W / f, C)."""
    count, height, width = pictures_shape[:3]
    return (count, height // config.factor, width // config.factor, config.latent_channels)


def latent_noise(pictures_shape, config, rng):
    """Standard normal noise of the shape of pictures' latents, float32."""
    return rng.standard_normal(latent_shape(pictures_shape, config), "float32")
