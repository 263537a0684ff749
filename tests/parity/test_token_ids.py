"""Token ids, live: transformers' CLIPTokenizer on random texts and on folders of every form."""

import json
import random
import sys
import unicodedata
from pathlib import Path

import pytest
import transformers
from tokenizers import normalizers

from kerasdiff.clip_tokenizer import SimpleTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
from awkward_texts import texts  # noqa: E402
from make_token_ids import OpenAITokenizer, write_clip_files  # noqa: E402

START, END = "<|startoftext|>", "<|endoftext|>"
BLOCKS = (
    [(0x20, 0x7F)] * 6
    + [(0, 0x20), (0x7F, 0x100), (0x100, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700)]
    + [(0x900, 0xA00), (0xE00, 0xE80), (0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2070)]
    + [(0x2070, 0x2C00), (0x3000, 0x3100), (0x4E00, 0x4F00), (0xAC00, 0xAC80), (0xF900, 0x10000)]
    + [(0x1F000, 0x1FA00), (0xE0000, 0xE0100), (0, 0x110000)]
)
PIECES = [START, END, END.upper(), "'s", "'LL", "!", "</w>", " ", "a photo of ", "İ", "Σ", "ß"]
PIECES += ["\u200d", "\u0301", "1234", "<sks>", "<SKS>", "<Foo>", "&amp;", "e\u0301"]


def in_both_tables(character):
    """Whether Python and transformers know the character, and the order of its combining class."""
    if unicodedata.category(character) in ("Cn", "Cs"):
        return False
    marks = (f"a{character}\u0316", f"a\u0301{character}", f"a{character}\u0316\u0301")
    nfc = normalizers.NFC()
    return all(nfc.normalize_str(m) == unicodedata.normalize("NFC", m) for m in marks)


def random_texts(count, seed):
    rng = random.Random(seed)

    def piece():
        if rng.random() < 0.15:
            return rng.choice(PIECES)
        while not in_both_tables(character := chr(rng.randrange(*rng.choice(BLOCKS)))):
            pass
        return character

    return ["".join(piece() for _ in range(rng.randrange(30))) for _ in range(count)]


