"""A prompt in, a picture out with LiteRT: no TensorFlow, no Keras, no kerasdiff.

    pip install ai-edge-litert numpy pillow
    kerasdiff export parts --format litert        (once, on any machine)
    python paint.py parts "a red house and a pine tree" house.png --seed 1 --steps 10 --guidance 3

The folder's sampler.json holds the sampler as rows of numbers; this is the loop over them.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image


class Tokenizer:
    """CLIP's byte pair encoding, for prompts in ASCII."""

    def __init__(self, folder):
        self.ids = json.loads((folder / "vocab.json").read_text("utf-8"))
        lines = (folder / "merges.txt").read_text("utf-8").splitlines()
        pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        self.ranks = {pair: rank for rank, pair in enumerate(pairs)}

    def encode(self, prompt):
        if not prompt.isascii():
            raise ValueError("this small tokenizer knows ASCII alone")
        pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+"
        words = re.findall(pattern, prompt.lower())
        return [self.ids[part] for word in words for part in self.split(word)]

    def split(self, word):
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pairs = list(zip(parts, parts[1:], strict=False))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            at = pairs.index(best)
            parts[at : at + 2] = ["".join(best)]
        return parts


class Parts:
    """The networks of an exported folder, by LiteRT."""

    def __init__(self, folder):
        self.folder, self.runners = folder, {}

    def run(self, name, **inputs):
        if name not in self.runners:
            from ai_edge_litert.interpreter import Interpreter

            interpreter = Interpreter(str(self.folder / f"{name}.tflite"), num_threads=4)
            # the runner needs the interpreter alive
            self.runners[name] = interpreter, interpreter.get_signature_runner("run")
        return self.runners[name][1](**inputs)


def normals(twister, count):
    """PyTorch's standard normal numbers, a multiple of 16: Box-Muller in blocks of 16."""
    words = twister.randint(0, 2**32, size=count, dtype=np.uint32)
    uniforms = (words & 0xFFFFFF).astype("float32") / np.float32(2**24)
    radii, angles = np.moveaxis(uniforms.reshape(-1, 2, 8), 1, 0)
    radii = np.sqrt(np.float32(-2.0) * np.log(np.float32(1.0) - radii))
    angles = np.float32(2.0 * np.pi) * angles
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1).reshape(-1)


def paint(parts, facts, tokens, negative_tokens, seed, steps, guidance):
    """A picture (height, width, 3) uint8."""
    check(facts, steps)
    positive, negative = (
        parts.run("text_encoder", tokens=np.int32([ids]))["context"]
        for ids in (tokens, negative_tokens)
    )
    table, (channels, height, width) = facts["steps"][str(steps)], facts["latents"]
    twister = np.random.RandomState(seed % 2**32)

    def draw():  # PyTorch fills (C, h, w)
        noise = normals(twister, channels * height * width)
        return noise.reshape(1, channels, height, width).transpose(0, 2, 3, 1)

    x = np.float32(table["initial_noise"]) * draw()
    noise = [draw() for _ in range(table["noise_slots"])] or [0.0]
    raw, past_x, past_d = x, [0.0 * x] * 3, [0.0 * x] * 3
    for values in table["rows"]:
        row = {name: np.float32(v) for name, v in zip(facts["columns"], values, strict=True)}
        inputs = {"latent": row["c_in"] * x, "timestep": row["timestep"][None]}
        prediction = predict(parts, facts, context=positive, **inputs)
        if guidance > 1.0:
            without = predict(parts, facts, context=negative, **inputs)
            prediction = without + np.float32(guidance) * (prediction - without)
        d = row["c_skip"] * x + row["c_out"] * prediction
        after = row["x0"] * x + row["raw"] * raw + row["d0"] * d
        after = after + row["noise_weight"] * noise[int(row["noise_slot"])]
        for age in (1, 2, 3):
            after = after + row[f"x{age}"] * past_x[age - 1] + row[f"d{age}"] * past_d[age - 1]
        past_x, past_d = [x, *past_x[:2]], [d, *past_d[:2]]
        x = raw = after
    images = parts.run("decoder", latents=x)["images"]
    return images[0].astype("uint8")


def check(facts, steps):
    """Refuses what this loop does not do, and steps that the folder has no table for."""
    taken = {name for inputs in facts["network"].values() for name in inputs}
    more = taken & {"added_embedding", "guidance_embedding"}
    if more or facts["in_channels"] != facts["latents"][0]:
        raise ValueError(
            "this small loop runs no network of SDXL, for inpainting, or distilled with guidance"
        )
    if str(steps) not in facts["steps"]:
        most = max(map(int, facts["steps"]))
        raise ValueError(f"sampler.json has no table of {steps} steps; the most are {most}")


def predict(parts, facts, **tensors):
    """What the network says, which large models have in several files, one after the other."""
    for name, inputs in facts["network"].items():
        tensors |= parts.run(name, **{key: tensors[key] for key in inputs})
    return tensors["prediction"]


def pack(facts, ids):
    """A row of tokens: start, the ids, end, padding."""
    token = facts["tokens"]["tokens"]
    if len(ids) + 2 > token["length"]:
        raise ValueError(f"the prompt has {len(ids)} tokens, at most {token['length'] - 2} fit")
    row = [token["start"], *ids, token["end"]]
    return row + [token["pad"]] * (token["length"] - len(row))


def main():
    """Reads the command line and writes a PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("prompt")
    parser.add_argument("output")
    parser.add_argument("--negative", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=3.0)
    given = parser.parse_args()
    facts = json.loads((given.folder / "sampler.json").read_text())
    tokenizer = Tokenizer(given.folder / "tokenizer")
    options = given.seed, given.steps, given.guidance
    try:
        tokens = [pack(facts, tokenizer.encode(text)) for text in (given.prompt, given.negative)]
        picture = paint(Parts(given.folder), facts, *tokens, *options)
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    Image.fromarray(picture).save(given.output)
    print(given.output)


if __name__ == "__main__":
    main()
