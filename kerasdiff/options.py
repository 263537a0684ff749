"""How a picture is sampled: the arguments that all tasks share, checked before any work is done."""

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches

import numpy as np

MAX_PICTURES = 1024
"""Of one prompt in one call; all of them are held in memory."""


@dataclass(frozen=True)
class Options:
    """Arguments shared by text to image, image to image and inpainting.

    Attributes:
        num_steps: sampling steps, 1 to the schedule's length (1000; lcm and tcd 50) or, with some
            samplers and spacings, almost; None takes the checkpoint's, which is 50 for most.
        unconditional_guidance_scale: how far to follow the prompt (arXiv 2207.12598); 1 or less
            switches guidance off, and with it half of the work; None takes the checkpoint's, which
            is 7.5 for most.
        seed: of the first picture; picture i of a batch is what `seed + i` gives alone. Or a
            sequence with a seed for each picture. None draws one.
        diffusion_noise: starting noise, (h, w, C) or (B, h, w, C), standard normal, of the latents'
            size; what else is drawn, by some samplers and for pictures, is the seed's.
        sampler, schedule: names from `samplers.SAMPLERS` and `samplers.SPACINGS`; None takes the
            checkpoint's own.
        eta: how much noise DDIM and TCD add on the way, 0 to 1; None is 0.
        guidance_rescale: 0 to 1, against over-exposed pictures (arXiv 2305.08891, section 3.4).
        split_guidance: guidance as two calls of the network with half the memory each.
        guidance_interval: (lowest, highest) sigma, noise over signal, at which there is guidance
            (arXiv 2404.07724); elsewhere half of the work is saved. None is everywhere.
        cache_interval: the whole network is computed in every n-th call, of which most
            samplers have one a step, and between them its outer blocks alone (DeepCache, arXiv
            2312.00858); 1 is in every call.
        img_height, img_width: of this call, in pixels; None takes the model's.
        callback: `callback(step, total, preview)` after each step; `preview()` decodes the current
            estimate to uint8 pictures. With little memory it must not wait for another thread that
            uses the model.
        progress: whether to show a bar; None shows one on a terminal and in a notebook.
    """

    num_steps: int | None = None
    unconditional_guidance_scale: float | None = None
    seed: int | Sequence[int] | None = None
    diffusion_noise: np.ndarray | None = None
    sampler: str | None = None
    schedule: str | None = None
    eta: float | None = None
    guidance_rescale: float = 0.0
    split_guidance: bool = False
    guidance_interval: tuple[float, float] | None = None
    cache_interval: int = 1
    img_height: int | None = None
    img_width: int | None = None
    callback: Callable | None = None
    progress: bool | None = None

    def __post_init__(self):
        if self.unconditional_guidance_scale is not None:
            scale = self.unconditional_guidance_scale
            _check_number("unconditional_guidance_scale", scale, 0, 1000)
        _check_number("guidance_rescale", self.guidance_rescale, 0, 1)
        _check_interval(self.guidance_interval)
        if not is_integer(self.cache_interval) or not 1 <= self.cache_interval <= 1000:
            raise ValueError(
                "`cache_interval` must be a whole number from 1 to 1000, "
                f"not {self.cache_interval!r}"
            )
        if self.callback is not None and not callable(self.callback):
            raise ValueError(f"`callback` must be callable, not {self.callback!r}")

    def with_defaults(self, config):
        """The same, with a `StableDiffusionConfig`'s steps and guidance where none are given."""
        steps, scale = self.num_steps, self.unconditional_guidance_scale
        return replace(
            self,
            num_steps=config.num_steps if steps is None else steps,
            unconditional_guidance_scale=config.guidance_scale if scale is None else scale,
        )

    @property
    def guided(self):
        """Whether the network is also asked without the prompt."""
        return self.unconditional_guidance_scale > 1.0

    def seeds(self, count):
        """A seed for each of `count` pictures."""
        if self.seed is None:
            first = secrets.randbelow(2**31)
            return list(range(first, first + count))
        if isinstance(self.seed, (list, tuple, np.ndarray)):
            seeds = list(self.seed)
            if len(seeds) != count:
                raise ValueError(
                    f"`seed` has {len(seeds)} entries for {count} pictures: give as many, or one "
                    "number, from which each picture takes the next"
                )
            return [_check_seed(seed) for seed in seeds]
        first = _check_seed(self.seed)
        _check_seed(first + count - 1)
        return list(range(first, first + count))


