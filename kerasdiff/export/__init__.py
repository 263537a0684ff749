"""Ways out: the whole sampler, or its parts, as files that run without kerasdiff."""

from importlib import import_module

FORMATS = {"tf_saved_model": ("writing", "export_saved_model")}


def export(models, path, format="tf_saved_model", **options):
    """Writes a `CompiledModels` in one of `FORMATS`; see `StableDiffusion.export`."""
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, not {format!r}")
    module, function = FORMATS[format]
    return getattr(import_module(f"kerasdiff.export.{module}"), function)(models, path, **options)
