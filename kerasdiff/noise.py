"""Seeded noise: the normal numbers of PyTorch's CPU generator, in NumPy.

Pictures are known by their seeds, and seeds were published with PyTorch's numbers: the Mersenne
Twister (Matsumoto and Nishimura, 1998) and the Box-Muller transform, in the order in which
PyTorch fills an array.
"""

from numbers import Integral

import numpy as np

_BLOCK = 16
"""PyTorch transforms uniforms to normals in blocks of this many; smaller arrays go one by one."""


class TorchStream:
    """An endless stream of normal numbers, one a picture; equal seeds give equal streams.

    Args:
        seed: an integer from -2**63 to 2**64 - 1. As in PyTorch only the low 32 bits tell.

    Raises:
        ValueError: if `seed` is not such an integer.
    """

    def __init__(self, seed):
        if not isinstance(seed, Integral) or isinstance(seed, bool):
            raise ValueError(f"`seed` must be an integer, not {seed!r}")
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"`seed` must lie between -2**63 and 2**64 - 1, not {seed}")
        self._twister = np.random.RandomState(int(seed) % 2**32)
        self._spare = None

    def normal(self, shape):
        """Draws the next standard normal array.

        Args:
            shape: (N, C, H, W). PyTorch's order of axes decides the order of the draws.

        Returns:
            (N, H, W, C) float32.
        """
        if len(shape) != 4 or not all(isinstance(size, Integral) and size > 0 for size in shape):
            raise ValueError(f"`shape` must be four positive integers (N, C, H, W), not {shape}")
        size = int(np.prod(shape))
        flat = self._blocks(size) if size >= _BLOCK else self._singles(size)
        return flat.reshape(shape).transpose(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)

    def _raw(self, count):
        return self._twister.randint(0, 2**32, size=count, dtype=np.uint32)

    def _blocks(self, size):
        whole = size - size % _BLOCK
        uniforms = self._uniforms(size)
        normals = np.empty(size, "float32")
        normals[:whole] = _box_muller(uniforms[:whole])
        if whole < size:
            # The ragged end is drawn again, together with what makes it a whole block.
            normals[-_BLOCK:] = _box_muller(self._uniforms(_BLOCK))
        return normals

    def _uniforms(self, count):
        return (self._raw(count) & 0xFFFFFF).astype("float32") / np.float32(2**24)

    def _singles(self, size):
        return np.array([self._single() for _ in range(size)], "float32")

    def _single(self):
        """One normal in double precision; Box-Muller gives two, and the second one waits."""
        if self._spare is not None:
            normal, self._spare = self._spare, None
            return normal
        words = self._raw(4).astype("uint64")
        high, low = words[::2], words[1::2]
        mantissas = (high << np.uint64(32) | low) & np.uint64(2**53 - 1)
        angle, height = mantissas.astype("float64") / 2**53
        radius = np.sqrt(-2.0 * np.log1p(-height))
        self._spare = radius * np.sin(2.0 * np.pi * angle)
        return radius * np.cos(2.0 * np.pi * angle)


def _box_muller(uniforms):
    """Uniforms in [0, 1), a multiple of 16, to normals: eight radii and eight angles a block."""
    radii, angles = np.moveaxis(uniforms.reshape(-1, 2, _BLOCK // 2), 1, 0)  # 2 of (blocks, 8)
    radii = np.sqrt(np.float32(-2.0) * np.log(np.float32(1.0) - radii))
    angles = np.float32(2.0 * np.pi) * angles
    blocks = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    return blocks.reshape(-1)  # (blocks, 2, 8) -> (16 * blocks,)
