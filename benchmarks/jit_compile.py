"""Is XLA worth its compilation on this machine? The table behind `jit_compile="auto"`.

Times one guided step of a UNet as a compiled loop, with XLA, without and by "auto" (which may have
XLA compile parts) by turns, in each dtype, and prints seconds for the first call (with compilation)
and the median of later ones.

    python -m benchmarks.jit_compile                  # SD 1.5 at 256x256
    python -m benchmarks.jit_compile --side 64 --dtypes float32 bfloat16
"""

import argparse

import keras
import numpy as np

from benchmarks.process import set_up_compiler
from benchmarks.unet_step import medians
from kerasdiff import sampling
from kerasdiff.backend import Program, device
from kerasdiff.configs import SD1
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.samplers import make_table


def stepper(model, jit_compile, side):
    """A function that takes a step."""
    program = Program(
        lambda *arguments: sampling.loop(model, *arguments, "batched"), model, jit_compile
    )
    shape = (1, side // 8, side // 8, 4)
    table = make_table(SD1.schedule, 4, sampler="ddim")
    rows = sampling.pad_rows(table, 7.5)
    carry = sampling.new_carry(np.random.default_rng(0).normal(size=shape))
    noise = sampling.pad_noise([], shape)
    inputs = {"context": np.zeros((2, 77, 768), "float32"), "guidance_rescale": np.float32(0)}

    def step():
        after = program(rows, np.int32(0), np.int32(1), carry, noise, inputs)
        keras.ops.convert_to_numpy(after.x)

    return step


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=256, help="of the picture, in pixels")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    set_up_compiler()
    where = f"{keras.backend.backend()} on {device()}, {options.side}x{options.side}"
    print(f"one guided step of SD 1.5, {where}\n")
    print("| dtype | XLA | first call, s | later calls, s |\n|---|---|---|---|")
    for dtype in options.dtypes:
        model = DiffusionModel(SD1.diffusion_model, dtype=dtype)
        ways = {"yes": True, "no": False, "auto": "auto"}
        steps = {how: stepper(model, way, options.side) for how, way in ways.items()}
        for how, (first, later) in medians(steps, options.repeats).items():
            print(f"| {dtype} | {how} | {first:.1f} | {later:.2f} |")


if __name__ == "__main__":
    main()
