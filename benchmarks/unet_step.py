"""One guided step of the UNet beside diffusers with torch and beside OpenVINO, in one run.

Every contender has a network of the published size with random weights; they take turns, and the
medians count. Keras' backend is ours (`KERAS_BACKEND=jax` on an accelerator, where torch runs too,
compiled by `torch.compile` with --compile).

    python -m benchmarks.unet_step                                   # SD 1.5 at 512x512
    python -m benchmarks.unet_step --family sdxl --side 1024 --dtype bfloat16 --compile
    python -m benchmarks.unet_step --side 256 --contenders kerasdiff diffusers
"""

import argparse
import statistics
import time

import keras
import numpy as np

from benchmarks.process import set_up_compiler
from kerasdiff.backend import Program, device
from kerasdiff.checkpoints.diffusers_configs import to_json
from kerasdiff.configs import FAMILIES
from kerasdiff.denoiser import denoise
from kerasdiff.diffusion_model import DiffusionModel


def make_inputs(config, side, batch):
    """Numbers of the sizes of one step: `latent` of B rows, and 2B rows of the rest."""
    rng, network = np.random.default_rng(0), config.diffusion_model
    small = side // config.autoencoder.factor
    given = {
        "latent": rng.standard_normal((batch, small, small, network.in_channels), "float32"),
        "context": rng.standard_normal((2 * batch, 77, network.context_dim), "float32"),
    }
    if network.added_embed_dim:
        pooled = network.added_embed_dim - 6 * network.size_embed_dim
        given["pooled"] = rng.standard_normal((2 * batch, pooled), "float32")
    return given


def ours(config, given, dtype, jit_compile):
    """A function that makes a step, latents in and denoised latents out."""
    model = DiffusionModel(config.diffusion_model, dtype=dtype)
    inputs = {"context": given["context"], "guidance_rescale": np.float32(0)}
    if "pooled" in given:
        shape = (len(given["pooled"]), config.diffusion_model.added_embed_dim)
        inputs["added_embedding"] = np.zeros(shape, "float32")

    def step(x, inputs):
        return denoise(model, x, (1.0, 1.0, -1.0, 500.0), 7.5, inputs, "batched")

    program = Program(step, model, jit_compile)
    return lambda: keras.ops.convert_to_numpy(program(given["latent"], inputs))


def torch_network(config, given, dtype):
    """diffusers' UNet and its arguments on the device that torch prefers."""
    import torch
    from diffusers import UNet2DConditionModel

    where = "cuda" if torch.cuda.is_available() else "cpu"
    fields = to_json(config)["unet"]
    with torch.device(where):
        unet = UNet2DConditionModel.from_config(fields).to(getattr(torch, dtype)).eval()

    def tensor(name):
        return torch.from_numpy(given[name]).to(where, unet.dtype)

    latent = tensor("latent").permute(0, 3, 1, 2)
    arguments = [torch.cat([latent, latent]), torch.tensor(500, device=where), tensor("context")]
    added = {}
    if "pooled" in given:
        sizes = torch.tensor([[1024, 1024, 0, 0, 1024, 1024]], device=where)
        added = {"text_embeds": tensor("pooled"), "time_ids": sizes.repeat(len(arguments[0]), 1)}
    return unet, arguments, added


def torch_step(unet, arguments, added):
    """A guided step of diffusers' UNet, latents in and the prediction on the host."""
    import torch

    def step():
        with torch.inference_mode():
            found = unet(*arguments, added_cond_kwargs=added or None, return_dict=False)[0]
            negative, positive = found.chunk(2)
            return (negative + 7.5 * (positive - negative)).float().cpu().numpy()

    return step


def diffusers(config, given, dtype, compiles):
    """As `ours`, by diffusers, whose attention is torch's own."""
    import torch

    unet, arguments, added = torch_network(config, given, dtype)
    return torch_step(torch.compile(unet) if compiles else unet, arguments, added)


def openvino(config, given, dtype):
    """As `ours`, by OpenVINO from diffusers' network."""
    import openvino as ov
    import torch

    unet, arguments, added = torch_network(config, given, "float32")
    if added:
        raise SystemExit("OpenVINO is compared for networks without added embeddings")
    with torch.inference_mode():
        model = ov.convert_model(unet, example_input=tuple(arguments))
    del unet
    hint = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[dtype]
    compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    arrays = [argument.numpy() for argument in arguments]

    def step():
        negative, positive = np.split(compiled(arrays)[0], 2)
        return negative + 7.5 * (positive - negative)

    return step


def medians(steps, repeats):
    """Seconds of the first call and the median of later ones, of functions that take turns."""
    seconds = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begin)
    return {name: (first, statistics.median(later)) for name, (first, *later) in seconds.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", default="sd1", choices=FAMILIES)
    parser.add_argument("--side", type=int, default=512, help="of the picture, in pixels")
    parser.add_argument("--batch", type=int, default=1, help="pictures; guidance doubles them")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile for diffusers")
    names = ("kerasdiff", "diffusers", "openvino")
    parser.add_argument("--contenders", nargs="+", default=names, choices=names)
    options = parser.parse_args()
    set_up_compiler()
    config = FAMILIES[options.family]
    given = make_inputs(config, options.side, options.batch)
    steps = {}
    if "kerasdiff" in options.contenders:
        name = f"kerasdiff, {keras.backend.backend()}"
        steps[name] = ours(config, given, options.dtype, "auto")
    if "diffusers" in options.contenders:
        name = "diffusers, torch.compile" if options.compile else "diffusers, torch"
        steps[name] = diffusers(config, given, options.dtype, options.compile)
    if "openvino" in options.contenders:
        steps["OpenVINO"] = openvino(config, given, options.dtype)
    print(f"{options.family}, {options.side}x{options.side}, {options.dtype}, on {device()}\n")
    print("| | first call, s | later calls, s | of diffusers |\n|---|---|---|---|")
    found = medians(steps, options.repeats)
    peers = [later for name, (_, later) in found.items() if name.startswith("diffusers")]
    for name, (first, later) in found.items():
        share = f"{later / peers[0]:.2f}" if peers else ""
        print(f"| {name} | {first:.2f} | {later:.3f} | {share} |")


if __name__ == "__main__":
    main()
