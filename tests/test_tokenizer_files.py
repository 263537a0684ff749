"""The tokenizer's files: merges, saving, and bad files called by name."""

import gzip

import numpy as np
import pytest
from tokenizer_cases import START, fast, small, write

from kerasdiff import tokenizer_files
from kerasdiff.clip_tokenizer import SimpleTokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return SimpleTokenizer()


# A file of merges


@pytest.mark.parametrize("name", ["merges.txt", "merges.txt.gz"])
def test_a_file_of_merges_in_clips_form_is_taken(tokenizer, tmp_path, name):
    merges = tokenizer._known.merges
    # CLIP's own file has a heading, and further merges that its vocabulary does not use.
    text = "\n".join(['"bpe_simple_vocab_16e6.txt#version: 0.2', *merges, "x yz", ""])
    data = text.encode("utf-8")
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert SimpleTokenizer(tmp_path / name).vocab == tokenizer.vocab


def test_few_merges_make_a_small_vocabulary(tmp_path):
    (tmp_path / "few.txt").write_text("c a\nca t</w>\r\n")
    ours = SimpleTokenizer(str(tmp_path / "few.txt"))
    assert len(ours) == 516 and ours.encode("cat") == [514, 513, 515]


@pytest.mark.parametrize(
    "data, fault",
    [
        (None, "no such file"),
        (b"a b c\n", "two symbols"),
        (b"a\n", "two symbols"),
        (b"a  b\n", "two symbols"),
        (b"ab c\n", "needs the token 'ab'"),
        (b"\xff\xfe", "not UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8"),
    ],
)
def test_bad_files_of_merges_are_named(tmp_path, data, fault):
    path = tmp_path / "merges.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError, match=f"merges.txt: .*{fault}"):
        SimpleTokenizer(path)


def test_broken_and_bloated_gzip_files_are_named(tmp_path, monkeypatch):
    path = tmp_path / "merges.txt.gz"
    whole = gzip.compress(b"a b\n" * 1000)
    for data in (b"not gzip", whole[:-12], whole[:20] + b"xxxx" + whole[24:]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="merges.txt.gz: cannot be read"):
            SimpleTokenizer(path)
    monkeypatch.setattr(tokenizer_files, "_MAX_BYTES", 3999)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="merges.txt.gz: longer than 3999 bytes"):
        SimpleTokenizer(path)


@pytest.mark.parametrize("kept", [0, 1, 20_000, 48_893])
@pytest.mark.parametrize("name", ["merges.txt", "tokenizer.json"])
def test_merges_that_end_too_early_are_named_with_both_counts(tokenizer, tmp_path, name, kept):
    vocab, merges = tokenizer.vocab, tokenizer._known.merges[:kept]
    files = {"tokenizer": fast(vocab=vocab, merges=merges) | {"added_tokens": []}}
    folder = small(tmp_path, vocab=vocab, merges=merges, **(files if "json" in name else {}))
    with pytest.raises(ValueError, match=f"{name}: holds {kept} merges.* 49408 tokens.* 48894"):
        SimpleTokenizer.from_folder(folder)


# Saving


def test_a_saved_folder_gives_the_same_tokenizer(tmp_path):
    ours = SimpleTokenizer(pad_token="!", max_length=50)
    ours.add_tokens(["<My-Style>", "猫猫"])
    ours.save(tmp_path / "new" / "tokenizer")
    again = SimpleTokenizer.from_folder(tmp_path / "new" / "tokenizer")
    assert again.vocab == ours.vocab
    for text in ("a <my-style>!! 猫猫", "<|endoftext|> <|ENDOFTEXT|>", "naïve"):
        assert np.array_equal(again.pack(text), ours.pack(text)) and len(again.pack(text)) == 50
    assert sorted(path.name for path in (tmp_path / "new" / "tokenizer").iterdir()) == [
        "merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"
    ]  # fmt: skip


def test_saving_beside_a_tokenizer_json_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="has a tokenizer.json"):
        tokenizer.save(write(tmp_path, tokenizer={}))


def test_a_file_that_cannot_be_written_whole_is_not_written(tmp_path, monkeypatch):
    ours = SimpleTokenizer.from_folder(small(tmp_path))
    before = (tmp_path / "vocab.json").read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kerasdiff.files.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left.*vocab.json"):
        ours.save(tmp_path)
    assert (tmp_path / "vocab.json").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


