"""Writes `noise.npz`: PyTorch's normal numbers, of several seeds and shapes in a row.

python tests/golden/make_noise.py
"""

from pathlib import Path

import numpy as np
import torch

SEEDS = (0, 1, -1, 12345, 2**32 + 7, 2**64 - 1)
SHAPES = (
    (1, 4, 8, 8), (1, 1, 1, 3), (1, 4, 5, 7), (2, 3, 1, 1), (1, 1, 1, 1), (1, 4, 2, 2),
    (1, 1, 1, 15), (1, 1, 1, 17),
)  # fmt: skip


def main():
    """Draws and writes the file: (N, C, H, W) arrays, one after the other, for each seed."""
    found = {}
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        for index, shape in enumerate(SHAPES):
            found[f"{seed} {index}"] = torch.randn(shape, generator=generator).numpy()
    np.savez_compressed(Path(__file__).with_name("noise.npz"), **found)


if __name__ == "__main__":
    main()
