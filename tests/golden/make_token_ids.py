"""Writes `token_ids.json`: ids of awkward texts by transformers and by OpenAI CLIP's own rules.

python tests/golden/make_token_ids.py

CLIP's rules are written here once more and naively, as its paper and its published tokenizer have
them, so that nothing is shared with what is tested but the file of merges.
"""

import gzip
import html
import json
import tempfile
from pathlib import Path

import ftfy
import regex
import transformers
from awkward_texts import texts

MERGES = Path(__file__).parents[2] / "kerasdiff" / "clip_merges.txt.gz"
GOLDEN = Path(__file__).with_name("token_ids.json")


def byte_letters():
    """Byte to letter, in CLIP's order."""
    shown = [b for b in range(256) if chr(b).isprintable() and not chr(b).isspace()]
    hidden = [b for b in range(256) if b not in shown]
    return {b: chr(b) for b in shown} | {b: chr(0x100 + n) for n, b in enumerate(hidden)}


def clip_tables():
    """CLIP's vocabulary (token to id) and its merges (pair to rank)."""
    merges = [tuple(line.split()) for line in gzip.open(MERGES, "rt", encoding="utf-8")]
    letters = list(byte_letters().values())
    tokens = letters + [letter + "</w>" for letter in letters]
    tokens += [a + b for a, b in merges] + ["<|startoftext|>", "<|endoftext|>"]
    assert len(set(tokens)) == 49408
    return {t: n for n, t in enumerate(tokens)}, {pair: rank for rank, pair in enumerate(merges)}


class OpenAITokenizer:
    """The rules of OpenAI's CLIP: each round joins every place where the best pair stands."""

    def __init__(self):
        self.ids, self.ranks = clip_tables()
        self.letters = byte_letters()
        self.words = regex.compile(
            r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
            regex.IGNORECASE,
        )

    def __call__(self, text):
        """The ids of a text with start and end."""
        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        text = regex.sub(r"\s+", " ", text).strip().lower()
        found = [49406]
        for word in self.words.findall(text):
            if word in ("<|startoftext|>", "<|endoftext|>"):
                found.append(self.ids[word])
            else:
                found += self.parts(word)
        return [*found, 49407]

    def parts(self, word):
        """The ids of one word."""
        parts = [self.letters[byte] for byte in word.encode("utf-8")]
        parts[-1] += "</w>"
        while len(parts) > 1:
            best = min(zip(parts, parts[1:], strict=False), key=lambda p: self.ranks.get(p, 1e9))
            if best not in self.ranks:
                break
            joined, place = [], 0
            while place < len(parts):
                both = tuple(parts[place : place + 2]) == best
                joined.append(parts[place] + parts[place + 1] if both else parts[place])
                place += 1 + both
            parts = joined
        return [self.ids[part] for part in parts]


def write_clip_files(folder):
    """CLIP's `vocab.json` and `merges.txt`."""
    ids, ranks = clip_tables()
    (folder / "vocab.json").write_text(json.dumps(ids), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in ranks)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")


def main():
    """Tokenizes and writes the file."""
    with tempfile.TemporaryDirectory() as folder:
        write_clip_files(Path(folder))
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    openai = OpenAITokenizer()
    rows = [
        {"text": text, "transformers": tokenizer(text).input_ids, "openai": openai(text)}
        for text in texts()
    ]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    GOLDEN.write_text(f"[\n{lines}\n]\n", "utf-8")


if __name__ == "__main__":
    main()
