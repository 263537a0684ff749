"""CLIP's tokenizer: text to ids and back, by byte-pair encoding (arXiv 1508.07909, 2103.00020).

A text is normalised and cut into words; the UTF-8 bytes of a word, written as visible symbols, are
merged pair by pair in the order in which the merges were learnt. "Normalised" has two readings:
pipelines use transformers' (Unicode NFC, white space folded, lower case), which is the default;
CLIP itself, and keras-cv after it, first repair mojibake and HTML entities (`clean=True`).
"""

import heapq
import html
import unicodedata
from numbers import Integral, Real

import ftfy
import numpy as np
import regex

from kerasdiff.tokenizer_files import (
    BYTE_SYMBOLS,
    END,
    START,
    WORD_END,
    clip_vocabulary,
    read_folder,
    write_folder,
)

_SPECIAL = {START, END}
_RUNS = r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_WORDS = "|".join(map(regex.escape, (START, END))) + r"|'s|'t|'re|'ve|'m|'ll|'d|" + _RUNS
_SYMBOL_BYTES = {symbol: byte for byte, symbol in BYTE_SYMBOLS.items()}
_CACHED_WORDS = 2**14
_CACHED_LENGTH = 64


class SimpleTokenizer:
    """Turns prompts into CLIP's token ids.

    Args:
        bpe_path: a file of merges in CLIP's form, .txt or .txt.gz; None takes CLIP's own.
        clean: read text as OpenAI's CLIP does: `ftfy.fix_text`, `html.unescape` twice, white space
            folded, lower case. False gives the ids of transformers' CLIPTokenizer (but characters
            newer than Python's or transformers' tables of Unicode go by Python's).
        pad_token: what `pack` fills up with, a token of the vocabulary; like start and end it is
            taken whole where a text holds it. None is the vocabulary's own: `"<|endoftext|>"` in
            CLIP; OpenCLIP's is `"!"`.
        max_length: of packed prompts, start and end included. None is the vocabulary's own: 77.
        vocabulary: a `Vocabulary` instead of the one made from `bpe_path`.

    Attributes:
        vocab: dict of token to id.

    Raises:
        ValueError: a file that is missing or malformed (it is named), or a bad argument.
    """

    def __init__(
        self, bpe_path=None, *, clean=False, pad_token=None, max_length=None, vocabulary=None
    ):
        known = vocabulary or clip_vocabulary(bpe_path)
        pad_token = known.pad if pad_token is None else pad_token
        max_length = known.max_length if max_length is None else max_length
        if pad_token not in known.ids:
            raise ValueError(f"`pad_token` must be in the vocabulary; {pad_token!r} is not")
        if not isinstance(max_length, Integral) or max_length < 2:
            raise ValueError(f"`max_length` must be a number from 2, not {max_length!r}")
        self.clean = clean
        self.vocab = dict(known.ids)
        self._known = known._replace(
            ids=self.vocab,
            pad=pad_token,
            whole={pad_token: False} | known.whole,
            max_length=int(max_length),
        )
        self._ranks = {merge: rank for rank, merge in enumerate(known.merges)}
        self._words = regex.compile(_WORDS, regex.IGNORECASE if clean else 0)
        self._tokens = {index: token for token, index in self.vocab.items()}
        self._cache = {}
        self._find_whole_tokens()

    @classmethod
    def from_folder(cls, path, **options):
        """The tokenizer of a checkpoint's `tokenizer/` folder.

        Args:
            path: a folder with `vocab.json` and `merges.txt`, or with `tokenizer.json`.
            **options: `clean`, and `pad_token` and `max_length` where they shall not be the files'.
        """
        return cls(vocabulary=read_folder(path), **options)

    def save(self, folder):
        """Writes a folder that `from_folder` and transformers' CLIPTokenizer open."""
        write_folder(folder, self._known)

    @property
    def start_of_text(self):
        """Id that begins every prompt."""
        return self.vocab[self._known.start]

    @property
    def end_of_text(self):
        """Id that ends every prompt."""
        return self.vocab[self._known.end]

    @property
    def pad_token_id(self):
        """Id that `pack` fills up with."""
        return self.vocab[self._known.pad]

    @property
    def max_length(self):
        """Length of packed prompts."""
        return self._known.max_length

    @property
    def vocab_size(self):
        """Rows that an embedding of these ids needs: the largest id plus one."""
        return max(self._tokens) + 1

    @property
    def whole_tokens(self):
        """Tokens that are found whole in texts: added ones, and those of start, end and padding."""
        return list(self._known.whole)

    def __len__(self):
        return len(self.vocab)

    def add_tokens(self, tokens):
        """Adds tokens, which take the next free ids and are found whole in texts, in any case.

        Args:
            tokens: a string or a list of strings; those in the vocabulary already are left alone.

        Returns:
            How many were added.
        """
        tokens = [tokens] if isinstance(tokens, str) else list(tokens)
        for token in tokens:
            if not isinstance(token, str) or not token.strip():
                raise ValueError(f"`tokens` must be strings that are not blank, not {token!r}")
        new = [token for token in dict.fromkeys(tokens) if token not in self.vocab]
        forms = list(self._normalized) + [self._normalize(token) for token in new]
        if len(set(forms)) < len(forms):
            raise ValueError(f"`tokens` must differ in more than case: {', '.join(new)}")
        for index, token in enumerate(new, self.vocab_size):
            self.vocab[token] = index
            self._tokens[index] = token
            self._known.whole[token] = True
        self._find_whole_tokens()
        return len(new)

    def encode(self, text):
        """The ids of a string between those of start and end: a list of int, of any length."""
        if not isinstance(text, str):
            raise ValueError(f"`text` must be a string, not {type(text).__name__}")
        if self.clean:
            text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        if regex.search(r"\p{Cs}", text):
            raise ValueError("`text` holds half of a surrogate pair, which is no character")
        ids = [self.start_of_text]
        for index, part in enumerate(self._exact_pattern.split(text)):
            ids += [self.vocab[part]] if index % 2 else self._encode_part(part)
        return [*ids, self.end_of_text]

    def decode(self, ids):
        """The text of ids, a space after each word; bytes that are no UTF-8 become U+FFFD."""
        ids = list(ids)
        self._check(ids)
        data = bytearray()
        for token in map(self._tokens.get, ids):
            symbols = token.removesuffix(WORD_END)
            if token in self._known.whole or not _SYMBOL_BYTES.keys() >= set(symbols):
                data += token.encode("utf-8")
            else:
                data += bytes(_SYMBOL_BYTES[symbol] for symbol in symbols)
                data += b" " * (symbols != token)
        return data.decode("utf-8", errors="replace").strip()

    def pack(self, text, max_length=None):
        """One row of the text encoder's tokens.

        Args:
            text: a string, or the ids that `encode` gives.
            max_length: length of the row; None is the tokenizer's own.

        Returns:
            (max_length,) int32: start, the tokens, end, and then padding.

        Raises:
            ValueError: more tokens than fit; it says how many there were.
        """
        length = self.max_length if max_length is None else max_length
        ids = list(text) if isinstance(text, (list, tuple, np.ndarray)) else self.encode(text)
        self._check(ids)
        if len(ids) < 2 or (ids[0], ids[-1]) != (self.start_of_text, self.end_of_text):
            raise ValueError("`text`: ids must go from start to end, as `encode` gives them")
        if len(ids) > length:
            raise ValueError(
                f"the prompt has {len(ids) - 2} tokens, but at most {length - 2} fit: {text!r:.80}"
            )
        return np.array(ids + [self.pad_token_id] * (length - len(ids)), "int32")

    def bpe(self, token):
        """The parts of a word written in byte symbols, joined by spaces: "ab" -> "a b</w>"."""
        return " ".join(_merge([*token[:-1], token[-1:] + WORD_END], self._ranks))

    def _check(self, ids):
        for index in ids:
            if not isinstance(index, Real) or index not in self._tokens:  # 7.0 is 7
                raise ValueError(f"ids must be numbers of the vocabulary's tokens, not {index!r}")

    def _find_whole_tokens(self):
        """Makes the patterns of tokens found before words are: as written, and normalised."""
        whole = self._known.whole
        if self.clean:  # CLIP knows start and end alone, and finds them among the words
            roles = self._known.roles.values()
            whole = {token: True for token in whole if token not in roles}
        exact = [token for token, normalized in whole.items() if not normalized]
        self._normalized = {
            self._normalize(token): self.vocab[token] for token in whole if whole[token]
        }
        self._exact_pattern = _any_of(exact)
        self._normalized_pattern = _any_of(self._normalized)

    def _normalize(self, text):
        if self.clean:
            return regex.sub(r"\s+", " ", text).lower()
        text = regex.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
        # Letter by letter: Python would give a sigma at the end of a word its final form.
        return text.replace("Σ", "σ").lower()

    def _encode_part(self, text):
        ids = []
        for index, part in enumerate(self._normalized_pattern.split(self._normalize(text))):
            if index % 2:
                ids.append(self._normalized[part])
                continue
            for word in self._words.findall(part):
                ids += self._encode_word(word)
        return ids

    def _encode_word(self, word):
        if word in self._cache:
            return self._cache[word]
        if word not in _SPECIAL:
            ids = self._merge_ids(word)
        elif self.clean and word in self.vocab:
            ids = [self.vocab[word]]
        else:  # written with capitals, which no special token has: three words, not one
            ids = sum(map(self._merge_ids, regex.findall(_RUNS, word)), [])
        if len(word) <= _CACHED_LENGTH:
            if len(self._cache) >= _CACHED_WORDS:
                self._cache.clear()
            self._cache[word] = ids
        return ids

    def _merge_ids(self, word):
        symbols = "".join(BYTE_SYMBOLS[byte] for byte in word.encode("utf-8"))
        unknown = self.vocab[self._known.unknown]
        return [self.vocab.get(part, unknown) for part in self.bpe(symbols).split(" ")]


