"""Ways out: the whole sampler, or its parts, as files that run without kerasdiff."""

TASKS = ("text_to_image", "image_to_image", "inpaint")
FORMATS = ("tf_saved_model", "litert", "onnx", "openvino", "coreml")


def export(models, path, format="tf_saved_model", **options):
    """Writes a `CompiledModels` in one of `FORMATS`; see `StableDiffusion.export`."""
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, not {format!r}")
    if format == "tf_saved_model":
        from kerasdiff.export.writing import export_saved_model

        return export_saved_model(models, path, **options)
    from kerasdiff.export.parts import export_parts

    return export_parts(models, path, format, **options)
