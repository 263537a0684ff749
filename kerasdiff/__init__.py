"""Stable Diffusion for Keras 3 and TensorFlow.

Names are imported when first used, so that `import kerasdiff` is quick and loads no framework.
Where Keras is loaded already, so are the classes that its files name: `load_model` finds them.
"""

import sys
from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "StableDiffusion": "stable_diffusion",
    "TextEncoder": "text_encoder",
    "ImageEncoder": "image_encoder",
    "Decoder": "decoder",
    "DiffusionModel": "diffusion_model",
    "SimpleTokenizer": "clip_tokenizer",
    "NoiseScheduler": "noise_scheduler",
    "MemoryEfficientAttention": "attention",
}
_ROOMS = ("images", "layers", "models", "walks")  # reached without a further import
_IN_FILES = ("models", "training.muon", "training.rates")  # and all that the first takes
__all__ = [*_HOMES, *_ROOMS]


def __getattr__(name):
    if name in _ROOMS:
        return import_module(f"kerasdiff.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'kerasdiff' has no attribute {name!r}")
    return getattr(import_module(f"kerasdiff.{_HOMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *__all__])


if "keras" in sys.modules:
    for _home in _IN_FILES:
        import_module(f"kerasdiff.{_home}")
