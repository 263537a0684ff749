"""What recomputation costs and saves: seconds a step and peak memory, each in its own process.

KERAS_BACKEND=tensorflow python -m benchmarks.remat
"""

import argparse
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

WIDTH, SIDE, BATCH, STEPS = 64, 64, 8, 3


def measure(remat, jit_compile):
    """Prints seconds of the fastest step and the process' peak in MiB, before and after."""
    import keras
    import numpy as np

    from kerasdiff.configs import TINY
    from kerasdiff.diffusion_model import DiffusionModel
    from kerasdiff.training.diffusion import DiffusionTrainer
    from kerasdiff.training.runs.networks import recomputation

    keras.utils.set_random_seed(0)
    config = TINY["sd1"]
    network = replace(
        config.diffusion_model, channels=(WIDTH, 2 * WIDTH), layers_per_block=(2, 2), heads=(2, 4)
    )
    config = replace(config, diffusion_model=network)
    with recomputation(config) if remat else nullcontext():
        model = DiffusionModel(network)
    trainer = DiffusionTrainer(config, model)
    trainer.compile(optimizer=keras.optimizers.SGD(1e-3), jit_compile=jit_compile)
    rng = np.random.default_rng(0)
    batch = {
        "latents": rng.standard_normal((BATCH, SIDE, SIDE, 4), "float32"),
        "noise": rng.standard_normal((BATCH, SIDE, SIDE, 4), "float32"),
        "timesteps": rng.integers(0, 1000, BATCH).astype("int32"),
        "context": rng.standard_normal((BATCH, 77, network.context_dim), "float32"),
    }
    before, seconds = _peak(), []
    for _ in range(STEPS):
        begin = time.perf_counter()
        loss = float(trainer.train_on_batch(batch))
        seconds.append(time.perf_counter() - begin)
    print(
        f"{min(seconds):6.2f} s   {_peak() - before:6.0f} MiB over {before:.0f}   loss {loss:.6f}"
    )


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    """Runs each case in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--jit", type=int, nargs="+", default=[0, 1], help="0, 1 or both")
    given = parser.parse_args()
    if given.case:
        measure(*(word == "1" for word in given.case))
        return
    for jit in given.jit:
        for remat in (0, 1):
            print(f"jit_compile={bool(jit)!s:5}  remat={bool(remat)!s:5}", end="  ", flush=True)
            case = ["--case", str(remat), str(jit)]
            subprocess.run([sys.executable, "-m", "benchmarks.remat", *case], check=True)


if __name__ == "__main__":
    main()
