"""CLIP's vocabulary in files: the one that ships here, and a checkpoint's `tokenizer/` folder.

Byte-pair encoding (arXiv 1508.07909) over byte symbols, as GPT-2 and CLIP (arXiv 2103.00020) write
it down. A folder holds `vocab.json` and `merges.txt`, or a `tokenizer.json`, and says in
`tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` which tokens are special.
Files may come from anywhere: their size is bounded, and whatever does not fit is a ValueError that
names the file.
"""

import gzip
import json
import zlib
from pathlib import Path
from typing import NamedTuple

from kerasdiff.files import whole_file

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 77
WORD_END = "</w>"

_MERGES = Path(__file__).with_name("clip_merges.txt.gz")
_MERGE_COUNT = 49152 - 256 - 2
"""CLIP trained more merges than it uses, and lists them all in its file."""
_MAX_BYTES = 64 * 2**20
_UNLIMITED = int(1e30)
"""What transformers writes for a length that nobody set."""
_ROLES = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
_LISTS = ("additional_special_tokens", "extra_special_tokens")

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = sorted(set(range(256)) - set(_PRINTABLE))
BYTE_SYMBOLS = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(256 + index) for index, byte in enumerate(_OTHERS)
}
"""A visible letter for each byte, in the order of the vocabulary: printable bytes come first."""


class Vocabulary(NamedTuple):
    """All that a CLIP tokenizer knows.

    Attributes:
        ids: dict of token to id.
        merges: list of pairs of symbols like "a b", the first to be merged first.
        start, end, unknown, pad: tokens of these roles.
        whole: dict of the tokens that are found in a text before it is split into words, each with
            whether they are looked for in normalised text (so that case does not matter).
        max_length: ids in a packed prompt, start and end included.
    """

    ids: dict
    merges: list
    start: str = START
    end: str = END
    unknown: str = END
    pad: str = END
    whole: dict = {START: False, END: False}
    max_length: int = MAX_LENGTH

    @property
    def roles(self):
        """Dict of transformers' names of the four roles to their tokens."""
        return dict(zip(_ROLES, (self.start, self.end, self.unknown, self.pad), strict=True))


def clip_vocabulary(path=None):
    """CLIP's vocabulary, made from its merges alone.

    Args:
        path: a text file of merges, one pair a line, perhaps under one line of heading; a name in
            .gz is unpacked. None is the file that ships with this package.
    """
    path = _MERGES if path is None else Path(path)
    merges = _read_merges(path)[:_MERGE_COUNT]
    symbols = list(BYTE_SYMBOLS.values())
    tokens = symbols + [symbol + WORD_END for symbol in symbols]
    tokens += [merge.replace(" ", "") for merge in merges] + [START, END]
    ids = {token: index for index, token in enumerate(tokens)}
    _check_merges(path, merges, ids, {START, END})
    return Vocabulary(ids, merges)


