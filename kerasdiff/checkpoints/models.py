"""From a checkpoint to Keras models with its weights in them, one part at a time."""

from contextlib import nullcontext
from functools import partial

from keras import ops

from kerasdiff.backend import hand_over
from kerasdiff.checkpoints.checkpoint import find_and_open
from kerasdiff.checkpoints.load import check_fit, state
from kerasdiff.checkpoints.streaming import StreamedDiffusionModel
from kerasdiff.checkpoints.tokenizers import clip_tokenizer, read_tokenizer
from kerasdiff.configs import StableDiffusionConfig
from kerasdiff.decoder import Decoder
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.image_encoder import ImageEncoder
from kerasdiff.layers import quantize, uninitialized, without_memory
from kerasdiff.layers.network import DTYPES
from kerasdiff.layers.token_merging import check_ratio
from kerasdiff.text_encoder import TextEncoder

# Our model's name -> its class, the checkpoint's part that holds its weights, its config.
_MODELS = {
    "text_encoder": (TextEncoder, "text_encoder", lambda config: config.text_encoders[0]),
    "text_encoder_2": (TextEncoder, "text_encoder_2", lambda config: config.text_encoders[1]),
    "image_encoder": (ImageEncoder, "vae", lambda config: config.autoencoder),
    "decoder": (Decoder, "vae", lambda config: config.autoencoder),
    "diffusion_model": (DiffusionModel, "unet", lambda config: config.diffusion_model),
}


def kept_in_float(config):
    """Beginnings of the names of layers that stay float in a UNet of int8: its way in and out.

    They are 2 % of SD 1.5's weights, and every error passes through them: with the outermost
    ResBlocks rounded too, the output is 1.2 times as far off (benchmarks/RESULTS.md).
    """
    last = len(config.channels) - 1
    ends = ("conv_in", "conv_out", "time_embedding", "add_embedding")
    return (*ends, "down_blocks.0.resnets", f"up_blocks.{last}.resnets")


def open_models(checkpoint, dtype="float32", int8=False, token_merging=0.0, **files):
    """Finds and opens a checkpoint; reads no weights yet.

    Args:
        checkpoint: a preset's name, a file, a folder, or a `StableDiffusionConfig`.
        dtype: one of `layers.network.DTYPES`.
        int8, token_merging: see `StableDiffusion`.
        **files: further arguments of `find_and_open`.

    Returns:
        `Models`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, not {dtype!r}")
    if int8 and "float16" in dtype.split("_"):
        raise ValueError("`int8` goes with float32 or bfloat16: its sums leave float16's range")
    check_ratio(token_merging)
    if isinstance(checkpoint, StableDiffusionConfig):
        if files:
            raise ValueError(f"untrained networks take no {', '.join(files)}")
        return Models(checkpoint, dtype, None, int8, token_merging)
    opened = find_and_open(checkpoint, **files)
    return Models(opened.config, dtype, opened, int8, token_merging)


class NoPartError(ValueError, AttributeError):
    """A checkpoint of this family has no such model or tokenizer: `hasattr` says so too."""


def dtype_of(part, dtype):
    """What a part computes in: the autoencoder's activations leave float16's range."""
    return "float32" if part == "vae" and "float16" in dtype.split("_") else dtype


def check_whole(checkpoint):
    """Raises CheckpointError unless a checkpoint's tensors are its networks', one to one.

    Reads no weights and takes no memory for them.
    """
    checkpoint.check_there(*_MODELS)
    config, shapes = checkpoint.config, {}
    for name, (kind, part, config_of) in _MODELS.items():
        if not name.endswith("_2") or len(config.text_encoders) > 1:
            model = without_memory(partial(kind, config_of(config)))
            shapes[part] = shapes.get(part, {}) | state(model).shapes
    for part, wanted in shapes.items():
        check_fit(checkpoint.parts[part], wanted, f"the {part}")


class Models:
    """Makes the models and tokenizers of a checkpoint.

    Args:
        config: a `StableDiffusionConfig`.
        dtype: of the networks.
        checkpoint: an open `Checkpoint`; None leaves networks as they were initialised.
        int8, token_merging: what is saved in the UNet, at the price of another picture.
    """

    def __init__(self, config, dtype, checkpoint=None, int8=False, token_merging=0.0):
        self.config, self.dtype, self.checkpoint = config, dtype, checkpoint
        self.int8, self.token_merging = int8, token_merging

    def make(self, name):
        """The model or tokenizer `name`, such as `"decoder"` or `"tokenizer_2"`.

        `"streamed_diffusion_model"` computes as `"diffusion_model"` does in a tenth of the memory.
        """
        if name.endswith("_2") and len(self.config.text_encoders) < 2:
            raise NoPartError(f"a checkpoint of family {self.config.family} has no {name}")
        if name.startswith("tokenizer"):
            return self._tokenizer(name)
        if name == "streamed_diffusion_model":
            return self._streamed()
        with uninitialized() if self.checkpoint else nullcontext():
            model = self._network(name)
            if name == "diffusion_model":
                model.merge_tokens(self.token_merging)
                if self.int8:
                    quantize(model, kept_in_float(model.config))
        if self.checkpoint:
            self.refill(model, name)
        return model

    def _network(self, name):
        kind, part, config_of = _MODELS[name]
        return kind(config_of(self.config), dtype=dtype_of(part, self.dtype), name=name)

    def refill(self, model, name):
        """Reads the weights of a model that `make(name)` made."""
        _, part, _ = _MODELS[name]
        self.checkpoint.load(part, model)

    def _streamed(self):
        tensors = self.checkpoint.parts["unet"]
        return StreamedDiffusionModel(self.config.diffusion_model, tensors, self.dtype)

    def in_float32(self, model, copy=None):
        """The same model with the same weights, computing in float32: `copy` anew, if given."""
        if copy is None:
            with uninitialized():
                copy = type(model).from_config(model.get_config() | {"dtype": "float32"})
        for target, source in zip(copy.variables, model.variables, strict=True):
            hand_over(ops.cast(source.value, target.dtype), target)  # it may have given its own up
        return copy

    def _tokenizer(self, name):
        encoder = self.config.text_encoders[1 if name.endswith("_2") else 0]
        if self.checkpoint is None:
            return clip_tokenizer(encoder, self.config.family, name)
        folders = self.checkpoint.tokenizer_folders
        return read_tokenizer(self.checkpoint.path, name, encoder, folders)
