"""`keras_cv.models.stable_diffusion`."""

from kerasdiff.models.stable_diffusion.clip_tokenizer import SimpleTokenizer
from kerasdiff.models.stable_diffusion.decoder import Decoder
from kerasdiff.models.stable_diffusion.diffusion_model import DiffusionModel, DiffusionModelV2
from kerasdiff.models.stable_diffusion.image_encoder import ImageEncoder
from kerasdiff.models.stable_diffusion.noise_scheduler import NoiseScheduler
from kerasdiff.models.stable_diffusion.stable_diffusion import StableDiffusion, StableDiffusionV2
from kerasdiff.models.stable_diffusion.text_encoder import TextEncoder, TextEncoderV2

__all__ = [
    "Decoder", "DiffusionModel", "DiffusionModelV2", "ImageEncoder", "NoiseScheduler",
    "SimpleTokenizer", "StableDiffusion", "StableDiffusionV2", "TextEncoder", "TextEncoderV2",
]  # fmt: skip
