"""Learning rates over a run: warmed up, held, and brought down along a cosine."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("kerasdiff")
class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """Up along a line, then constant, then down along half a cosine (arXiv 1608.03983).

    Args:
        peak: the rate after the warm-up.
        warmup: steps until then.
        hold: steps at the peak; None stays there for ever.
        decay: steps from the peak to `floor`, where it stays.
        floor: the last rate, as a share of the peak.

    Raises:
        ValueError: if a number is negative, or a decay follows a hold without end.
    """

    def __init__(self, peak, warmup=0, hold=None, decay=0, floor=0.0):
        super().__init__()
        if min(peak, warmup, hold or 0, decay, floor) < 0:
            raise ValueError("`peak`, `warmup`, `hold`, `decay` and `floor` must not be negative")
        if decay and hold is None:
            raise ValueError("`decay` needs `hold`, the number of steps before it; 0 is possible")
        self.peak, self.warmup, self.hold = peak, warmup, hold
        self.decay, self.floor = decay, floor

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rate = self.peak * ops.minimum(1.0, (step + 1.0) / max(self.warmup, 1))
        if self.hold is None:
            return rate
        done = (step - self.warmup - self.hold) / max(self.decay, 1)
        half = 0.5 + 0.5 * ops.cos(3.14159265 * ops.clip(done, 0.0, 1.0))
        return rate * (self.floor + (1.0 - self.floor) * half)

    def get_config(self):
        return {name: getattr(self, name) for name in ("peak", "warmup", "hold", "decay", "floor")}
