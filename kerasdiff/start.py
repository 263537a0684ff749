"""Where a run starts: latents, noise and the known part, drawn before the loop.

Noise is data: each picture has its own stream, and all that a run will need is drawn from it here,
in diffusers' order (the picture's posterior sample, starting noise, the masked picture's posterior
sample, then the sampler's noise step by step), so that a seed gives the same picture there and
here, whatever the batch size.
"""

from typing import NamedTuple

import numpy as np
from keras import ops

from kerasdiff.options import finite_floats


class Start(NamedTuple):
    """What the loop begins with.

    Attributes:
        x: starting latents, (B, h, w, C) float32.
        noise: the sampler's noise, a list of (B, h, w, C), one for each of the table's slots.
        inputs: further tensors of `sampling.step` by name.
    """

    x: np.ndarray
    noise: list
    inputs: dict


def prepare(table, draw, given_noise=None):
    """The start of text to image: noise alone.

    Args:
        table: a sampler's `Table`.
        draw: a function that gives the next standard normal noise of all pictures, (B, h, w, C).
        given_noise: (B, h, w, C) instead of drawn starting noise.
    """
    noise = draw() if given_noise is None else given_noise
    return Start(table.initial_noise * noise, _step_noise(table, draw), {})


def prepare_from_image(table, draw, encode, image, given_noise=None):
    """The start of image to image: the picture's latents, noised up to the first row.

    Args:
        encode: (pictures, posterior noise) -> latents (B, h, w, C).
        image: (B or 1, H, W, 3) float32 in [-1, 1].
    """
    known = encode(image, draw())
    noise = draw() if given_noise is None else given_noise
    x = table.initial_signal * known + table.initial_noise * noise
    return Start(x, _step_noise(table, draw), {})


def prepare_inpainting(
    table, draw, encode, image, mask, factor, paints, from_noise, given_noise=None
):
    """The start of inpainting.

    Args:
        mask: (1, H, W, 1) float32, 1 where the picture is painted anew, else 0.
        factor: pixels to a latent, across.
        paints: whether the network takes mask and masked picture as channels of its own (9 in
            all); else the known part is blended in after each row.
        from_noise: whether x starts as noise alone.
    """
    # A network that paints sees the picture only masked: its latents matter for the start alone.
    known = 0.0 if paints and from_noise else encode(image, draw())
    noise = draw() if given_noise is None else given_noise
    posterior = draw()
    latent_mask = mask[:, ::factor, ::factor] * ops.ones_like(noise[..., :1])  # (B, h, w, 1)
    if paints:
        masked = encode(image * (1.0 - mask), posterior)
        inputs = {"extra_channels": ops.concatenate([latent_mask, masked], axis=-1)}
    else:
        inputs = {"mask": latent_mask, "known": known, "known_noise": noise}
    x = table.initial_signal * known + table.initial_noise * noise
    return Start(x, _step_noise(table, draw), inputs)


def broadcast_noise(noise, count, shape):
    """Given starting noise, (h, w, C) or (B, h, w, C), for `count` pictures; None stays None."""
    if noise is None:
        return None
    noise = finite_floats("diffusion_noise", noise)
    if noise.shape not in (shape, (1, *shape), (count, *shape)):
        raise ValueError(
            f"`diffusion_noise` must have shape {shape} or {(count, *shape)}, not {noise.shape}"
        )
    return np.broadcast_to(noise, (count, *shape))


def draw(streams, shape):
    """One standard normal draw of (h, w, C) from each stream, (B, h, w, C) float32."""
    height, width, channels = shape
    return np.concatenate([stream.normal((1, channels, height, width)) for stream in streams])


def _step_noise(table, draw):
    return [draw() for _ in range(table.noise_slots)]
