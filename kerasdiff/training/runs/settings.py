"""What a training run does, read from a TOML file and checked before anything heavy is imported.

The dataclasses, here and in `sections`, are the format: their fields are the keys, their types and
metadata what is allowed.
A *step* is one update of the weights, from `accumulate` batches of `batch_size` pictures. Paths are
relative to the working directory.
"""

import re
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kerasdiff.configs import FAMILIES, PREDICTION_TYPES
from kerasdiff.training.runs.recipes import RECIPES
from kerasdiff.training.runs.sections import (
    AutoencoderLoss,
    CaptionedData,
    Checkpoints,
    Data,
    DiffusionLoss,
    Optimization,
    Samples,
)
from kerasdiff.training.runs.tables import at_least, fill, merged, need, one_of


@dataclass(frozen=True)
class Settings:
    """What all kinds of training have in common.

    Attributes:
        kind: what is trained: a key of `KINDS`.
        model: a preset, file or folder to start from; or the name of an architecture (a key of
            `configs.FAMILIES`), which starts from nothing.
        output: a folder in the layout of diffusers, new or empty, or a `.safetensors` file, new.
        vae: another autoencoder than the model's.
        variant: of a folder's weight files, such as "fp16".
        prediction_type: of a model that does not show its own, see `open_checkpoint`.
        train: patterns (regular expressions) found in the names of the variables that train, such
            as "unet" or "unet.*attn2"; names begin with the part: unet, text_encoder or vae.
        fresh: parts of the model that start from nothing.
        dtype: mixed ones keep weights in float32 and compute in the other.
        remat: compute activations anew on the way back, instead of keeping them: less memory.
        jit_compile: XLA; None is what is faster, see `backend.compiles_training`.
        output_dtype: of the saved weights; None keeps each one's own.
    """

    kind: str
    model: str
    output: str
    vae: str | None = None
    variant: str | None = None
    prediction_type: str | None = one_of(PREDICTION_TYPES, None)
    train: tuple[str, ...] = ()
    fresh: tuple[str, ...] = one_of(("unet", "text_encoder", "vae"), ())
    steps: int = at_least(1, 1000)
    batch_size: int = at_least(1, 4)
    seed: int = at_least(0, 0)
    dtype: str = one_of(("float32", "mixed_bfloat16", "mixed_float16"), "float32")
    remat: bool = False
    jit_compile: bool | None = None
    output_dtype: str | None = one_of(("float32", "bfloat16", "float16"), None)
    optimizer: Optimization = field(default_factory=Optimization)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)

    @property
    def from_nothing(self):
        """Whether `model` names an architecture."""
        return self.model in FAMILIES

    @property
    def folder(self):
        """The folder of the run's state, a path."""
        output = Path(self.output)
        name = output.stem if output.suffix == ".safetensors" else output.name  # "model-1.5"
        return Path(self.checkpoints.folder or output.with_name(f"{name}-training"))

    def check(self):
        for name in ("model", "output"):
            need(getattr(self, name), f"`{name}` must not be empty")
        need(self.train, "`train` is empty: nothing would be trained")
        need(
            not (self.from_nothing and self.prediction_type),
            f"`prediction_type` is for checkpoints: the architecture {self.model!r} has its own",
        )
        for pattern in self.train:
            try:
                re.compile(pattern)
            except re.error as error:
                need(False, f"`train`: {pattern!r} is no regular expression: {error}")
        optimizer = self.optimizer
        need(
            optimizer.schedule == "constant" or optimizer.warmup < self.steps,
            f"`optimizer.warmup` is {optimizer.warmup}, of {self.steps} steps in all: nothing is "
            "left for the cosine",
        )


@dataclass(frozen=True)
class DiffusionSettings(Settings):
    """Training the UNet, alone or with the text encoder."""

    train: tuple[str, ...] = ("unet",)
    data: CaptionedData = field(default_factory=CaptionedData)
    loss: DiffusionLoss = field(default_factory=DiffusionLoss)
    samples: Samples = field(default_factory=Samples)

    def check(self):
        super().check()
        need("vae" not in self.fresh, '`fresh`: train the "vae" first, with kind = "autoencoder"')
        need(
            not self.from_nothing or self.vae,
            f"the architecture {self.model!r} has no trained autoencoder: name one with `vae`",
        )


@dataclass(frozen=True)
class AutoencoderSettings(Settings):
    """Training the variational autoencoder, or one of its halves.

    One alone is `vae`, and `model` its architecture.
    """

    train: tuple[str, ...] = ("vae",)
    data: Data = field(default_factory=Data)
    loss: AutoencoderLoss = field(default_factory=AutoencoderLoss)

    def check(self):
        super().check()
        need(set(self.fresh) <= {"vae"}, '`fresh` can only hold "vae" here')
        need(self.dtype != "mixed_float16", "autoencoders leave float16's range: mixed_bfloat16")
        need(any(asdict(self.loss).values()), "`loss`: at least one weight must be above 0")
        need(
            not (self.from_nothing and self.output.endswith(".safetensors")),
            "`output` must be a folder: an autoencoder alone has no single file",
        )


KINDS = {"diffusion": DiffusionSettings, "autoencoder": AutoencoderSettings}


def read_settings(path, **overrides):
    """The settings in a TOML file.

    Args:
        path: of the file.
        **overrides: keys of the top level that go before the file's; None leaves the file's.

    Returns:
        `DiffusionSettings` or `AutoencoderSettings`.

    Raises:
        ValueError: if it is no TOML (it names the line), or a key or value is not allowed (it names
            file and key, and says what is).
        OSError: if it cannot be read.
    """
    try:
        table = tomllib.loads(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not TOML: {error}") from error
    try:
        return make_settings(table | {k: v for k, v in overrides.items() if v is not None})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def make_settings(table):
    """The settings of a table as TOML gives it; ValueError names the key and what is allowed."""
    table = dict(table)
    recipe = table.pop("recipe", None)
    if recipe is not None:
        need(
            isinstance(recipe, str) and recipe in RECIPES,
            f"`recipe` must be one of {', '.join(RECIPES)}, not {recipe!r}",
        )
        table = merged(RECIPES[recipe], table)
    kind = table.get("kind")
    need(
        isinstance(kind, str) and kind in KINDS,
        f"`kind` must be one of {', '.join(KINDS)}, not {kind!r}",
    )
    return fill(KINDS[kind], table)
