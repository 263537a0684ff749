"""Tokens that a checkpoint did not come with: more rows in the text encoder's table of tokens.

A token of several vectors stands for several rows, as in diffusers: "<cat>" in a prompt becomes
"<cat> <cat>_1 <cat>_2".
"""

import itertools
import re
from dataclasses import replace

import numpy as np
from keras import ops

from kerasdiff.layers import tensor_name, uninitialized
from kerasdiff.text_encoder import TextEncoder

TABLE = "embeddings.token_embedding.weight"


def token_names(token, count):
    """The names of a token's vectors: "<cat>", "<cat>_1", ..."""
    return [token, *(f"{token}_{i}" for i in range(1, count))]


def expand(text, tokens):
    """A prompt with each token of several vectors written out.

    Args:
        text: the prompt.
        tokens: all that the tokenizer finds whole in texts; as there, case does not matter, and the
            longest wins.
    """
    tokens, names = set(tokens), {}
    for token in tokens:
        count = next(i for i in itertools.count(1) if f"{token}_{i}" not in tokens)
        if count > 1:
            names[token.lower()] = " ".join(token_names(token, count))
    pattern = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)"

    def written_out(found):
        return names.get(found.group().lower(), found.group())

    return re.sub(pattern, written_out, text, flags=re.IGNORECASE)


def with_rows(encoder, rows):
    """A text encoder with the same weights and more tokens.

    Args:
        encoder: a `TextEncoder`.
        rows: (n, width), of the tokens with the next n ids.

    Raises:
        ValueError: if the width is another.
    """
    width = encoder.config.width
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"the text encoder's tokens have a width of {width}, not {rows.shape[-1]}")
    config = replace(encoder.config, vocab_size=encoder.config.vocab_size + len(rows))
    with uninitialized():
        larger = TextEncoder(config, dtype=encoder.dtype_policy, name=encoder.name)
    for target, source in zip(larger.variables, encoder.variables, strict=True):
        value = source.value
        if tensor_name(source) == TABLE:
            value = ops.concatenate([value, ops.cast(rows, value.dtype)])
        target.assign(value)
    return larger


def add_token(models, token, vectors):
    """Adds a token to a checkpoint's tokenizers and text encoders; all or nothing.

    Args:
        models: a `CompiledModels`.
        token: what it is called in prompts.
        vectors: for each text encoder (n, width).

    Returns:
        The number of vectors.

    Raises:
        ValueError: if the token exists already, or vectors are not for these text encoders.
    """
    suffixes = models.config.text_suffixes
    if len(vectors) != len(suffixes):
        raise ValueError(
            f"the embedding is for {len(vectors)} text encoders, the checkpoint has {len(suffixes)}"
        )
    names = token_names(token, len(vectors[0]))
    tokenizers = [getattr(models, f"tokenizer{suffix}") for suffix in suffixes]
    encoders = [getattr(models, f"text_encoder{suffix}") for suffix in suffixes]
    for tokenizer, encoder in zip(tokenizers, encoders, strict=True):
        taken = [name for name in names if name in tokenizer.vocab]
        if taken:
            raise ValueError(f"the token {taken[0]!r} exists already: give another `token`")
        if tokenizer.vocab_size != encoder.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the text encoder "
                f"{encoder.config.vocab_size}: no token can be added"
            )
    larger = [
        with_rows(encoder, np.asarray(rows, "float32"))
        for encoder, rows in zip(encoders, vectors, strict=True)
    ]
    for suffix, tokenizer, encoder in zip(suffixes, tokenizers, larger, strict=True):
        tokenizer.add_tokens(names)
        setattr(models, f"text_encoder{suffix}", encoder)
    return len(names)
