"""`keras_cv.models.stable_diffusion.constants`, computed."""

from kerasdiff.clip_tokenizer import SimpleTokenizer
from kerasdiff.configs import SD1
from kerasdiff.noise_scheduler import NoiseScheduler

_ALPHAS_CUMPROD = NoiseScheduler.from_config(SD1.schedule).alphas_cumprod.tolist()
_UNCONDITIONAL_TOKENS = SimpleTokenizer().pack("").tolist()
