"""Seconds and extra peak memory of attention against length, beside torch's own attention.

Forms: `plain` (all scores at once), `chunked` (what the models use) and `torch`
(`scaled_dot_product_attention`). Seconds of a case are medians of forms that take turns in one
process. Extra memory is measured in a process for each form: how far its peak resident size rises
above the resident size before a call, less the results; the call is the second, so that neither
inputs nor compiling are counted, and freed memory goes back to the system before it.
"""

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.process import memory

EXAMPLES = """examples:
  python -m benchmarks.attention                              Stable Diffusion's sizes, forward
  python -m benchmarks.attention --backward                   the same with gradients
  python -m benchmarks.attention --cases 1x1x65536x40 --forms chunked
  python -m benchmarks.attention --dtype bfloat16 --compiler graph --repeats 5
"""
CASES = ("2x8x4096x40", "2x10x4096x64", "2x8x4096x80", "1x8x16384x40", "1x8x16384x64",
         "1x8x16384x80")  # fmt: skip
FORMS = ("plain", "chunked", "torch")


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attention",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--cases", nargs="+", default=CASES, metavar="BxHxTxD", help="batch x heads x length x size"
    )
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--backward", action="store_true", help="output and gradients")
    parser.add_argument("--compiler", default="xla", choices=("xla", "graph"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--query-chunk", type=int, help="the processor's, unless given")
    parser.add_argument("--key-chunk", type=int, default=4096)
    parser.add_argument(
        "--plain-limit",
        type=float,
        default=4.5,
        help="skip the plain form over so many GB of scores",
    )
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # measured in this process
    options = parser.parse_args(arguments)
    for case in options.cases:
        parts = case.split("x")
        if len(parts) != 4 or not all(part.isdigit() and int(part) for part in parts):
            parser.error(f"--cases must look like 2x8x4096x40, not {case}")
    return options


def drawn(case):
    """Query, key and value (B, T, H, D), float32."""
    import numpy as np

    batch, heads, length, size = map(int, case.split("x"))
    shape = (batch, length, heads, size)
    return [np.random.default_rng(i).standard_normal(shape, "float32") for i in range(3)]


def ours(case, form, options):
    """A function from three arrays to one that computes their attention, on tensors made once."""
    import keras
    import tensorflow as tf

    from benchmarks.process import set_up_compiler
    from kerasdiff.attention import attention
    from kerasdiff.backend import Program, training_forms

    set_up_compiler()

    batch, heads, length, _ = map(int, case.split("x"))
    whole = (batch * heads * length, length)  # all scores at once: the plain form
    chunks = whole if form == "plain" else (options.query_chunk, options.key_chunk)
    by_xla = options.compiler == "xla"

    def forward(*arrays):
        return attention(*arrays, query_chunk_size=chunks[0], key_chunk_size=chunks[1])

    def backward(*arrays):
        with training_forms(), tf.GradientTape() as tape:
            tape.watch(arrays)
            output = forward(*arrays)
            return output, tape.gradient(output, arrays)

    if options.backward:  # as training is compiled
        function = tf.function(backward, jit_compile=by_xla, autograph=False)
    else:
        function = Program(forward, keras.layers.Identity(dtype=options.dtype), by_xla)

    def prepare(arrays):
        tensors = [tf.cast(array, options.dtype) for array in arrays]

        def run():
            for each in tf.nest.flatten(function(*tensors)):
                each[0, 0, 0, 0].numpy()  # waits, and copies one number

        return run

    return prepare


def torchs(case, form, options):
    """As `ours`, by torch, whose attention takes (B, H, T, D)."""
    import torch

    def prepare(arrays):
        dtype = getattr(torch, options.dtype)
        tensors = [torch.from_numpy(array).to(dtype).transpose(1, 2) for array in arrays]

        def run():
            with torch.set_grad_enabled(options.backward):
                for tensor in tensors:
                    tensor.requires_grad_(options.backward)
                output = torch.nn.functional.scaled_dot_product_attention(*tensors)
                if options.backward:
                    output.backward(torch.ones_like(output))
                for tensor in tensors:
                    tensor.grad = None

        return run

    return prepare


def prepare(case, form, options):
    return (torchs if form == "torch" else ours)(case, form, options)


def measure_memory(case, form, options):
    """Extra MB of one form."""
    batch, heads, length, size = map(int, case.split("x"))
    run = prepare(case, form, options)(drawn(case))
    run()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = memory("VmRSS")
    run()
    width = 2 if options.dtype == "bfloat16" else 4
    results = batch * heads * length * size * width * (4 if options.backward else 1)
    return max(0.0, memory() - before - results) / 1e6


def measure_seconds(case, forms, options):
    """Median seconds of each form."""
    runs = {form: prepare(case, form, options)(drawn(case)) for form in forms}
    seconds = {form: [] for form in forms}
    for _ in range(options.repeats + 1):
        for form, run in runs.items():
            begin = time.perf_counter()
            run()
            seconds[form].append(time.perf_counter() - begin)
    return {form: statistics.median(later) for form, (_, *later) in seconds.items()}


def apart(what, case, forms, options):
    """A measurement in a fresh process; None where it fails."""
    command = [sys.executable, "-m", "benchmarks.attention", "--one", what, case, "--forms", *forms]
    for name in ("dtype", "compiler", "repeats", "query_chunk", "key_chunk"):
        if (value := getattr(options, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    command += ["--backward"] * options.backward
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    if what == "memory":
        # Fixed: else the allocator keeps blocks that it has seen freed, and hides them. So does
        # TensorFlow's own.
        environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    return None if result.returncode else json.loads(result.stdout.splitlines()[-1])


def rows(case, options):
    """Lines of the table, one for each form."""
    batch, heads, length, _ = map(int, case.split("x"))
    scores = batch * heads * length * length * 4 / 1e9
    forms = [each for each in options.forms if each != "plain" or scores <= options.plain_limit]
    seconds = apart("seconds", case, forms, options)
    for form in options.forms:
        if form not in forms:
            yield f"| {case} | {form} | skipped: its scores alone take {scores:.1f} GB | | |"
        elif (extra := apart("memory", case, [form], options)) is None or seconds is None:
            yield f"| {case} | {form} | failed | | |"
        else:
            share = f"{seconds[form] / seconds['torch']:.2f}" if "torch" in forms else ""
            yield f"| {case} | {form} | {seconds[form]:.3f} | {share} | {extra:.0f} |"


def main(arguments=None):
    options = parse(arguments)
    if options.one:
        what, case = options.one
        found = (
            measure_seconds(case, options.forms, options) if what == "seconds"
            else measure_memory(case, options.forms[0], options)
        )  # fmt: skip
        return print(json.dumps(found))
    what = "output and gradients" if options.backward else "output"
    print(f"attention, {what}, {options.dtype}, compiler: {options.compiler}\n")
    print("| batch x heads x length x size | form | seconds | of torch | extra MB |")
    print("|---|---|---|---|---|")
    for case in options.cases:
        for line in rows(case, options):
            print(line, flush=True)


if __name__ == "__main__":
    main()
