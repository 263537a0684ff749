"""Peak memory and seconds of loading SD 1.5's UNet from a single file, by dtype.

A file with random weights of the published names and shapes is written first (1.7 GB in float16).

    python -m benchmarks.loading                          # a float16 file into each dtype
    python -m benchmarks.loading --dtypes bfloat16
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

MEASURE = """
import math, sys, time
from benchmarks.process import memory
from kerasdiff.checkpoints.files import open_tensors
from kerasdiff.checkpoints.load import load
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.layers import uninitialized

before, start = memory() / 2**30, time.perf_counter()
with uninitialized():
    model = DiffusionModel(dtype=sys.argv[2])
built = time.perf_counter() - start
load(model, open_tensors(sys.argv[1]))
seconds = time.perf_counter() - start
size = sum(math.prod(v.shape) for v in model.variables) * (4 if sys.argv[2] == "float32" else 2)
size, after = size / 2**30, memory() / 2**30
print(f"| {sys.argv[2]} | {size:.2f} | {before:.2f} | {after:.2f} | {built:.1f} | {seconds:.1f} |")
"""


def write_file(path):
    """Random float16 weights of the UNet, written one tensor at a time."""
    from kerasdiff.checkpoints.load import state
    from kerasdiff.checkpoints.safetensor_files import write_safetensors
    from kerasdiff.checkpoints.tensors import LazyTensor, Tensors
    from kerasdiff.diffusion_model import DiffusionModel
    from kerasdiff.layers import uninitialized

    with uninitialized():
        shapes = state(DiffusionModel(dtype="float16")).shapes
    draw = np.random.default_rng(0).standard_normal

    def lazy(shape):
        return LazyTensor(
            shape, np.dtype("float16"), lambda: (0.02 * draw(shape, "float32")).astype("float16")
        )

    write_safetensors(path, Tensors(path, {name: lazy(shape) for name, shape in shapes.items()}))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "float16"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "unet.safetensors"
        write_file(path)
        print("SD 1.5's UNet from a float16 file; GiB and seconds\n")
        print("| dtype | weights | peak before | peak after | building, s | in all, s |")
        print("|---|---|---|---|---|---|")
        for dtype in options.dtypes:
            subprocess.run([sys.executable, "-c", MEASURE, path, dtype], check=True)


if __name__ == "__main__":
    main()
