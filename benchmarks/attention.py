"""Seconds and extra peak memory of attention against length, plain and in chunks.

Each case runs in a process of its own. Extra memory is how far the peak resident size of that
process rises above its resident size just before the first full-size call, outputs included;
inputs, tracing and a small run before it are not counted. Seconds are medians of later calls.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

EXAMPLES = """examples:
  python -m benchmarks.attention                              Stable Diffusion's sizes, forward
  python -m benchmarks.attention --backward                   the same with gradients
  python -m benchmarks.attention --cases 1x8x65536x40 --forms chunked
  python -m benchmarks.attention --dtype bfloat16 --xla --repeats 5
"""
CASES = ("2x8x1024x80", "2x8x4096x40", "1x8x4096x40", "1x8x8192x40", "1x8x16384x40")


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
    parser.add_argument("--forms", nargs="+", default=("plain", "chunked"), metavar="FORM")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--backward", action="store_true", help="output and gradients")
    parser.add_argument("--xla", action="store_true", help="compile with XLA")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--query-chunk", type=int, default=512)
    parser.add_argument("--key-chunk", type=int, default=4096)
    parser.add_argument(
        "--plain-limit",
        type=float,
        default=4.5,
        help="skip the plain form over so many GB of scores",
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a case to measure in this process
    options = parser.parse_args(arguments)
    if unknown := set(options.forms) - {"plain", "chunked"}:
        parser.error(f"--forms must be plain or chunked, not {', '.join(sorted(unknown))}")
    for case in options.cases:
        parts = case.split("x")
        if len(parts) != 4 or not all(part.isdigit() and int(part) for part in parts):
            parser.error(f"--cases must look like 2x8x4096x40, not {case}")
    return options


def memory(field):
    """`VmRSS` (now) or `VmHWM` (peak) of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/self/status has no {field}")


def measure(case, form, options):
    """Prints the seconds and extra memory of one case, as JSON."""
    import numpy as np
    import tensorflow as tf

    from kerasdiff.attention import attention

    batch, heads, length, size = map(int, case.split("x"))
    small = max(64, length // 64)
    whole = (batch * heads * length, length)  # all scores at once: the plain form
    chunks = whole if form == "plain" else (options.query_chunk, options.key_chunk)

    def forward(*arrays):
        # The small run takes as many chunks as the full one, so that both do the same.
        shrink = length // arrays[0].shape[1]
        queries, keys = (max(1, chunk // shrink) for chunk in chunks)
        return attention(*arrays, query_chunk_size=queries, key_chunk_size=keys)

    def backward(*arrays):
        with tf.GradientTape() as tape:
            tape.watch(arrays)
            output = forward(*arrays)
        return output, tape.gradient(output, arrays)

    function = tf.function(
        backward if options.backward else forward, jit_compile=options.xla, autograph=False
    )

    def inputs(length):
        rng = np.random.default_rng(0)
        shape = (batch, length, heads, size)
        drawn = [rng.standard_normal(shape, "float32") for _ in range(3)]
        return [tf.cast(array, options.dtype) for array in drawn]

    def run(arrays):
        begin = time.perf_counter()
        for each in tf.nest.flatten(function(*arrays)):
            each.numpy()
        return time.perf_counter() - begin

    run(inputs(small))
    arrays = inputs(length)
    function.get_concrete_function(*arrays)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = memory("VmRSS")
    run(arrays)
    extra = memory("VmHWM") - before
    seconds = statistics.median(run(arrays) for _ in range(options.repeats))
    print(json.dumps({"seconds": seconds, "extra": extra}))


def measure_apart(case, form, options):
    """`measure` in a fresh process: a dict, or why there is none."""
    batch, heads, length, _ = map(int, case.split("x"))
    scores = batch * heads * length * length * 4 / 1e9
    if form == "plain" and scores > options.plain_limit:
        return f"skipped: its scores alone take {scores:.1f} GB"
    command = [sys.executable, "-m", "benchmarks.attention", "--one", case, "--forms", form]
    command += ["--dtype", options.dtype, "--repeats", str(options.repeats)]
    command += ["--query-chunk", str(options.query_chunk), "--key-chunk", str(options.key_chunk)]
    command += ["--backward"] * options.backward + ["--xla"] * options.xla
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        return f"failed with exit code {result.returncode}"
    return json.loads(result.stdout.splitlines()[-1])


def main(arguments=None):
    options = parse(arguments)
    if options.one:
        measure(options.one, options.forms[0], options)
        return
    what = "output and gradients" if options.backward else "output"
    compiler = "XLA" if options.xla else "graph"
    print(f"attention, {what}, {options.dtype}, {compiler}\n")
    print("| batch x heads x length x size | form | seconds | extra MB |\n|---|---|---|---|")
    for case in options.cases:
        for form in options.forms:
            found = measure_apart(case, form, options)
            if isinstance(found, str):
                print(f"| {case} | {form} | {found} | |", flush=True)
            else:
                print(
                    f"| {case} | {form} | {found['seconds']:.3f} | {found['extra']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