def assert_equal_ids(ours, theirs, inputs):
    for text in inputs:
        ids = theirs(text).input_ids
        assert ours.encode(text) == ids, ascii(text)
        # transformers writes added tokens in their normalised form, we as they were added.
        decoded = ours.decode(ids).replace("<Sks>", "<sks>")
        assert decoded == theirs.decode(ids), ascii(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    write_clip_files(path)
    return path


@pytest.mark.parametrize("pad_token", [END, "!"])
def test_random_texts(folder, pad_token):
    theirs = transformers.CLIPTokenizer.from_pretrained(folder, pad_token=pad_token)
    assert_equal_ids(SimpleTokenizer(pad_token=pad_token), theirs, random_texts(4000, seed=1))


def test_every_character_that_both_know(folder):
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    known = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Cs")]
    # Private use and Han, whose members are alike, by samples.
    known = [
        c for i, c in enumerate(known) if ord(c) < 0x3400 or "\ua000" <= c < "\uac00" or not i % 23
    ]
    assert_equal_ids(SimpleTokenizer(), theirs, [f"a{c}b !{c}" for c in known])


def test_clips_own_rules_on_random_texts():
    ours, theirs = SimpleTokenizer(clean=True), OpenAITokenizer()
    for text in random_texts(2000, seed=2):
        assert ours.encode(text) == theirs(text), ascii(text)


def test_added_tokens(folder):
    ours, theirs = SimpleTokenizer(), transformers.CLIPTokenizer.from_pretrained(folder)
    tokens = ["<Sks>", "<foo>", "猫猫", "two words"]
    assert ours.add_tokens(tokens) == theirs.add_tokens(tokens) == 4
    inputs = ["a <sks>, <FOO>x 猫猫猫 TWO \n words", *random_texts(500, seed=3)]
    assert_equal_ids(ours, theirs, inputs)


def token(content, **changes):
    plain = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return {"content": content} | plain | changes


def typed(content, **changes):
    return {"__type": "AddedToken"} | token(content, **changes)


ROLES = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
OLD = ROLES | {name: typed(text) for name, text in ROLES.items() if name != "pad_token"}
OLD_MAP = ROLES | {name: token(text) for name, text in ROLES.items() if name != "pad_token"}
ADDED = {
    "0": token("!", normalized=False, special=True),
    "49406": token(START, special=True),
    "49407": token(END, normalized=False, special=True),
}
FORMS = {
    "bare": {},
    # As published with Stable Diffusion 1, with 2, and as newer versions wrote it for XL.
    "sd1": {"tokenizer_config": OLD | {"model_max_length": 77}, "special_tokens_map": OLD_MAP},
    "sd1 config": {"tokenizer_config": OLD},
    "sd2": {"tokenizer_config": OLD, "special_tokens_map": OLD_MAP | {"pad_token": "!"}},
    "sdxl": {"tokenizer_config": ROLES | {"pad_token": "!", "added_tokens_decoder": ADDED}},
    "map hidden": {
        "tokenizer_config": ROLES | {"added_tokens_decoder": ADDED},
        "special_tokens_map": ROLES | {"pad_token": "!"},
    },
    "added": {"tokenizer_config": ROLES, "added_tokens": {"<Sks>": 49408, "<foo>": 49409}},
    "added special": {
        "tokenizer_config": ROLES | {"additional_special_tokens": ["<foo>"]},
        "added_tokens": {"<Sks>": 49408, "<foo>": 49409},
    },
    "more": {"tokenizer_config": ROLES | {"additional_special_tokens": ["<sks>", "<Foo>"]}},
    "more in map": {"special_tokens_map": {"additional_special_tokens": ["<sks>"]}},
    "masked": {"tokenizer_config": ROLES | {"mask_token": "<Foo>"}},
}


@pytest.mark.parametrize("form", FORMS)
def test_folders_of_every_form(tmp_path, form):
    write_clip_files(tmp_path)
    for stem, table in FORMS[form].items():
        (tmp_path / f"{stem}.json").write_text(json.dumps(table))
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    ours = SimpleTokenizer.from_folder(tmp_path)
    assert ours.pad_token_id == theirs.pad_token_id and len(ours) == len(theirs)
    inputs = ["hi! <|ENDOFTEXT|>!! <|StartOfText|> <|endoftext|> <sks> <SKS> <Foo> <foo>"]
    assert_equal_ids(ours, theirs, inputs + random_texts(300, seed=4))


@pytest.mark.parametrize("pad_token", [END, "!"])
def test_what_transformers_saves_is_read_and_the_other_way_round(folder, tmp_path, pad_token):
    theirs = transformers.CLIPTokenizer.from_pretrained(
        folder, pad_token=pad_token, model_max_length=77
    )
    theirs.add_tokens(["<Sks>", "猫猫"])
    theirs.save_pretrained(tmp_path / "theirs")
    assert (tmp_path / "theirs" / "tokenizer.json").is_file()
    ours = SimpleTokenizer.from_folder(tmp_path / "theirs")
    ours.save(tmp_path / "ours")
    again = transformers.CLIPTokenizer.from_pretrained(tmp_path / "ours")
    assert again.pad_token_id == ours.pad_token_id == theirs.pad_token_id
    assert again.model_max_length == ours.max_length == 77
    inputs = ["a <SKS>! 猫猫猫", *texts(), *random_texts(300, seed=5)]
    assert_equal_ids(ours, theirs, inputs)
    assert_equal_ids(ours, again, inputs)


def test_packed_rows_are_what_pipelines_feed(folder):
    theirs = transformers.CLIPTokenizer.from_pretrained(folder, pad_token="!", model_max_length=77)
    ours = SimpleTokenizer(pad_token="!")
    for text in ("", "a cat!", "naïve 猫"):
        assert theirs(text, padding="max_length").input_ids == ours.pack(text).tolist()


def test_a_small_vocabulary_with_unknown_symbols(tmp_path):
    vocab = {"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab</w>": 4, "ba": 5, "!": 6, START: 7, END: 8}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nb a\na b</w>\n")
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    rng = random.Random(6)
    inputs = ["".join(rng.choices("ab!c 1é", k=rng.randrange(20))) for _ in range(500)]
    assert_equal_ids(SimpleTokenizer.from_folder(tmp_path), theirs, inputs)


def test_random_merges_in_any_order(tmp_path):
    """Merges that no training gives: later ones may be parts of earlier ones."""
    rng = random.Random(7)
    for number in range(20):
        symbols = ["a", "b", "a</w>", "b</w>"]
        merges = []
        for _ in range(12):
            first = rng.choice([s for s in symbols if not s.endswith("</w>")])
            second = rng.choice(symbols)
            if first + second not in symbols:
                symbols.append(first + second)
            if (first, second) not in merges:
                merges.append((first, second))
        rng.shuffle(merges)
        folder = tmp_path / str(number)
        folder.mkdir()
        ids = {symbol: index for index, symbol in enumerate([*symbols, START, END])}
        (folder / "vocab.json").write_text(json.dumps(ids))
        (folder / "merges.txt").write_text("\n".join(map(" ".join, merges)) + "\n")
        theirs = transformers.CLIPTokenizer.from_pretrained(folder)
        inputs = ["".join(rng.choices("ab", k=rng.randrange(1, 40))) for _ in range(100)]
        assert_equal_ids(SimpleTokenizer.from_folder(folder), theirs, inputs)
