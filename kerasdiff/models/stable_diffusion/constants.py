"""`keras_cv.models.stable_diffusion.constants`, computed."""

from kerasdiff.configs import SD1
from kerasdiff.noise_scheduler import NoiseScheduler

_ALPHAS_CUMPROD = NoiseScheduler.from_config(SD1.schedule).alphas_cumprod.tolist()
_START, _END, _LENGTH = 49406, 49407, SD1.text_encoders[0].max_length
_UNCONDITIONAL_TOKENS = [_START] + [_END] * (_LENGTH - 1)
