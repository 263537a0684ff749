"""A training run: settings to data, networks, trainer and callbacks; then `fit`; then a checkpoint.

A run goes on by itself where its folder's last state was written.
"""

from dataclasses import dataclass

import keras

from kerasdiff.backend import compiles_training, keep_freed_memory, prepare_compiler
from kerasdiff.checkpoints.models import Models
from kerasdiff.checkpoints.save import check_vocabularies
from kerasdiff.checkpoints.tokenizers import read_tokenizers
from kerasdiff.stable_diffusion import StableDiffusion
from kerasdiff.training.autoencoder import AutoencoderTrainer, patch_discriminator
from kerasdiff.training.averages import warmed_up
from kerasdiff.training.callbacks import Log, Progress, SampleGrid
from kerasdiff.training.checkpoints import SaveState, resume
from kerasdiff.training.data.batches import AutoencoderDraw, Batches, DiffusionDraw
from kerasdiff.training.data.buckets import make_buckets
from kerasdiff.training.data.cached import Moments, cache_moments
from kerasdiff.training.data.captions import Truncating, check_captions
from kerasdiff.training.data.pictures import PictureFolder
from kerasdiff.training.data.shards import Shards
from kerasdiff.training.diffusion import DiffusionTrainer
from kerasdiff.training.muon import Muon
from kerasdiff.training.rates import Rate
from kerasdiff.training.runs.checks import check_batch_size, check_loss, check_samples
from kerasdiff.training.runs.networks import (
    TRAINED,
    check_trained,
    choose_trained,
    make_networks,
    open_model,
)
from kerasdiff.training.runs.record import check_record, write_record
from kerasdiff.training.runs.result import check_output, save_result


@dataclass(frozen=True)
class Plan:
    """What was found before anything is trained.

    Attributes:
        settings: the `Settings`.
        checkpoint: what is started from, see `networks.open_model`.
        source: of pictures and captions.
        tokenizer: the text encoder's.
    """

    settings: object
    checkpoint: object
    source: object
    tokenizer: object

    def describe(self):
        """A few lines for people."""
        settings, source, config = self.settings, self.source, self.checkpoint.config
        accumulate, sizes = settings.optimizer.accumulate, sorted(set(source.sizes))
        lines = [
            f"{settings.kind}: {settings.model}, family {config.family}",
            f"{len(source)} pictures, {len(source.skipped)} left out, in the sizes "
            + ", ".join(f"{width}x{height}" for height, width in sizes),
            f"{settings.steps} steps of {settings.batch_size * accumulate} pictures, "
            f"state in {settings.folder}, result in {settings.output}",
        ]
        return lines + [f"left out: {name}: {why}" for name, why in source.skipped.items()]


def prepare(settings):
    """Opens model and data and checks what can be known before anything is trained.

    Call `devices.distribute` before, where it is called: the batches must fit the devices.

    Returns:
        `Plan`.

    Raises:
        ValueError: says what is wrong with settings, model, data or output.
    """
    prepare_compiler()
    check_output(settings.output)
    check_batch_size(settings.batch_size)
    make_optimizer(settings)
    checkpoint, data = open_model(settings), settings.data
    if settings.output.endswith(".safetensors"):
        check_vocabularies(settings.output, checkpoint.config, checkpoint.tokenizer_folders)
    else:
        read_tokenizers(settings.output, checkpoint.config, checkpoint.tokenizer_folders)
    buckets = None
    if data.buckets:
        buckets = make_buckets(data.size**2, data.bucket_multiple, data.max_ratio)
    sizes = {"size": None if buckets else data.size, "buckets": buckets}
    opener = PictureFolder if data.folder else Shards
    source = opener(data.folder or data.shards, **sizes, max_upscale=data.max_upscale)
    tokenizer = None
    if settings.kind == "diffusion":
        models = Models(checkpoint.config, settings.dtype, checkpoint)
        tokenizer = models.make("tokenizer")
        if not data.truncate_captions:
            check_captions(source, tokenizer)
        check_loss(settings.loss, checkpoint.config.schedule)
        check_samples(settings.samples, checkpoint.config, tokenizer)
    check_record(settings.folder, settings, source)
    check_trained(settings, checkpoint.config)
    return Plan(settings, checkpoint, source, tokenizer)


def train(plan, score=None, progress=True, part=(0, 1)):
    """Trains as planned, from the last state if there is one, and writes the result.

    With several processes, each needs the data and a folder for the state, its own or a common
    one; process 0 writes all else.

    Args:
        plan: of `prepare`.
        score: see `callbacks.SampleGrid`.
        progress: whether a line of progress is shown.
        part: (i, n), this is process i of n, see `devices.distribute`.

    Raises:
        ValueError: if the folder holds another run, or processes hold states of different steps.
        FloatingPointError: if the loss is not finite; the last good state stays.
        CheckpointError: if state or result cannot be written; the last good state stays.
    """
    settings = plan.settings
    write_record(settings.folder, settings, plan.source)
    keep_freed_memory()
    keras.utils.set_random_seed(settings.seed)
    networks, trainer, source, draw = _MAKERS[settings.kind](plan)
    jit_compile = settings.jit_compile
    if jit_compile is None:
        jit_compile = compiles_training()
    trainer.compile(optimizer=make_optimizer(settings), jit_compile=jit_compile)
    # Both count batches, as states do.
    done, total = resume(trainer, settings.folder), settings.steps * settings.optimizer.accumulate
    if done > total:
        step = done // settings.optimizer.accumulate
        raise ValueError(
            f"{settings.folder}: the run is at step {step} already, of {settings.steps}"
        )
    if done < total:
        batches = Batches(
            source, settings.batch_size, draw, settings.seed, done, part,
            workers=max(settings.data.workers, 1),
        )  # fmt: skip
        _fit(plan, networks, trainer, batches, total - done, score, progress)
    if part[0] == 0:
        save_result(settings, plan.checkpoint, networks, trainer, plan.source)


