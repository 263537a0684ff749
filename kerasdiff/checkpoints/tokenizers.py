"""CLIP's own tokenizer, for checkpoints that bring none."""

from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.clip_tokenizer import SimpleTokenizer


def clip_tokenizer(encoder, source, name):
    """CLIP's tokenizer, padded as a text encoder expects it.

    Args:
        encoder: the `TextEncoderConfig`.
        source, name: for errors, the checkpoint and what it lacks, such as "tokenizer_2".

    Raises:
        CheckpointError: the text encoder has another vocabulary.
    """
    pad = "<|endoftext|>" if encoder.pad_token_id else "!"
    tokenizer = SimpleTokenizer(pad_token=pad, max_length=encoder.max_length)
    if tokenizer.vocab_size != encoder.vocab_size:
        raise CheckpointError(
            f"{source}: has no {name}, and CLIP's of {tokenizer.vocab_size} tokens is not for a "
            f"text encoder of {encoder.vocab_size}"
        )
    return tokenizer
