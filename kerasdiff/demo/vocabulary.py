"""A tokenizer as CLIP's, learnt from the demo's few words, so that its table of rows is small."""

from collections import Counter

from kerasdiff.clip_tokenizer import SimpleTokenizer
from kerasdiff.tokenizer_files import BYTE_SYMBOLS, END, START, WORD_END, Vocabulary


def demo_tokenizer(words, max_length):
    """A tokenizer with one token for each word; other texts fall into their bytes.

    Args:
        words: to be known whole, in a fixed order.
        max_length: ids in a packed prompt.
    """
    merges = learn_merges(words)
    symbols = list(BYTE_SYMBOLS.values())
    tokens = symbols + [symbol + WORD_END for symbol in symbols]
    tokens += ["".join(merge) for merge in merges] + [START, END]
    ids = {token: index for index, token in enumerate(tokens)}
    known = Vocabulary(ids, [" ".join(merge) for merge in merges], max_length=max_length)
    return SimpleTokenizer(vocabulary=known)


def learn_merges(words):
    """Byte-pair encoding (arXiv 1508.07909) until each word is one token.

    Returns:
        Pairs of symbols, the commonest first, ties in alphabetical order.
    """
    rows = [[*(BYTE_SYMBOLS[b] for b in word.encode())] for word in dict.fromkeys(words)]
    for row in rows:
        row[-1] += WORD_END
    merges = []
    while pairs := Counter(pair for row in rows for pair in zip(row, row[1:], strict=False)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        rows = [_joined(row, best) for row in rows]
    return merges


def _joined(row, pair):
    """A word's symbols with each occurrence of `pair` made one."""
    out = []
    for symbol in row:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out