def _fit(plan, networks, trainer, batches, count, score, progress):
    settings = plan.settings
    accumulate, states = settings.optimizer.accumulate, settings.checkpoints
    first = batches.part[0] == 0  # of several processes
    log = Log(settings.folder / "log.jsonl") if first else None
    counting = {"start": batches.start // accumulate, "batches": accumulate}
    bar = Progress(settings.steps, make_rate(settings), log, progress and first, **counting)
    every = states.every * accumulate
    save = SaveState(settings.folder, every, batches.start, states.keep, accumulate)
    callbacks = [save, bar, *_samples(plan, networks, score, log, counting)]
    try:
        trainer.fit(batches, steps_per_epoch=count, shuffle=False, verbose=0, callbacks=callbacks)
    finally:
        bar.close()


def _samples(plan, networks, score, log, counting):
    """The callback that draws pictures, in a list; none without prompts."""
    settings, config = plan.settings, plan.checkpoint.config
    samples = getattr(settings, "samples", None)
    if samples is None or not samples.prompts:
        return []
    size = settings.data.size
    pipeline = StableDiffusion(size, size, checkpoint=config)
    for name in ("diffusion_model", "text_encoder"):
        setattr(pipeline, name, networks[name])
    pipeline.tokenizer = plan.tokenizer
    pipeline.decoder = Models(config, "float32", plan.checkpoint).make("decoder")
    folder = None if log is None else settings.folder / "samples"  # the first process writes
    grid = SampleGrid(
        pipeline, samples.prompts, folder, samples.every, **counting,
        score=score, log=log, num_steps=samples.steps, seed=samples.seed,
        unconditional_guidance_scale=samples.guidance,
    )  # fmt: skip
    return [grid]


def make_rate(settings):
    """The learning rate as a function of batches, which is what Keras counts."""
    optimizer, batches = settings.optimizer, settings.optimizer.accumulate
    warmup = optimizer.warmup * batches
    if optimizer.schedule == "constant":
        return Rate(optimizer.rate, warmup)
    decay = settings.steps * batches - warmup
    return Rate(optimizer.rate, warmup, 0, decay, optimizer.floor)


def make_optimizer(settings):
    """The optimizer of the settings, with a scaled loss where float16 needs it."""
    given = settings.optimizer
    options = {
        "weight_decay": given.weight_decay,
        "global_clipnorm": given.clip or None,
        "gradient_accumulation_steps": given.accumulate if given.accumulate > 1 else None,
        "use_ema": given.ema > 0,
        # Keras averages after every batch.
        "ema_momentum": given.ema ** (1.0 / given.accumulate),
        "name": "optimizer",  # one that does not depend on what was made before
    }
    kinds = {name.lower(): kind for name, kind in vars(keras.optimizers).items()}
    kind = kinds.get(given.name)
    if given.name == "muon":
        kind = Muon
        options |= {
            "adam_weight_decay": given.weight_decay,
            "adam_lr_ratio": 0.2,
            "exclude_layers": ["conv_in", "conv_out"],
        }
    try:
        optimizer = warmed_up(kind)(make_rate(settings), **options | given.options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`optimizer.options`: {error}") from error
    if settings.dtype == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale")
    return optimizer


def _diffusion(plan):
    """Networks by name, the trainer, the source of its batches, and what draws them."""
    settings, data = plan.settings, plan.settings.data
    config, source = plan.checkpoint.config, plan.source
    networks = make_networks(TRAINED["diffusion"], settings, plan.checkpoint)
    choose_trained(networks, settings.train)
    encoder = make_networks(("image_encoder",), settings, plan.checkpoint)["image_encoder"]
    if data.cache_latents:
        source = Moments(cache_moments(source, encoder, settings.folder / "moments"))
    trainer = DiffusionTrainer(
        config, networks["diffusion_model"], networks["text_encoder"],
        None if data.cache_latents else encoder, settings.loss.snr_gamma,
    )  # fmt: skip
    tokenizer = Truncating(plan.tokenizer) if data.truncate_captions else plan.tokenizer
    draw = DiffusionDraw(
        [tokenizer], config, data.caption_dropout, data.offset_noise, moments=data.cache_latents
    )
    return networks, trainer, source, draw


def _autoencoder(plan):
    """See `_diffusion`."""
    settings, loss = plan.settings, plan.settings.loss
    networks = make_networks(TRAINED["autoencoder"], settings, plan.checkpoint)
    choose_trained(networks, settings.train)
    trainer = AutoencoderTrainer(
        networks["image_encoder"], networks["decoder"], l1=loss.l1, mse=loss.mse, kl=loss.kl,
        gradient=loss.gradient, adversarial=loss.adversarial,
        discriminator=patch_discriminator() if loss.adversarial else None,
    )  # fmt: skip
    draw = AutoencoderDraw(plan.checkpoint.config.autoencoder)
    return networks, trainer, plan.source, draw


_MAKERS = {"diffusion": _diffusion, "autoencoder": _autoencoder}
