"""One step of the network itself, for a file that does not show what its network predicts."""

import numpy as np
from keras import ops

from kerasdiff.checkpoints.load import load
from kerasdiff.diffusion_model import DiffusionModel, timestep_embedding
from kerasdiff.layers import uninitialized

SIZE = 32  # latents
LAST_TIMESTEP = 999
TOKENS = 77


def probe(config, tensors):
    """The network's output on pure noise at the last timestep, for `decide_from_probe`.

    Args:
        config: the `DiffusionModelConfig`, without added embeddings.
        tensors: the part "unet" of the checkpoint.

    Returns:
        (output, noise), float32 arrays of one shape (1, 32, 32, channels).
    """
    with uninitialized():
        model = DiffusionModel(config, dtype="float32")
    load(model, tensors)
    shape = (1, SIZE, SIZE, config.in_channels)
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    embedding = timestep_embedding(
        ops.full((1,), float(LAST_TIMESTEP)),
        config.channels[0],
        config.flip_sin_to_cos,
        config.freq_shift,
    )
    inputs = {
        "latent": ops.convert_to_tensor(noise),
        "timestep_embedding": embedding,
        "context": ops.zeros((1, TOKENS, config.context_dim)),
    }
    output = ops.convert_to_numpy(model(inputs, training=False))
    return output, noise[..., : config.out_channels]
