"""The tokenizers of a checkpoint: its folders', or CLIP's own where it brings none."""

from kerasdiff.checkpoints.folders import TOKENIZERS
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.clip_tokenizer import SimpleTokenizer


def read_tokenizers(source, config, folders):
    """Dict of "tokenizer" and, for SDXL, "tokenizer_2" to `SimpleTokenizer`s.

    Args:
        source: for errors, the checkpoint.
        config: its `StableDiffusionConfig`.
        folders: its `tokenizer_folders`.

    Raises:
        CheckpointError: a folder is no tokenizer's, or is for longer texts than its encoder; or it
            is missing and CLIP's own does not fit.
    """
    encoders = zip(TOKENIZERS, config.text_encoders, strict=False)
    return {name: read_tokenizer(source, name, encoder, folders) for name, encoder in encoders}


def read_tokenizer(source, name, encoder, folders):
    """One of `read_tokenizers`, for a text encoder of a `TextEncoderConfig`."""
    if name not in folders:
        return clip_tokenizer(encoder, source, name)
    try:
        tokenizer = SimpleTokenizer.from_folder(folders[name])
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if tokenizer.max_length > encoder.max_length:
        raise CheckpointError(
            f"{folders[name]}: `model_max_length` is {tokenizer.max_length}, and the text encoder "
            f"has {encoder.max_length} positions"
        )
    return tokenizer


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
