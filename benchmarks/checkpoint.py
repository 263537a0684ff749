"""A checkpoint of SD 1.5's size with random weights, for benchmarks."""

import numpy as np


def write_checkpoint(folder):
    """Writes a diffusers folder, float16 (2.1 GB), with weights that keep activations near 1."""
    from kerasdiff.checkpoints.load import state
    from kerasdiff.checkpoints.save import save_folder
    from kerasdiff.checkpoints.tensors import LazyTensor, Tensors
    from kerasdiff.configs import SD1
    from kerasdiff.layers import uninitialized
    from kerasdiff.stable_diffusion import StableDiffusion

    def lazy(name, shape):
        def draw():
            if len(shape) == 1:
                return np.full(shape, name.endswith("weight"), "float16")
            rng = np.random.default_rng(abs(hash(shape)) % 2**32)
            spread = np.prod(shape[1:]) ** -0.5
            return (spread * rng.standard_normal(shape, "float32")).astype("float16")

        return LazyTensor(shape, np.dtype("float16"), draw)

    with uninitialized():
        model = StableDiffusion(checkpoint=SD1, dtype="float16")
        networks = {
            "text_encoder": [model.text_encoder],
            "unet": [model.diffusion_model],
            "vae": [model.image_encoder, model.decoder],
        }
    parts = {}
    for part, models in networks.items():
        shapes = {name: shape for each in models for name, shape in state(each).shapes.items()}
        entries = {name: lazy(name, shape) for name, shape in shapes.items()}
        parts[part] = Tensors(part, entries)
    save_folder(folder, SD1, parts, "float16")
