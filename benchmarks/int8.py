"""The network of a guided step of SD 1.5 with weights in int8, float32 and bfloat16.

All start from the same random weights and take turns; medians count. "weights" are the network's,
"off" is the relative error of its output against float32's.

    python -m benchmarks.int8                    # 256x256
    python -m benchmarks.int8 --side 512 --repeats 3
"""

import argparse
import math

import keras
import numpy as np

from benchmarks.process import set_up_compiler
from benchmarks.unet_step import make_inputs, medians
from kerasdiff.backend import Program, device
from kerasdiff.checkpoints.load import load, state
from kerasdiff.checkpoints.models import kept_in_float
from kerasdiff.configs import SD1
from kerasdiff.diffusion_model import DiffusionModel, timestep_embedding
from kerasdiff.layers import quantize, uninitialized

KINDS = {  # name: dtype, int8
    "float32": ("float32", False),
    "bfloat16": ("bfloat16", False),
    "int8, computed in float32": ("float32", True),
    "int8, computed in bfloat16": ("bfloat16", True),
}


def network(dtype, int8, like):
    """A UNet of some kind with the weights of another."""
    with uninitialized():
        model = DiffusionModel(SD1.diffusion_model, dtype=dtype)
        if int8:
            quantize(model, kept_in_float(SD1.diffusion_model))
    load(model, state(like))
    return model


def step(model, given):
    """A function that runs the network on two rows, to float32."""
    latent = np.concatenate([given["latent"]] * 2)
    width = SD1.diffusion_model.channels[0]
    embedded = timestep_embedding(np.float32([500, 500]), width)
    inputs = {"latent": latent, "timestep_embedding": embedded, "context": given["context"]}
    program = Program(lambda inputs: model(inputs, training=False), model)
    return lambda: keras.ops.convert_to_numpy(keras.ops.cast(program(inputs), "float32"))


def size(model):
    """Of all weights, in GB."""
    width = {"float32": 4, "bfloat16": 2, "int8": 1}
    return sum(math.prod(v.shape) * width[v.dtype] for v in model.variables) / 1e9


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=256, help="of the picture, in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    options = parser.parse_args()
    set_up_compiler()
    keras.utils.set_random_seed(options.seed)
    exact = DiffusionModel(SD1.diffusion_model)
    models = {name: network(*kind, exact) for name, kind in KINDS.items()}
    given = make_inputs(SD1, options.side, 1)
    steps = {name: step(model, given) for name, model in models.items()}
    outputs = {name: run() for name, run in steps.items()}
    found = medians(steps, options.repeats)
    print(f"sd1, {options.side}x{options.side}, {keras.backend.backend()} on {device()}\n")
    print("| | seconds | of bfloat16 | weights, GB | off |\n|---|---|---|---|---|")
    for name, (_, seconds) in found.items():
        off = np.linalg.norm(outputs[name] - outputs["float32"])
        off = off / np.linalg.norm(outputs["float32"])
        share = seconds / found["bfloat16"][1]
        weights = f"{size(models[name]):.2f}"
        print(f"| {name} | {seconds:.2f} | {share:.2f} | {weights} | {100 * off:.2f} % |")


if __name__ == "__main__":
    main()
