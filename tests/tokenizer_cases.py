"""The smallest files that a tokenizer's folder can have."""

import json

START, END = "<|startoftext|>", "<|endoftext|>"
SMALL = {"a": 0, "b": 1, "c": 2, "a</w>": 3, "b</w>": 4, "ab</w>": 5, "!": 6, START: 7, END: 8}


def write(folder, **files):
    """Files of a tokenizer's folder by stem: tables as JSON, `merges` as lines."""
    folder.mkdir(exist_ok=True)
    for stem, content in files.items():
        if stem == "merges":
            (folder / "merges.txt").write_text("\n".join(content) + "\n", "utf-8")
        else:
            (folder / f"{stem}.json").write_text(json.dumps(content), "utf-8")
    return folder


def small(folder, **files):
    return write(folder, **{"vocab": SMALL, "merges": ["#version: 0.2", "a b</w>"]} | files)


def fast(**changes):
    model = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": SMALL, "merges": ["a b</w>"]}
    tokens = [{"id": 8, "content": END, "normalized": False, "special": True}]
    return {"model": model | changes, "added_tokens": tokens}
