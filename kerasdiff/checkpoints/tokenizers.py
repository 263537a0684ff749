"""The tokenizers of a checkpoint: its folders', or CLIP's own where it brings none."""

from kerasdiff.checkpoints.folders import TOKENIZERS
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.clip_tokenizer import SimpleTokenizer
from kerasdiff.tokenizer_files import clip_vocabulary, read_folder


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


def check_is_clips(path, name, encoder, folders):
    """Refuses a single file, which has no place for a tokenizer, where CLIP's own is not the same.

    Args:
        path: the file, for errors.
        name, encoder, folders: as for `read_tokenizer`.

    Raises:
        CheckpointError: prompts would become other numbers, or a tokenizer cannot be read.
    """
    try:
        clip_tokenizer(encoder, path, name)
        own = read_folder(folders[name]) if name in folders else None
    except CheckpointError as error:
        raise CheckpointError(
            f"{path}: a single file has no place for a tokenizer, and this text encoder of "
            f"{encoder.vocab_size} tokens needs its own: name a folder"
        ) from error
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if own and not _is_clips(own, encoder.max_length):
        raise CheckpointError(
            f"{path}: a single file has no place for a tokenizer, and {folders[name]} is not the "
            "same as CLIP's own: name a folder"
        )


def _is_clips(own, max_length):
    """Whether a `Vocabulary` gives prompts CLIP's numbers, in rows of this length."""
    clip, roles = clip_vocabulary(), {own.start, own.end, own.unknown, own.pad}
    fields = ("ids", "merges", "start", "end")
    is_same = all(getattr(own, field) == getattr(clip, field) for field in fields)
    return is_same and own.max_length == max_length and own.whole.keys() <= roles
