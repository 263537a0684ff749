"""`keras_cv.models.stable_diffusion.clip_tokenizer`."""

from kerasdiff.clip_tokenizer import SimpleTokenizer

__all__ = ["SimpleTokenizer"]
