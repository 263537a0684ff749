"""What keras-cv's classes do beyond ours: they fetch their weights when they are made."""

from contextlib import nullcontext
from functools import cached_property
from pathlib import Path

import keras

from kerasdiff.checkpoints.checkpoint import find_and_open
from kerasdiff.checkpoints.files import HDF5
from kerasdiff.checkpoints.keras_h5 import read_keras_h5
from kerasdiff.checkpoints.load import load
from kerasdiff.checkpoints.models import Models, dtype_of
from kerasdiff.configs import SD1, SD2_BASE
from kerasdiff.layers import uninitialized

CONFIGS = {"sd-v1-4": SD1, "sd-v2-1-base": SD2_BASE}


class Preset:
    """A preset that is downloaded when its first weights are asked for, as in keras-cv.

    Args:
        name: as in the manifest.
    """

    def __init__(self, name):
        self.path = name
        self.tokenizer_folders = {}  # CLIP's own

    @cached_property
    def _checkpoint(self):
        return find_and_open(self.path)

    def load(self, part, model):
        """Gives a model its weights; see `Checkpoint.load`."""
        return self._checkpoint.load(part, model)


class Published:
    """Mixed into one of our networks; takes the constructor's arguments as keras-cv has them.

    As there, a network computes in Keras' global dtype policy; an autoencoder in float32 where that
    is float16, whose range it would leave.

    Attributes:
        PRESET: where the weights come from.
        PART: of the checkpoint.
        OURS: our class.
        H5: what the model is called in `keras_h5`.
    """

    PRESET = "sd-v1-4"

    def __init__(self, config, name, download_weights):
        with uninitialized() if download_weights else nullcontext():
            dtype = dtype_of(self.PART, keras.config.dtype_policy().name)
            super().__init__(config, dtype=dtype, name=name or self.H5)
        if download_weights:
            Preset(self.PRESET).load(self.PART, self)

    @classmethod
    def plan(cls):
        """The config of the whole checkpoint."""
        return CONFIGS[cls.PRESET]

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """A saved model comes back as ours."""
        return cls.OURS.from_config(config)

    def load_weights(self, filepath, **options):
        """Loads a `.weights.h5` of Keras 3, or a `.h5` that keras-cv has published or saved."""
        if _is_legacy(filepath):
            load(self, read_keras_h5(filepath, self.H5, self.plan()))
        else:
            super().load_weights(filepath, **options)


class PublishedModels(Models):
    """Makes the networks of a preset as keras-cv's classes.

    Args:
        config, checkpoint: see `Models`.
        kinds: our model's name to a function that makes it, without weights.
    """

    def __init__(self, config, checkpoint, kinds):
        super().__init__(config, keras.config.dtype_policy().name, checkpoint)
        self.kinds = kinds

    def _network(self, name):
        return self.kinds[name](download_weights=False)


def _is_legacy(filepath):
    path = Path(filepath)
    if path.name.endswith(".weights.h5") or path.suffix != ".h5" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(HDF5)) == HDF5
