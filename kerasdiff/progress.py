"""Bars of progress: shown where somebody looks, on a terminal and in a notebook."""

import sys

from tqdm import tqdm


def is_watched():
    """Whether the standard error output is a terminal's or a notebook's."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def bar(total, unit, shown=None, **options):
    """A bar, to be used with `with`; see tqdm's own documentation.

    Args:
        total: how many units there are.
        unit: what they are called.
        shown: True or False; None shows it where somebody looks.
        **options: of `tqdm.tqdm`.
    """
    return tqdm(total=total, unit=unit, disable=not (is_watched() if shown is None else shown),
                **options)  # fmt: skip