def _any_of(tokens):
    """A pattern whose `split` gives texts and found tokens by turns; the longest token wins."""
    tokens = sorted(tokens, key=len, reverse=True)
    return regex.compile(f"({'|'.join(map(regex.escape, tokens)) or '(?!)'})")


def _merge(symbols, ranks):
    """Merges neighbours, the lowest rank first and from the left, until no pair has a rank.

    A heap of pairs and a list of neighbours: long words take O(n log n), not O(n²).
    """
    right = [*range(1, len(symbols)), None]
    left = [None, *range(len(symbols) - 1)]
    heap = []

    def push(first, second):
        if first is not None and second is not None:
            pair = f"{symbols[first]} {symbols[second]}"
            if pair in ranks:
                heapq.heappush(heap, (ranks[pair], first, pair))

    for index in range(1, len(symbols)):
        push(index - 1, index)
    while heap:
        _, first, pair = heapq.heappop(heap)
        second = right[first]
        if second is None or f"{symbols[first]} {symbols[second]}" != pair:
            continue  # one of the two was merged meanwhile
        symbols[first], symbols[second] = symbols[first] + symbols[second], ""
        right[first] = right[second]
        if right[first] is not None:
            left[right[first]] = first
        push(left[first], first)
        push(first, right[first])
    return [symbol for symbol in symbols if symbol]
