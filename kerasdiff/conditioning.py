"""Prompts become what the UNet is steered by: hidden states, pooled vectors and size numbers.

Text encoders as in Stable Diffusion 1 and 2 (one CLIP text tower) and SDXL (two, arXiv 2307.01952,
section 2.1: contexts side by side, the second's pooled vector, and six size numbers, section 2.2).
"""

from numbers import Real
from typing import NamedTuple

import numpy as np
from keras import ops

from kerasdiff.diffusion_model import timestep_embedding
from kerasdiff.options import finite_floats


class Conditioning(NamedTuple):
    """What a text becomes.

    Texts mix as arrays do, in both parts: `0.7 * a + 0.3 * b`, `a + t * (b - a)`, `(a + b) / 2`.

    Attributes:
        context: hidden states of the text encoders, (B, T, context_dim) float32.
        pooled: pooled and projected text, (B, P) float32, or None where the family has none.
    """

    context: np.ndarray
    pooled: np.ndarray | None = None

    __array_ufunc__ = None  # so that a NumPy number from the left leaves the product to `__rmul__`

    def __add__(self, other):
        if not isinstance(other, Conditioning):
            raise TypeError(f"a `Conditioning` adds to another one, not to {other!r:.80}")
        if (self.pooled is None) != (other.pooled is None):
            raise ValueError("texts with pooled vectors do not mix with texts without")
        pooled = None if self.pooled is None else self.pooled + other.pooled
        return Conditioning(self.context + other.context, pooled)

    def __mul__(self, weight):
        if not isinstance(weight, Real):
            raise TypeError(f"a `Conditioning` is multiplied by a number, not by {weight!r:.80}")
        weight = float(weight)  # which, unlike NumPy's own float64, leaves float32 as it is
        return Conditioning(*(None if part is None else weight * part for part in self))

    __rmul__ = __mul__

    def __sub__(self, other):
        return self + -1 * other

    def __truediv__(self, number):
        return self * (1 / number)


def encode(encoders, tokenizers, prompts):
    """Conditioning of a list of texts.

    Args:
        encoders: callables {"tokens", "positions"} -> context, or {"context", "pooled"}.
        tokenizers: a `SimpleTokenizer` for each encoder.
        prompts: a list of B strings, at most 75 tokens each.

    Raises:
        ValueError: a prompt is too long; it says how many tokens there were.
    """
    contexts, pooled = [], None
    for encoder, tokenizer in zip(encoders, tokenizers, strict=True):
        tokens = np.stack([tokenizer.pack(prompt) for prompt in prompts])  # (B, T)
        positions = np.arange(tokens.shape[1], dtype="int32")[None]  # (1, T)
        output = encoder({"tokens": tokens, "positions": positions})
        if isinstance(output, dict):
            output, pooled = output["context"], output["pooled"]
        contexts.append(to_numpy(output))
    context = np.concatenate(contexts, axis=-1)
    return Conditioning(context, None if pooled is None else to_numpy(pooled))


def as_conditioning(encoded_text, config, name):
    """Encoded text of shape (T, D) or (B, T, D), or a `Conditioning`, as a float32 one of B rows.

    Args:
        config: the `DiffusionModelConfig` that it is for.
        name: of the argument, for errors.

    Raises:
        ValueError: not of finite numbers, of another shape, or without the pooled vectors that the
            network needs.
    """
    given = encoded_text if isinstance(encoded_text, Conditioning) else Conditioning(encoded_text)
    context, pooled = finite_floats(name, given.context), given.pooled
    width = config.context_dim
    if context.ndim not in (2, 3) or context.shape[-1] != width or 0 in context.shape:
        raise ValueError(
            f"`{name}` must have shape (T, {width}) or (B, T, {width}), not {context.shape}"
        )
    context = context if context.ndim == 3 else context[None]
    if config.added_embed_dim:
        if pooled is None:
            raise ValueError(
                f"`{name}` must be a `Conditioning` with pooled vectors, from encode_text"
            )
        pooled = np.atleast_2d(finite_floats(name, pooled))
        shape = (len(context), config.added_embed_dim - 6 * config.size_embed_dim)
        if pooled.shape != shape:
            raise ValueError(
                f"`{name}` must have pooled vectors of shape {shape}, not {pooled.shape}"
            )
    return Conditioning(context, pooled)


def zeros_like(conditioning):
    """The conditioning of no text at all, SDXL's default negative."""
    return Conditioning(*(None if part is None else np.zeros_like(part) for part in conditioning))


def repeat(conditioning, batch_size):
    """Each row `batch_size` times, copies next to each other."""
    return Conditioning(
        *(None if part is None else np.repeat(part, batch_size, axis=0) for part in conditioning)
    )


def network_inputs(config, positive, negative, guidance_scale, height, width):
    """The denoiser's tensors by name, negative rows before positive ones.

    Args:
        config: a `DiffusionModelConfig`.
        positive: `Conditioning` of B rows.
        negative: the same, or None without guidance.
        guidance_scale: what a distilled network's guidance embedding is made from.
        height, width: of the picture, in pixels: SDXL's original and target size; no crop.

    Returns:
        dict of float32 tensors: `context` and, where the network has them, `added_embedding` and
        `guidance_embedding`.

    Raises:
        ValueError: the two sides have different numbers of tokens.
    """
    if negative is not None and negative.context.shape[1] != positive.context.shape[1]:
        raise ValueError(
            f"the encoded text has {positive.context.shape[1]} tokens, `negative_prompt`, or the "
            f"empty one in its place, {negative.context.shape[1]}: give one encoded as long"
        )
    sides = [positive] if negative is None else [negative, positive]
    inputs = {"context": ops.concatenate([side.context for side in sides])}
    count = ops.shape(inputs["context"])[0]
    if config.added_embed_dim:
        numbers = [ops.cast(number, "float32") for number in (height, width, 0, 0, height, width)]
        rule = config.size_embed_dim, config.flip_sin_to_cos, config.freq_shift
        sizes = ops.reshape(timestep_embedding(ops.stack(numbers), *rule), (1, -1))  # (1, 6 width)
        sizes = ops.broadcast_to(sizes, (count, 6 * config.size_embed_dim))
        pooled = ops.concatenate([side.pooled for side in sides])
        inputs["added_embedding"] = ops.concatenate([pooled, sizes], axis=-1)
    if config.time_cond_dim:
        scale = ops.cast(1000.0 * (guidance_scale - 1.0), "float32")
        scales = ops.broadcast_to(scale, (count,))
        inputs["guidance_embedding"] = timestep_embedding(scales, config.time_cond_dim, False, 1.0)
    return inputs


def to_numpy(tensor):
    """A tensor of any float dtype as a float32 array."""
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))
