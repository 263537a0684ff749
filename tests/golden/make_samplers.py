"""Writes `samplers.npz`: where diffusers' schedulers take a made-up network, and PyTorch's noise.

    python tests/golden/make_samplers.py

Needs torch and diffusers. Each case is a name "sampler steps spacing prediction strength mask".
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "parity")]

from diffusers_steps import SCHEDULERS, make_scheduler, run_scheduler  # noqa: E402
from table_run import network  # noqa: E402

SHAPE = (1, 2, 2, 4)


def cases():
    """A handful a sampler, over spacings, odd and even counts, predictions, starts and masks."""
    for sampler in SCHEDULERS:
        sigma = sampler not in ("ddim", "ddpm", "plms", "euler_ancestral", "lcm", "tcd")
        respaced = ("karras", "exponential") if sigma else ("leading", "trailing")
        yield sampler, 7, "leading", "epsilon", 1.0, 0
        yield sampler, 1, "leading", "v_prediction", 1.0, 0
        if sampler in ("lcm", "tcd"):
            yield sampler, 10, "leading", "v_prediction", 0.5, 1
            continue
        yield sampler, 10, "linspace", "v_prediction", 1.0, 1
        yield sampler, 7, "trailing", "epsilon", 0.6, 1
        yield sampler, 16, respaced[0], "epsilon", 1.0, 0
        yield sampler, 3, respaced[1], "v_prediction", 1.0, 1


def main():
    """Runs all cases and writes the file."""
    random = np.random.default_rng(11)
    clean, noise = random.normal(size=(2, *SHAPE))
    mask = np.broadcast_to(np.arange(4) >= 1, SHAPE).astype("float64")
    found = {"clean": clean, "noise": noise, "mask": mask}
    for sampler, steps, spacing, kind, strength, masked in cases():
        options = {"prediction_type": kind}
        if spacing in ("karras", "exponential"):
            options[f"use_{spacing}_sigmas"] = True
        else:
            options["timestep_spacing"] = spacing
        case = {
            "steps": steps, "strength": None if strength == 1.0 else strength, "clean": clean,
            "noise": noise, "seed": 5, "mask": mask if masked else None,
        }  # fmt: skip
        scheduler, module = make_scheduler(sampler, **options)
        latents, draws, _ = run_scheduler(scheduler, module, case, network)
        name = f"{sampler} {steps} {spacing} {kind} {strength} {masked}"
        found[name] = latents
        found[f"{name} draws"] = np.array(len(draws))
    np.savez_compressed(HERE / "samplers.npz", **found)


if __name__ == "__main__":
    main()