# What other libraries and web UIs call it.
_OTHER_NAMES = {
    "num_inference_steps": "num_steps", "steps": "num_steps", "ddim_steps": "num_steps",
    "guidance_scale": "unconditional_guidance_scale", "cfg_scale": "unconditional_guidance_scale",
    "guidance": "unconditional_guidance_scale", "scale": "unconditional_guidance_scale",
    "height": "img_height", "width": "img_width", "generator": "seed", "scheduler": "sampler",
    "latents": "diffusion_noise", "num_images_per_prompt": "batch_size",
    "denoising_strength": "strength", "verbose": "progress",
}  # fmt: skip


def options_of(*given, **named):
    """`Options`, where a name that is none of them is an error that says which was meant.

    Raises:
        TypeError: for such a name.
        ValueError: see `Options`.
    """
    known = [field.name for field in fields(Options)]
    for name in named:
        if name not in known:
            near = _OTHER_NAMES.get(name) or next(iter(get_close_matches(name, known, 1)), None)
            meant = f"did you mean `{near}`?" if near else f"the options are {', '.join(known)}"
            raise TypeError(f"`{name}` is no option here: {meant}")
    return Options(*given, **named)


def check_size(height, width, factor, note=""):
    """Refuses picture sizes that are no positive multiple of the autoencoder's factor.

    Args:
        note: ends the error, where the size is not one that the caller has named.
    """
    for name, size in (("img_height", height), ("img_width", width)):
        if not is_integer(size) or size < 1:
            raise ValueError(
                f"`{name}` must be a positive whole number of pixels, not {size!r}{note}"
            )
        if size % factor:
            lower = max(size // factor * factor, factor)
            upper = (size // factor + 1) * factor
            nearest = f"{lower} or {upper}" if lower != upper else f"{upper}"
            raise ValueError(
                f"`{name}` must be a multiple of {factor}, not {size}; "
                f"the nearest are {nearest}{note}"
            )
        if size > 16384:
            raise ValueError(f"`{name}` must be at most 16384, not {size}{note}")


def check_prompts(prompt, name="prompt"):
    """A string or a non-empty sequence of strings as a list."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, (list, tuple)):
        raise ValueError(f"`{name}` must be a string or a list of strings, not {prompt!r}")
    if not prompts:
        raise ValueError(f"`{name}` is an empty list; at least one text is needed")
    for text in prompts:
        if not isinstance(text, str):
            raise ValueError(f"`{name}` must hold strings, not {text!r}")
    return list(prompts)


def check_batch_size(batch_size):
    """Refuses anything but a whole number from 1 to `MAX_PICTURES`."""
    if not is_integer(batch_size) or not 1 <= batch_size <= MAX_PICTURES:
        raise ValueError(
            f"`batch_size` must be a whole number from 1 to {MAX_PICTURES}, not {batch_size!r}"
        )


def check_given(name, picture):
    """Refuses None where a picture is needed, which elsewhere means that there is none."""
    if picture is None:
        raise ValueError(f"`{name}` must be a picture, not None")


def finite_floats(name, value):
    """An array of finite numbers as float32."""
    try:
        array = np.asarray(value, "float32")
    except (TypeError, ValueError):
        array = np.float32(math.nan)
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be an array of finite numbers, not {value!r:.80}")
    return array


def check_strength(strength):
    """Refuses strengths outside (0, 1]."""
    _check_number("strength", strength, 0, 1)
    if strength == 0:
        raise ValueError("`strength` must be above 0: at 0 the picture would stay as it is")


def _check_number(name, value, low, high):
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"`{name}` must be a number from {low} to {high}, not {value!r}")


def _check_interval(interval):
    if interval is None:
        return
    try:
        low, high = interval
        fits = 0 <= low <= high
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"`guidance_interval` must be two sigmas, 0 or more, lowest first, not {interval!r}"
        )


def _check_seed(seed):
    if not is_integer(seed) or not 0 <= seed < 2**63:
        raise ValueError(f"`seed` must be a whole number from 0 to 2**63 - 1, not {seed!r}")
    return int(seed)


def is_integer(value):
    """Whether a value is a whole number, of NumPy's too; True and False are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
