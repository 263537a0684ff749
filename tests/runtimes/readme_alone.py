"""Runs a README's example with TensorFlow alone: python readme_alone.py EXAMPLE OUT.NPY."""

import sys

from saved_model_alone import is_banned, refuse


def main():
    refuse()
    import numpy as np

    names = {}
    with open(sys.argv[1]) as file:
        exec(file.read(), names)
    assert not any(map(is_banned, sys.modules))
    np.save(sys.argv[2], names["images"].numpy())


if __name__ == "__main__":
    main()
