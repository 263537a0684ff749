"""Runs every benchmark and writes benchmarks/RESULTS.md: `make bench`."""

import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

ATTENTION = (
    "--forms chunked torch --cases 2x8x4096x40 2x10x4096x64 2x8x4096x80 1x8x16384x40 1x8x16384x80"
)
BACKWARD = (
    "--backward --forms chunked torch --cases 2x8x4096x40 2x8x4096x80 1x8x16384x40 1x8x16384x80"
)
RUNS = (  # Keras' backend and a command
    ("tensorflow", "unet_step"),
    ("tensorflow", "unet_step --dtype bfloat16"),
    ("openvino", "unet_step"),
    ("tensorflow", "jit_compile"),
    ("tensorflow", "products"),
    ("tensorflow", f"attention {ATTENTION}"),
    ("tensorflow", "attention --cases 1x1x4096x40 1x1x16384x40 1x1x32768x40 1x1x65536x40"),
    ("tensorflow", f"attention {BACKWARD}"),
    ("tensorflow", f"attention --dtype bfloat16 {ATTENTION}"),
    ("tensorflow", f"attention --dtype bfloat16 {BACKWARD}"),
    ("tensorflow", "fewer_operations"),
    ("tensorflow", "fewer_operations --model full --steps 8"),
    (
        "tensorflow",
        "fewer_operations --model full --steps 20 "
        "--cases 'every 4th step, guidance for sigma 1 to 10'",
    ),
    ("tensorflow", "int8"),
    ("tensorflow", "loading"),
    ("tensorflow", "start"),
    ("tensorflow", "memory"),
    ("tensorflow", "growth"),
    ("tensorflow", "picture --repeats 1"),
    ("tensorflow", "picture --dtype float32 --repeats 1"),
    ("tensorflow", "export --model demo --steps 10"),
    ("tensorflow", "training --batch 48 --steps 8"),
)
TARGET = Path(__file__).with_name("RESULTS.md")


def machine():
    """The processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    return f"{len(names) or '?'} x {names[0] if names else platform.processor()}"


def main():
    parts = [f"# Results\n\nWritten by `make bench`, {time.strftime('%Y-%m-%d')}, {machine()}.\n"]
    for backend, run in RUNS:
        command = ["-m", *shlex.split(f"benchmarks.{run}")]
        title = f"KERAS_BACKEND={backend} python {shlex.join(command)}"
        print(title, flush=True)
        done = subprocess.run(
            [sys.executable, *command], stdout=subprocess.PIPE, text=True,
            env=os.environ | {"KERAS_BACKEND": backend},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{run} failed")
        parts.append(f"## `{title}`\n\n{done.stdout.strip()}\n")
    TARGET.write_text("\n".join(parts))
    print(TARGET)


if __name__ == "__main__":
    main()
