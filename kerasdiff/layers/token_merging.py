"""Fewer tokens for self-attention: similar neighbours are merged before it and parted after it.

Token merging for Stable Diffusion (arXiv 2303.17604), without its random choice: of every cell of
2x2 positions the first is a target, and the others may be merged into the target, anywhere in the
picture, that is most like them.
"""

from keras import ops

MOST = 0.75
"""Share of the tokens that are no targets."""


def check_ratio(ratio):
    """ValueError unless the share of the positions to merge is one that can be merged."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= MOST:
        raise ValueError(f"`token_merging` must be from 0 to {MOST}, not {ratio!r}")


class TokenMerging:
    """What to merge in a picture of tokens.

    Args:
        x: (B, H * W, C), which decide what is alike.
        height, width: H and W, even.
        ratio: share of the tokens that is merged away, above 0 to `MOST`.
    """

    def __init__(self, x, height, width, ratio):
        self.height, self.width, self.count = height, width, int(ratio * height * width)
        targets, sources = self._parted(x / (ops.norm(x, axis=-1, keepdims=True) + 1e-6))
        alike = ops.matmul(sources, ops.swapaxes(targets, 1, 2))  # (B, 3T, T)
        self.order = ops.argsort(-ops.max(alike, axis=-1), axis=-1)  # the most alike first
        self.target_of = _rows(ops.argmax(alike, axis=-1)[..., None], self.merged)[..., 0]

    @property
    def merged(self):
        """Numbers of the sources that are merged, (B, count)."""
        return self.order[:, : self.count]

    def merge(self, x):
        """(B, H * W, C) to (B, H * W - count, C): what is kept, then the means at the targets."""
        targets, sources = self._parted(x)
        shares = ops.one_hot(self.target_of, targets.shape[1], dtype=x.dtype)  # (B, count, T)
        shares = ops.swapaxes(shares, 1, 2)
        total = targets + ops.matmul(shares, _rows(sources, self.merged))
        targets = total / (1 + ops.sum(shares, axis=-1, keepdims=True))
        return ops.concatenate([_rows(sources, self.order[:, self.count :]), targets], axis=1)

    def part(self, x):
        """Back to (B, H * W, C): what was merged takes its target's value."""
        kept = 3 * self.height * self.width // 4 - self.count
        targets = x[:, kept:]
        sources = ops.concatenate([_rows(targets, self.target_of), x[:, :kept]], axis=1)
        sources = _rows(sources, ops.argsort(self.order, axis=-1))
        batch, count, channels = targets.shape
        sources = ops.reshape(sources, (-1, count, 3, channels))
        cells = ops.concatenate([targets[:, :, None], sources], axis=2)  # (B, T, 4, C)
        shape = (-1, self.height // 2, self.width // 2, 2, 2, channels)
        cells = ops.transpose(ops.reshape(cells, shape), (0, 1, 3, 2, 4, 5))
        return ops.reshape(cells, (-1, self.height * self.width, channels))

    def _parted(self, x):
        """Targets (B, T, C) and sources (B, 3T, C)."""
        channels, count = x.shape[-1], self.height * self.width // 4
        cells = ops.reshape(x, (-1, self.height // 2, 2, self.width // 2, 2, channels))
        cells = ops.reshape(ops.transpose(cells, (0, 1, 3, 2, 4, 5)), (-1, count, 4, channels))
        return cells[:, :, 0], ops.reshape(cells[:, :, 1:], (-1, 3 * count, channels))


def _rows(x, numbers):
    """x (B, N, C) at numbers (B, M): (B, M, C)."""
    length, channels = x.shape[1:]
    begins = ops.arange(ops.shape(x)[0], dtype=numbers.dtype)[:, None] * length
    return ops.take(ops.reshape(x, (-1, channels)), numbers + begins, axis=0)
