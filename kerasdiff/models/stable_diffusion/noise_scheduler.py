"""`keras_cv.models.stable_diffusion.noise_scheduler`."""

from kerasdiff.noise_scheduler import NoiseScheduler

__all__ = ["NoiseScheduler"]