def read_folder(folder):
    """The vocabulary of a checkpoint's `tokenizer/` folder, read as transformers 5 reads it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if (folder / "tokenizer.json").exists():
        source = folder / "tokenizer.json"
        ids, merges, added = _read_tokenizer_json(source)
    else:
        source = folder / "merges.txt"
        ids, added = _check_ids(folder / "vocab.json", _read_json(folder / "vocab.json")), []
        merges = _read_merges(source)
    path = folder / "tokenizer_config.json"
    settings = _read_json(path, optional=True)
    newer = settings.get("added_tokens_decoder") is not None  # then older files have no say
    if not newer:
        settings |= _read_json(folder / "special_tokens_map.json", optional=True)
    settings = _ROLES | {key: value for key, value in settings.items() if value is not None}
    special = _special_tokens(path, settings)
    if newer:
        added = _added_of_config(path, settings)
    else:
        added += _older_added(folder / "added_tokens.json", special)
    whole = special | _add(path, ids, added)
    _check_merges(source, merges, ids, whole)
    roles = {key: _token(path, settings[key])[0] for key in _ROLES}
    for key, token in roles.items():
        if token not in ids:
            raise ValueError(f"{path}: the vocabulary lacks the {key} {token!r}")
    new = [token for token in whole if token not in ids]
    ids |= {token: index for index, token in enumerate(new, max(ids.values()) + 1)}
    return Vocabulary(ids, merges, *roles.values(), whole, _max_length(path, settings))


def write_folder(folder, vocabulary):
    """Writes a folder that `read_folder` and transformers' CLIPTokenizer open; each file whole.

    Raises:
        ValueError: the folder has a `tokenizer.json`, which readers would take instead.
    """
    folder = Path(folder)
    if (folder / "tokenizer.json").exists():
        raise ValueError(f"{folder}: has a tokenizer.json, which would hide the files written here")
    folder.mkdir(parents=True, exist_ok=True)
    roles = vocabulary.roles
    flags = {"lstrip": False, "rstrip": False, "single_word": False}
    added = {
        str(vocabulary.ids[token]): {
            "content": token, "normalized": normalized, "special": token in roles.values(), **flags
        }
        for token, normalized in vocabulary.whole.items()
    }  # fmt: skip
    settings = roles | {
        "added_tokens_decoder": added,
        "model_max_length": vocabulary.max_length,
        "tokenizer_class": "CLIPTokenizer",
    }
    merges = "\n".join(["#version: 0.2", *vocabulary.merges])
    _write(folder / "vocab.json", json.dumps(vocabulary.ids, ensure_ascii=False))
    _write(folder / "merges.txt", merges + "\n")
    _write(folder / "special_tokens_map.json", json.dumps(roles, indent=2) + "\n")
    _write(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")


def _write(path, text):
    with whole_file(path) as file:
        file.write(text.encode())


def _read_text(path):
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    if len(data) > _MAX_BYTES:
        raise ValueError(f"{path}: longer than {_MAX_BYTES} bytes, too long for a tokenizer's file")
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error})") from error


def _read_json(path, optional=False):
    if optional and not path.exists():
        return {}
    text = _read_text(path)
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    return _table(path, table, "the file")


def _table(path, value, name):
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {name} must be a table, not a {type(value).__name__}")
    return value


def _read_merges(path):
    lines = _read_text(path).split("\n")
    heading = "#version" in lines[0]
    return [line for line in lines[heading:] if line]


def _check_merges(path, merges, ids, whole):
    for merge in merges:
        first, _, second = merge.partition(" ") if isinstance(merge, str) else ("", "", "")
        if not first or not second or " " in second:
            raise ValueError(f"{path}: a merge must be two symbols, not {merge!r:.80}")
        for token in (first, second, first + second):
            if token not in ids:
                raise ValueError(
                    f"{path}: the merge {merge!r} needs the token {token!r}, "
                    "which the vocabulary lacks"
                )
    # Letters apart, of which there are two for each byte, only a merge makes a token of a text.
    joined = len(ids.keys() - whole - {START, END}) - 2 * len(BYTE_SYMBOLS)
    if len(merges) < joined:
        raise ValueError(
            f"{path}: holds {len(merges)} merges, and the vocabulary of {len(ids)} tokens needs "
            f"{joined}: the file is not whole"
        )


def _check_ids(path, ids):
    for token, index in _table(path, ids, "the vocabulary").items():
        if type(index) is not int or not 0 <= index < 2**31:
            raise ValueError(f"{path}: the id of {token!r} must be a number from 0, not {index!r}")
    if len(set(ids.values())) < len(ids):
        raise ValueError(f"{path}: two tokens have the same id")
    return ids


def _read_tokenizer_json(path):
    """Ids, merges and added tokens (id, token, normalised) of tokenizers' own format."""
    table = _read_json(path)
    model = _table(path, table.get("model"), "`model`")
    for name, value, expected in (
        ("type", model.get("type", "BPE"), "BPE"),  # the oldest files do not say
        ("end_of_word_suffix", model.get("end_of_word_suffix"), WORD_END),
    ):
        if value != expected:
            raise ValueError(f"{path}: `{name}` must be {expected!r}, not {value!r:.80}")
    ids = _check_ids(path, model.get("vocab"))
    merges, added = model.get("merges"), table.get("added_tokens", [])
    if not isinstance(merges, list) or not isinstance(added, list):
        raise ValueError(f"{path}: `merges` and `added_tokens` must be lists")
    merges = [" ".join(map(str, merge)) if isinstance(merge, list) else merge for merge in merges]
    tokens = [_table(path, token, "an added token") for token in added]
    return ids, merges, [(token.get("id"), *_token(path, token)) for token in tokens]


def _added_of_config(path, settings):
    tokens = _table(path, settings["added_tokens_decoder"], "`added_tokens_decoder`")
    for index in tokens:
        if not (index.isascii() and index.isdigit() and len(index) < 11):
            raise ValueError(
                f"{path}: the id of an added token must be a number, not {index!r:.80}"
            )
    return [(int(index), *_token(path, token)) for index, token in tokens.items()]


def _older_added(path, special):
    table = _read_json(path, optional=True)
    return [(table[token], _token(path, token)[0], token not in special) for token in table]


def _token(path, value):
    """A token's text and whether it is looked for in normalised text; a bare string is not."""
    table = {"content": value} if isinstance(value, str) else _table(path, value, "a token")
    content = table.get("content")
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"{path}: a token must have a text, not {content!r:.80}")
    if table.get("single_word"):
        raise ValueError(f"{path}: the token {content!r} is `single_word`, which is not supported")
    return content, bool(table.get("normalized", False))


def _add(path, ids, added):
    """Puts added tokens into `ids`; a dict of them to whether they are normalised."""
    for index, token, _ in added:
        if ids.setdefault(token, index) != index:
            raise ValueError(f"{path}: {token!r} has id {ids[token]} and is added with {index!r}")
    _check_ids(path, ids)
    return {token: normalized for _, token, normalized in added}


def _special_tokens(path, settings):
    """Special tokens and whether they are looked for in normalised text; of equal ones the last."""
    tokens = [
        value
        for key, value in settings.items()
        if key.endswith("_token") and isinstance(value, (str, dict))
    ]
    for key in _LISTS:
        if not isinstance(settings.get(key, []), list):
            raise ValueError(f"{path}: `{key}` must be a list, not {settings[key]!r:.80}")
        tokens += settings.get(key, [])
    return dict(_token(path, token) for token in tokens)


def _max_length(path, settings):
    length = settings.get("model_max_length")
    if length is None or length == _UNLIMITED:
        return MAX_LENGTH
    if type(length) is not int or not 2 <= length <= 2**20:
        raise ValueError(f"{path}: `model_max_length` must be a number from 2, not {length!r:.80}")
    return length
