"""This process: how its compiler is set up, and what Linux says of its memory."""

import os
from pathlib import Path


def set_up_compiler():
    """As `StableDiffusion` does, before the first tensor; but all is compiled anew."""
    from kerasdiff.backend import prepare_compiler  # who asks for memory alone needs no framework

    os.environ["KERASDIFF_KEEP_PROGRAMS"] = "0"
    prepare_compiler()


def memory(field="VmHWM"):
    """Resident memory in bytes: its peak (`"VmHWM"`) or what it is now (`"VmRSS"`)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
