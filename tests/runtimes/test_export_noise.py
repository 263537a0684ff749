"""The noise that an exported graph draws is Python's."""

import numpy as np
import pytest

from kerasdiff.export.noise import draws
from kerasdiff.noise import TorchStream

SEEDS = (0, 2**31, 2**31 + 5, 2**32 - 1, 2**63 - 1)


@pytest.mark.parametrize("height, width", ((2, 2), (3, 3), (16, 24)))  # (3, 3): a ragged end
def test_draws_are_those_of_the_stream(height, width):
    numbers = draws(np.int64(SEEDS), 3, (height, width, 4)).numpy()
    assert numbers.shape == (3, len(SEEDS), height, width, 4)
    for i, seed in enumerate(SEEDS):
        stream = TorchStream(seed)
        for drawn in numbers[:, i]:
            expected = stream.normal((1, 4, height, width))[0]
            np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-6)
