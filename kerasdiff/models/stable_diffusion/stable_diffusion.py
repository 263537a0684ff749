"""`keras_cv.models.stable_diffusion.stable_diffusion`."""

from functools import partial

import numpy as np

from kerasdiff import stable_diffusion
from kerasdiff.models.stable_diffusion.decoder import Decoder
from kerasdiff.models.stable_diffusion.diffusion_model import DiffusionModel, DiffusionModelV2
from kerasdiff.models.stable_diffusion.image_encoder import ImageEncoder
from kerasdiff.models.stable_diffusion.published import CONFIGS, Preset, PublishedModels
from kerasdiff.models.stable_diffusion.text_encoder import TextEncoder, TextEncoderV2

MAX_PROMPT_LENGTH = 77


def _alias(name):
    """keras-cv's private attribute, which its users assign to."""
    return property(
        lambda model: getattr(model, name), lambda model, value: setattr(model, name, value)
    )


class StableDiffusion(stable_diffusion.StableDiffusion):
    """Stable Diffusion 1.4, made and called as in keras-cv.

    Weights are downloaded when they are first needed. Networks compute in Keras' global dtype
    policy, such as `keras.mixed_precision.set_global_policy("mixed_float16")` sets it before.

    Args:
        img_height, img_width: in pixels, multiples of 8.
        jit_compile: whether XLA compiles the loop.
    """

    PRESET = "sd-v1-4"
    TEXT_ENCODER, DIFFUSION_MODEL = TextEncoder, DiffusionModel

    _image_encoder, _text_encoder = _alias("image_encoder"), _alias("text_encoder")
    _diffusion_model, _decoder = _alias("diffusion_model"), _alias("decoder")
    _tokenizer = _alias("tokenizer")

    def __init__(self, img_height=512, img_width=512, jit_compile=True):
        config = CONFIGS[self.PRESET]
        super().__init__(img_height, img_width, jit_compile, checkpoint=config)
        size, length = (img_height, img_width), MAX_PROMPT_LENGTH
        kinds = {
            "text_encoder": partial(self.TEXT_ENCODER, length),
            "image_encoder": ImageEncoder,
            "decoder": partial(Decoder, *size),
            "diffusion_model": partial(self.DIFFUSION_MODEL, *size, length),
        }
        self._models = PublishedModels(config, Preset(self.PRESET), kinds)

    @classmethod
    def from_preset(cls, preset, **arguments):
        """Not of this class, which is one checkpoint's, as in keras-cv.

        Raises:
            TypeError: always; it names the class that opens any checkpoint.
        """
        raise TypeError(
            f"{cls.__name__} of `kerasdiff.models` is {cls.PRESET} alone: "
            f"kerasdiff.StableDiffusion.from_preset({preset!r}) opens any checkpoint"
        )

    def generate_image(
        self,
        encoded_text,
        negative_prompt=None,
        batch_size=1,
        num_steps=50,
        unconditional_guidance_scale=7.5,
        diffusion_noise=None,
        seed=None,
        **options,
    ):
        """Pictures of an encoded text.

        Args:
            encoded_text: (77, D) or (1, 77, D), for all pictures, or (batch_size, 77, D), one for
                each: in keras-cv `batch_size` counts the pictures, not those of each text.
            diffusion_noise: (h, w, 4) or (batch_size, h, w, 4), in keras-cv instead of a seed.
            others: see `kerasdiff.StableDiffusion`.

        Returns:
            uint8 array (batch_size, img_height, img_width, 3).
        """
        if seed is not None and diffusion_noise is not None:
            raise ValueError("`diffusion_noise` and `seed` were both given; give one of them")
        encoded_text = np.asarray(encoded_text)
        if encoded_text.ndim == 3 and len(encoded_text) > 1:
            if len(encoded_text) != batch_size:
                raise ValueError(
                    f"`encoded_text` holds {len(encoded_text)} texts: give as many as "
                    f"`batch_size`, which is {batch_size}, or one"
                )
            batch_size = 1
        return super().generate_image(
            encoded_text, negative_prompt, batch_size, num_steps, unconditional_guidance_scale,
            diffusion_noise, seed, **options,
        )  # fmt: skip


class StableDiffusionV2(StableDiffusion):
    """Stable Diffusion 2.1 base, made and called as in keras-cv."""

    PRESET = "sd-v2-1-base"
    TEXT_ENCODER, DIFFUSION_MODEL = TextEncoderV2, DiffusionModelV2