# Bad files


BAD = [
    ("vocab", [], "must be a table"),
    ("vocab", {"a": "0"}, "must be a number"),
    ("vocab", {"a": True}, "must be a number"),
    ("vocab", {"a": -1}, "must be a number"),
    ("vocab", {"a": 2**40}, "must be a number"),
    ("vocab", {"a": 0, "b": 0}, "same id"),
    ("merges", ["a b</w> c"], "two symbols"),
    ("merges", ["a c</w>"], "needs the token 'c</w>'"),
    ("merges", ["b a</w>"], "needs the token 'ba</w>'"),
    ("tokenizer_config", 3, "must be a table"),
    ("tokenizer_config", {"pad_token": "<pad>"}, "lacks the pad_token '<pad>'"),
    ("tokenizer_config", {"bos_token": {}}, "must have a text"),
    ("tokenizer_config", {"eos_token": 3}, "must be a table"),
    ("tokenizer_config", {"bos_token": {"content": START, "single_word": True}}, "single_word"),
    ("tokenizer_config", {"model_max_length": "77"}, "`model_max_length`"),
    ("tokenizer_config", {"model_max_length": 1}, "`model_max_length`"),
    ("tokenizer_config", {"added_tokens_decoder": []}, "must be a table"),
    ("tokenizer_config", {"added_tokens_decoder": {"x": "<x>"}}, "must be a number"),
    ("tokenizer_config", {"added_tokens_decoder": {"3": "<x>"}}, "same id"),
    ("tokenizer_config", {"added_tokens_decoder": {"9": "a"}}, "has id 0"),
    ("tokenizer_config", {"additional_special_tokens": "<x>"}, "must be a list"),
    ("special_tokens_map", [], "must be a table"),
    ("added_tokens", {"<x>": "9"}, "must be a number"),
    ("added_tokens", {"": 9}, "must have a text"),
    ("tokenizer", {}, "`model` must be a table"),
    ("tokenizer", fast(type="Unigram"), "`type` must be 'BPE'"),
    ("tokenizer", fast(end_of_word_suffix=None), "`end_of_word_suffix` must be '</w>'"),
    ("tokenizer", fast(vocab=None), "must be a table"),
    ("tokenizer", fast(merges=None), "must be lists"),
    ("tokenizer", fast(merges=[3]), "two symbols"),
    ("tokenizer", fast(merges=[["a", "b", "c"]]), "two symbols"),
    ("tokenizer", fast(merges=[["a", "b b"]]), "two symbols"),
    ("tokenizer", fast() | {"added_tokens": [3]}, "must be a table"),
    ("tokenizer", fast() | {"added_tokens": [{"content": "<x>"}]}, "must be a number"),
]


@pytest.mark.parametrize("stem, content, fault", BAD)
def test_malformed_files_are_named(tmp_path, stem, content, fault):
    folder = small(tmp_path, **{stem: content})
    with pytest.raises(ValueError) as caught:
        SimpleTokenizer.from_folder(folder)
    assert fault in str(caught.value) and str(tmp_path) in str(caught.value)
    named = "tokenizer_config" if stem == "added_tokens" else stem
    assert stem in str(caught.value) or named in str(caught.value)


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("text", ["", "{", "\x00\x01", "[" * 100_000, '{"a": ' * 100_000])
def test_files_that_are_no_json_are_named(tmp_path, name, text):
    small(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}: not valid JSON"):
        SimpleTokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_missing_files_and_folders_in_their_place_are_named(tmp_path, name):
    small(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: no such file"):
        SimpleTokenizer.from_folder(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"{name}: no such file"):
        SimpleTokenizer.from_folder(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        SimpleTokenizer.from_folder(tmp_path / "nowhere")


def test_files_that_are_too_long_are_refused_unread(tmp_path, monkeypatch):
    small(tmp_path)
    with (tmp_path / "vocab.json").open("ab") as file:
        file.truncate(2**33)  # sparse: takes no room
    with pytest.raises(ValueError, match="vocab.json: longer than 67108864 bytes"):
        SimpleTokenizer.from_folder(tmp_path)
