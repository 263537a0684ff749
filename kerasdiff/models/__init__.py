"""keras-cv's namespace: with `import kerasdiff as keras_cv` its Stable Diffusion scripts run again.

`docs/keras_cv.md` lists what is different, on purpose.
"""

from kerasdiff.models import stable_diffusion
from kerasdiff.models.stable_diffusion import StableDiffusion, StableDiffusionV2

__all__ = ["StableDiffusion", "StableDiffusionV2", "stable_diffusion"]
