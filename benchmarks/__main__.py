"""Runs every benchmark and writes benchmarks/RESULTS.md: `make bench`."""

import platform
import subprocess
import sys
import time
from pathlib import Path

RUNS = (
    ("jit_compile",),
    ("attention",),
    ("attention", "--backward", "--cases", "2x8x4096x40", "1x8x16384x40"),
    ("loading",),
    ("training", "--batch", "48", "--steps", "8"),
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
    for name, *arguments in RUNS:
        command = ["-m", f"benchmarks.{name}", *arguments]
        print("python", *command, flush=True)
        done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{name} failed")
        parts.append(f"## `python {' '.join(command)}`\n\n{done.stdout.strip()}\n")
    TARGET.write_text("\n".join(parts))
    print(TARGET)


if __name__ == "__main__":
    main()
