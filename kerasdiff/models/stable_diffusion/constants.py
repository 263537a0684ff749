"""`keras_cv.models.stable_diffusion.constants`, computed."""

from kerasdiff.clip_tokenizer import SimpleTokenizer
from kerasdiff.configs import SD1
from kerasdiff.noise_scheduler import alphas_cumprod_of

_ALPHAS_CUMPROD = alphas_cumprod_of(SD1.schedule).tolist()
_UNCONDITIONAL_TOKENS = SimpleTokenizer().pack("").tolist()
