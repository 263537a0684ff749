"""Sizes, seconds, peak memory and picture difference of everything that `export` writes.

Each export and each run of what it wrote is a process of its own; pictures are compared with
Python's own, of the same prompt and seed. Seconds a picture are the second picture's.

    python -m benchmarks.export                             # SD 1.5 in size, random weights
    python -m benchmarks.export --model my-model --steps 10 --formats litert/int8 onnx/float32
"""

import argparse
import importlib.util
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FORMATS = ("tf_saved_model", "litert/float32", "litert/float16", "litert/int8", "onnx/float32",
           "openvino/float32", "openvino/float16", "coreml/float16")  # fmt: skip
PROMPT, SEED, GUIDANCE = "a red house and a pine tree near a mountain at sunset", 1, 3.0
EXAMPLE = Path(__file__).parents[1] / "examples" / "litert" / "paint.py"


def export(source, folder, name, steps):
    """Writes a format; MB and seconds. Python itself gives its picture."""
    from kerasdiff import StableDiffusion
    from kerasdiff.configs import SD1

    model = StableDiffusion.from_preset(source) if source != "full" else None
    if model is None:
        import keras

        keras.utils.set_random_seed(0)
        model = StableDiffusion(checkpoint=SD1)
    if name == "python":
        options = dict(seed=SEED, num_steps=steps, unconditional_guidance_scale=GUIDANCE)
        picture, seconds = second_of(lambda: model.text_to_image(PROMPT, "", **options)[0])
        np.save(folder.with_suffix(".npy"), picture)
        return {"a picture": seconds}
    for network in (model.text_encoder, model.diffusion_model, model.decoder):
        len(network.variables)  # built before the clock runs
    format, _, weights = name.partition("/")
    options = {"weights": weights} if weights else {"tasks": ("text_to_image",)}
    begin = time.perf_counter()
    model.export(folder, format, max_steps=steps, **options)
    return {"seconds": time.perf_counter() - begin}


def run(folder, name, steps):
    """Seconds of a picture, which lies beside the folder then."""
    spec = importlib.util.spec_from_file_location("paint", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    tokenizer = example.Tokenizer(folder / "tokenizer")
    whole = name == "tf_saved_model"
    facts = json.loads((folder / ("signature.json" if whole else "sampler.json")).read_text())
    tokens = [example.pack(facts, tokenizer.encode(text)) for text in (PROMPT, "")]
    if whole:
        picture, seconds = second_of(saved_model(folder, tokens, steps))
    else:
        kind = {"litert": example.Parts, "onnx": Onnx, "openvino": OpenVino}[name.split("/")[0]]
        networks = kind(folder)
        given = (networks, facts, *tokens, SEED, steps, GUIDANCE)
        picture, seconds = second_of(lambda: example.paint(*given))
    np.save(folder.with_suffix(".npy"), picture)
    return {"a picture": seconds}


def saved_model(folder, tokens, steps):
    """A function that makes the picture with TensorFlow alone."""
    import tensorflow as tf

    paint = tf.saved_model.load(str(folder)).signatures["text_to_image"]
    given = {
        "tokens": tf.constant(tokens[:1]), "negative_tokens": tf.constant(tokens[1:]),
        "seed": tf.constant(SEED, tf.int64), "num_steps": tf.constant(steps),
        "guidance_scale": tf.constant(GUIDANCE),
    }  # fmt: skip
    return lambda: paint(**given)["images"].numpy()[0]


class Runtime:
    """Networks of a folder, each opened when first asked for."""

    def __init__(self, folder):
        self.folder, self.opened = folder, {}

    def run(self, name, **inputs):
        if name not in self.opened:
            self.opened[name] = self.open(name)
        return self.opened[name](inputs)


class Onnx(Runtime):
    """By onnxruntime."""

    def open(self, name):
        import onnxruntime

        session = onnxruntime.InferenceSession(self.folder / f"{name}.onnx")
        names = [output.name for output in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


class OpenVino(Runtime):
    """By OpenVINO, on the processor."""

    def open(self, name):
        import openvino

        compiled = openvino.compile_model(self.folder / f"{name}.xml", "CPU")
        return lambda inputs: {
            name: value for key, value in compiled(inputs).items() for name in key.names
        }


def second_of(function):
    """What a function gives, and the seconds of its second call."""
    function()
    begin = time.perf_counter()
    return function(), time.perf_counter() - begin


def measure(*arguments):
    """What a child process reports, and its peak memory in GB."""
    command = [sys.executable, "-m", "benchmarks.export", "--child", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode < 0:
        return {"error": f"killed by signal {-done.returncode}: was memory short?"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        return {"error": lines[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def child(task, source, folder, name, steps):
    """One measurement, printed as JSON."""
    given = Path(folder), name, int(steps)
    facts = export(source, *given) if task == "export" else run(*given)
    # Converters may run in processes of their own, beside this one.
    peak = sum(resource.getrusage(who).ru_maxrss for who in
               (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))  # fmt: skip
    print(json.dumps(facts | {"peak": peak * 1024 / 1e9}))


def row(name, parts, written, made, apart):
    """A line of the table."""
    sizes = " + ".join(f"{size / 1e6:.1f}" for size in parts)
    exported = f"{written['seconds']:.0f} | {written['peak']:.1f}" if written else "- | -"
    if "a picture" not in made:
        return f"| {name} | {sizes} | {exported} | {made.get('error', '-')} | - | - |"
    difference = f"{apart.max()}, mean {apart.mean():.2f}"
    return f"| {name} | {sizes} | {exported} | {made['a picture']:.2f} | {made['peak']:.1f} " + (
        f"| {difference} |"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="full", help="preset, file or folder (%(default)s)")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS,
        help="all; of the size of SD 1.5 without Core ML, whose converter takes more than 23 GB",
    )  # fmt: skip
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child(*given.child)
    formats = given.formats or (FORMATS[:-1] if given.model == "full" else FORMATS)
    print(f"{given.model}, {given.steps} steps; MB by file, seconds, GB\n")
    print("| format | size | export, s | peak | a picture, s | peak | difference |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        own = Path(temporary) / "python"
        made = measure("export", given.model, own, "python", given.steps)
        wanted = np.load(own.with_suffix(".npy")).astype(int)
        print(row("python", [], None, made, 0 * wanted), flush=True)
        for name in formats:
            folder = Path(temporary) / "out"
            written = measure("export", given.model, folder, name, given.steps)
            if "error" in written:
                print(f"| {name} | {written['error']} |", flush=True)
                continue
            files = [path for path in folder.rglob("*") if path.is_file()]
            heavy = sorted(
                (f.stat().st_size for f in files if f.stat().st_size > 2e5), reverse=True
            )
            made, apart = {}, None
            if not name.startswith("coreml"):
                made = measure("run", given.model, folder, name, given.steps)
                if "error" not in made:
                    apart = abs(np.load(folder.with_suffix(".npy")).astype(int) - wanted)
            print(row(name, heavy, written, made, apart), flush=True)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
