"""Captions that are too long for a text encoder: named before the first step, or cut on demand."""

SHOWN = 3  # captions that an error names


def check_captions(source, tokenizer):
    """Raises ValueError if captions do not fit, naming some of them and how long they are.

    Args:
        source: with `captions`, and `names` if its items have any, such as `PictureFolder`.
        tokenizer: a `SimpleTokenizer`.
    """
    most = tokenizer.max_length - 2  # between start and end
    lengths = [len(tokenizer.encode(caption)) - 2 for caption in source.captions]
    long = [i for i, length in enumerate(lengths) if length > most]
    if long:
        names = getattr(source, "names", [f"item {i}" for i in range(len(lengths))])
        shown = "; ".join(f"{names[i]}: {lengths[i]}" for i in long[:SHOWN])
        more = f"; and {len(long) - SHOWN} more" if len(long) > SHOWN else ""
        raise ValueError(
            f"{len(long)} of {len(lengths)} captions have more than {most} tokens ({shown}{more}): "
            "shorten them, or cut them: `data.truncate_captions = true`, in Python "
            "`Truncating(tokenizer)`"
        )


class Truncating:
    """A tokenizer whose `pack` cuts what is too long, instead of refusing it.

    Args:
        tokenizer: a `SimpleTokenizer`.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def pack(self, text):
        """One row of tokens, (max_length,) int32; start and end stay."""
        ids = self.tokenizer.encode(text)
        return self.tokenizer.pack([*ids[:-1][: self.tokenizer.max_length - 1], ids[-1]])
