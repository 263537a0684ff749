"""The tables of a training run's settings; see `settings`."""

from dataclasses import dataclass, field

from kerasdiff.training.runs.tables import at_least, need, one_of, share

OPTIMIZERS = (
    "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "ftrl", "lamb", "lion", "muon",
    "nadam", "rmsprop", "sgd",
)  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Pictures with captions.

    Attributes:
        folder: see `pictures.PictureFolder`; or instead
        shards: see `shards.Shards`.
        size: of pictures in pixels; with buckets, of the square of the same area.
        buckets: whether to keep aspect ratios, see `buckets.make_buckets`, whose arguments
            `bucket_multiple` and `max_ratio` are.
        max_upscale: pictures that would be enlarged more than this are left out.
        workers: threads that read pictures ahead; 0 reads them in turn.
    """

    folder: str | None = None
    shards: str | None = None
    size: int = at_least(8, 512)
    buckets: bool = False
    bucket_multiple: int = at_least(8, 64)
    max_ratio: float = at_least(1, 2.0)
    max_upscale: float = at_least(1, 2.0)
    workers: int = at_least(0, 0)

    def check(self):
        need((self.folder is None) != (self.shards is None), "give either `folder` or `shards`")


@dataclass(frozen=True)
class CaptionedData(Data):
    """What diffusion needs besides.

    Attributes:
        caption_dropout: share of captions left out, for guidance.
        offset_noise: strength of noise that is the same all over a channel (0.05 to 0.1).
        truncate_captions: cut captions that are too long; otherwise they are an error.
        cache_latents: encode every picture once, before the first step, and keep the moments.
    """

    caption_dropout: float = share(0.1)
    offset_noise: float = at_least(0, 0.0)
    truncate_captions: bool = False
    cache_latents: bool = False

    def check(self):
        super().check()
        need(
            not (self.buckets and self.cache_latents),
            "`cache_latents` needs pictures of one size: not together with `buckets`",
        )


@dataclass(frozen=True)
class Optimization:
    """How the weights change.

    Attributes:
        name: "muon" is `muon.Muon`, the others are Keras'.
        rate: the peak; reached after `warmup` steps.
        schedule: after the warm-up; "cosine" ends at `floor` times the peak with the last step.
        clip: norm of all gradients together that is not exceeded; 0 for no limit.
        accumulate: batches a step.
        ema: momentum a step of the average of the weights, which is what is saved; 0 for none.
            At first it is smaller, see `averages.warmed_up`.
        weight_decay: decoupled from the gradients (arXiv 1711.05101), with every optimizer.
        options: further arguments of the optimizer's class.
    """

    name: str = one_of(OPTIMIZERS, "adamw")
    rate: float = at_least(0, 1e-5)
    warmup: int = at_least(0, 0)
    schedule: str = one_of(("constant", "cosine"), "constant")
    floor: float = share(0.0)
    clip: float = at_least(0, 1.0)
    accumulate: int = at_least(1, 1)
    ema: float = share(0.0)
    weight_decay: float = at_least(0, 0.01)
    options: dict = field(default_factory=dict)

    def check(self):
        need(self.ema < 1, "`ema` must be below 1: with 1 the average never changes")
        need(self.floor == 0 or self.schedule == "cosine", '`floor` is for schedule = "cosine"')


@dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its state, log, samples and cache, to go on after it was cut.

    Attributes:
        folder: None takes `output` with "-training" added.
        every: steps between two states.
        keep: states that stay.
    """

    folder: str | None = None
    every: int = at_least(1, 1000)
    keep: int = at_least(1, 2)


@dataclass(frozen=True)
class Samples:
    """Pictures of the averaged weights while training.

    Attributes:
        prompts: one picture each; none for no samples.
        every: steps between two grids.
        steps, guidance, seed: of sampling.
    """

    prompts: tuple[str, ...] = ()
    every: int = at_least(1, 1000)
    steps: int = at_least(1, 20)
    guidance: float = at_least(1, 7.5)
    seed: int = at_least(0, 0)


@dataclass(frozen=True)
class DiffusionLoss:
    """See `diffusion.DiffusionTrainer`."""

    snr_gamma: float | None = at_least(0, None)

    def check(self):
        need(self.snr_gamma != 0, "`snr_gamma` must be above 0; without it all timesteps weigh 1")


@dataclass(frozen=True)
class AutoencoderLoss:
    """Weights of the losses, see `autoencoder.AutoencoderTrainer`."""

    l1: float = at_least(0, 1.0)
    mse: float = at_least(0, 0.0)
    kl: float = at_least(0, 1e-6)
    gradient: float = at_least(0, 0.0)
    adversarial: float = at_least(0, 0.0)
