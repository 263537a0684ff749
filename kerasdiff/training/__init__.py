"""Training and fine-tuning: trainers that are Keras models, their data, and exact resume.

Names are imported when first used, so that settings are read before a framework is loaded.
"""

from importlib import import_module

_HOMES = {
    "AutoencoderTrainer": "autoencoder",
    "DiffusionTrainer": "diffusion",
    "TextualInversionTrainer": "textual_inversion",
    "InversionSource": "textual_inversion",
    "rows_of": "textual_inversion",
    "Muon": "muon",
    "Rate": "rates",
    "averaged": "averages",
    "warmed_up": "averages",
    "SaveState": "checkpoints",
    "resume": "checkpoints",
    "SampleGrid": "callbacks",
    "distribute": "devices",
    "PictureFolder": "data.pictures",
    "Pictures": "data.lists",
    "Several": "data.lists",
    "Shards": "data.shards",
    "write_shards": "data.shards",
    "Moments": "data.cached",
    "cache_moments": "data.cached",
    "Batches": "data.batches",
    "AutoencoderDraw": "data.batches",
    "DiffusionDraw": "data.batches",
    "Truncating": "data.captions",
}
__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'kerasdiff.training' has no attribute {name!r}")
    return getattr(import_module(f"kerasdiff.training.{_HOMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *__all__])
