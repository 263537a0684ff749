"""Matrices and convolutions as Keras' operations and in the other forms of `layers.products`.

By XLA, in float32, at every size asked for, also where the models would not take them; both take
turns, and medians count. "off" is the largest difference, as a part of the largest output.

    python -m benchmarks.products
    python -m benchmarks.products --matrices 8192x320x320 --convolutions 1x512x512x128x128
"""

import argparse

import keras
import numpy as np
from keras import ops

from benchmarks.process import set_up_compiler
from benchmarks.unet_step import medians
from kerasdiff.backend import Program, keep_freed_memory
from kerasdiff.layers.products import filtered, paired

MATRICES = (
    "8192x320x320 8192x320x2560 8192x1280x320 2048x640x640 512x1280x1280 1024x1024x1024 "
    "8192x128x128 8192x64x64"
)
CONVOLUTIONS = (
    "2x64x64x320x320 2x32x32x640x640 2x16x16x1280x1280 2x8x8x1280x1280 1x64x64x512x512 "
    "1x512x512x128x128 1x128x128x64x64"
)


def directly(x, kernel):
    return ops.conv(x, kernel, 1, "same", data_format="channels_last")


def compare(functions, shapes, repeats):
    """Median seconds of each function, and how far apart their outputs lie."""
    rng = np.random.default_rng(0)
    inputs = [ops.convert_to_tensor(rng.standard_normal(shape, "float32")) for shape in shapes]

    def program(function):
        def with_one_number(*inputs):  # what the host waits for
            outputs = function(*inputs)
            return outputs, ops.max(outputs)

        return Program(with_one_number, keras.layers.Identity())

    programs = [program(function) for function in functions]
    first, second = (ops.convert_to_numpy(each(*inputs)[0]) for each in programs)
    steps = {each: lambda each=each: float(each(*inputs)[1]) for each in programs}
    seconds = [later for _, later in medians(steps, repeats).values()]
    return seconds, np.abs(first - second).max() / np.abs(first).max()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--matrices", nargs="*", default=MATRICES.split(), metavar="RxIxO")
    parser.add_argument("--convolutions", nargs="*", default=CONVOLUTIONS.split(),
                        metavar="BxHxWxIxO", help="of 3x3")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    set_up_compiler()
    keep_freed_memory()  # as inside of a program that has many products
    print(f"{keras.backend.backend()}\n")
    print("| | plain, ms | other, ms | of plain | off |\n|---|---|---|---|---|")
    for case in [*options.matrices, *options.convolutions]:
        sizes = [int(size) for size in case.split("x")]
        square = [3, 3] if len(sizes) == 5 else []
        functions = (directly, filtered) if square else (ops.matmul, paired)
        shapes = sizes[:-1], square + sizes[-2:]
        (plain, other), off = compare(functions, shapes, options.repeats)
        print(
            f"| {case} | {1e3 * plain:.1f} | {1e3 * other:.1f} | {other / plain:.2f} | {off:.0e} |"
        )


if __name__ == "__main__":
    main()
