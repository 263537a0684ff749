"""A tokenizer's folder is read in each of its forms, and means what its files say."""

import pytest
from tokenizer_cases import END, SMALL, START, fast, small

from kerasdiff.clip_tokenizer import SimpleTokenizer


def test_merges_go_by_rank_and_then_from_the_left(tmp_path):
    # As merges are learnt: "a a" first, so "aaa" is "aa a", never "a aa".
    vocab = {"a": 0, "a</w>": 1, "aa": 2, "aa</w>": 3, "aaa</w>": 4, START: 5, END: 6}
    folder = small(tmp_path, vocab=vocab, merges=["a a", "aa a</w>", "a a</w>"])
    encode = SimpleTokenizer.from_folder(folder).encode
    assert encode("aaa")[1:-1] == [4]
    assert encode("aaaa")[1:-1] == [2, 3]
    assert encode("aaaaa")[1:-1] == [2, 4]


def test_a_folder_of_vocabulary_and_merges_is_read(tmp_path):
    ours = SimpleTokenizer.from_folder(small(tmp_path))
    assert ours.encode("AB b ca") == [7, 5, 4, 2, 3, 8]
    assert ours.vocab == SMALL and ours.pad_token_id == 8 and ours.max_length == 77


def test_symbols_that_a_small_vocabulary_lacks_become_the_unknown_token(tmp_path):
    folder = small(tmp_path, tokenizer_config={"unk_token": "!"})
    assert SimpleTokenizer.from_folder(folder).encode("axb é") == [7, 0, 6, 4, 6, 6, 8]


@pytest.mark.parametrize("merge", ["a b</w>", ["a", "b</w>"]])
def test_a_tokenizer_json_is_read_and_comes_first(tmp_path, merge):
    folder = small(tmp_path, tokenizer=fast(merges=[merge]), vocab={}, merges=["nonsense"])
    assert SimpleTokenizer.from_folder(folder).encode("ab <|endoftext|>") == [7, 5, 8, 8]


@pytest.mark.parametrize("form", ["!", {"content": "!", "normalized": False, "lstrip": False}])
@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map"])
def test_the_padding_token_comes_from_the_files_and_can_be_overruled(tmp_path, name, form):
    folder = small(tmp_path, **{name: {"pad_token": form}})
    ours = SimpleTokenizer.from_folder(folder)
    assert ours.pack("a!", 6).tolist() == [7, 3, 6, 8, 6, 6]
    assert SimpleTokenizer.from_folder(folder, pad_token=END).pad_token_id == 8


def test_the_special_tokens_map_overrules_the_config(tmp_path):
    folder = small(
        tmp_path,
        tokenizer_config={"pad_token": END, "model_max_length": 9},
        special_tokens_map={"pad_token": "!"},
    )
    assert SimpleTokenizer.from_folder(folder).pack("a").tolist() == [7, 3, 8] + [6] * 6


def test_roles_may_have_other_names(tmp_path):
    vocab = {"a": 0, "a</w>": 1, "<s>": 2, "</s>": 3, "<unk>": 4}
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    ours = SimpleTokenizer.from_folder(
        small(tmp_path, vocab=vocab, merges=[], tokenizer_config=config)
    )
    assert ours.encode("a b") == [2, 1, 4, 3]
    assert ours.decode([2, 1, 3]) == "<s>a </s>"


@pytest.mark.parametrize("length, found", [(None, 77), (int(1e30), 77), (12, 12)])
def test_the_length_comes_from_the_config(tmp_path, length, found):
    folder = small(tmp_path, tokenizer_config={"model_max_length": length})
    assert SimpleTokenizer.from_folder(folder).max_length == found


def test_added_tokens_are_read_from_each_place(tmp_path):
    token = {"content": "<Sks>", "normalized": True}
    places = (
        {"added_tokens": {"<Sks>": 9}},
        {"tokenizer_config": {"added_tokens_decoder": {"9": token}}},
        {"tokenizer": fast() | {"added_tokens": [token | {"id": 9}]}},
    )
    for number, files in enumerate(places):
        ours = SimpleTokenizer.from_folder(small(tmp_path / str(number), **files))
        assert ours.encode("a <sks>b") == [7, 3, 9, 4, 8] and len(ours) == 10
    files = {"special_tokens_map": {"additional_special_tokens": ["<Sks>"]}}
    ours = SimpleTokenizer.from_folder(small(tmp_path / "more", **files))
    assert ours.encode("<Sks>") == [7, 9, 8] and ours.encode("<sks>") != [7, 9, 8]


def test_special_tokens_of_the_older_files_are_found_as_written(tmp_path):
    names = {"additional_special_tokens": ["<Sks>"]}
    folder = small(tmp_path, added_tokens={"<Sks>": 9, "<Foo>": 10}, special_tokens_map=names)
    ours = SimpleTokenizer.from_folder(folder)
    assert ours.encode("<Sks><Foo><foo>") == [7, 9, 10, 10, 8]
    assert 9 not in ours.encode("<sks>")
