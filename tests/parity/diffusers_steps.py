"""Runs diffusers' own schedulers as its pipelines do, in float64, on the made-up network."""

import importlib
import sys
import types

import numpy as np
import torch

if "torchsde" not in sys.modules:
    # `DPMSolverSDEScheduler` needs it for its noise alone, which is given here.
    sys.modules["torchsde"] = types.ModuleType("torchsde")
    sys.modules["torchsde"].__spec__ = importlib.machinery.ModuleSpec("torchsde", None)

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_SDE = {"algorithm_type": "sde-dpmsolver++"}
SCHEDULERS = {
    "ddim": ("ddim.DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "ddpm": ("ddpm.DDPMScheduler", {"clip_sample": False}),
    "euler": ("euler_discrete.EulerDiscreteScheduler", {}),
    "euler_ancestral": ("euler_ancestral_discrete.EulerAncestralDiscreteScheduler", {}),
    "heun": ("heun_discrete.HeunDiscreteScheduler", {}),
    "dpm2": ("k_dpm_2_discrete.KDPM2DiscreteScheduler", {}),
    "lms": ("lms_discrete.LMSDiscreteScheduler", {}),
    "plms": ("pndm.PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "dpmpp_2m": ("dpmsolver_multistep.DPMSolverMultistepScheduler", {}),
    "dpmpp_3m": ("dpmsolver_multistep.DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpmpp_2m_sde": ("dpmsolver_multistep.DPMSolverMultistepScheduler", _SDE),
    "dpmpp_3m_sde": (
        "dpmsolver_multistep.DPMSolverMultistepScheduler",
        {**_SDE, "solver_order": 3},
    ),
    "dpmpp_sde": ("dpmsolver_sde.DPMSolverSDEScheduler", {}),
    "unipc": ("unipc_multistep.UniPCMultistepScheduler", {}),
    "lcm": ("lcm.LCMScheduler", {"set_alpha_to_one": False}),
    "tcd": ("tcd.TCDScheduler", {"set_alpha_to_one": False}),
}


def make_scheduler(sampler, foreign=None, **options):
    """diffusers' scheduler for one of our samplers.

    Args:
        foreign: a table of fields that may be another class's, as `from_config` takes them.
    """
    name, own = SCHEDULERS[sampler]
    file, kind = name.split(".")
    module = importlib.import_module(f"diffusers.schedulers.scheduling_{file}")
    scheduler = getattr(module, kind)(**{**BETAS, "steps_offset": 1, **own, **options})
    if foreign:
        config = {k: v for k, v in scheduler.config.items() if k != "_use_default_values"}
        scheduler = type(scheduler).from_config(config | foreign)
    return scheduler, module


def run_scheduler(scheduler, module, case, predict, eta=None):
    """(result, draws) of a pipeline's loop.

    Args:
        case: `steps`, `strength` (None from pure noise), `clean`, `noise`, `seed` and `mask`
            (None without inpainting).
    """
    torch.manual_seed(case["seed"])
    draws = []

    def draw(shape, **_):
        draws.append(torch.randn(tuple(shape)).double())
        return draws[-1]

    module.randn_tensor = draw
    scheduler.set_timesteps(case["steps"])
    for name in {"sigmas", "sigmas_interpol"} & vars(scheduler).keys():
        # Not to measure float32: Heun divides by the smallest sigma what the largest one scaled.
        setattr(scheduler, name, getattr(scheduler, name).double())
    clean, noise = torch.from_numpy(case["clean"]), torch.from_numpy(case["noise"])
    times, start = scheduler.timesteps, 0
    if case["strength"] is not None or case["mask"] is not None:
        kept = int(case["steps"] * (case["strength"] or 1.0))
        start = (case["steps"] - kept) * scheduler.order
        times = times[start:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)
    if case["strength"] is None:
        x = noise * float(scheduler.init_noise_sigma)
    else:
        x = scheduler.add_noise(clean, noise, times[:1])
    if hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = _brownian(draw, x.shape)
    if hasattr(scheduler, "derivatives") and start:
        # Its multistep weights of image to image count slopes that were never taken: let the
        # schedule begin where the run does.
        scheduler.sigmas, scheduler.timesteps = scheduler.sigmas[start:], times
        scheduler.set_begin_index(0)
    extra = {} if eta is None else {"eta": eta}
    for index, time in enumerate(times):
        scaled = scheduler.scale_model_input(x, time)
        output = torch.from_numpy(predict(scaled.numpy(), float(time)))
        x = scheduler.step(output, time, x, **extra).prev_sample
        if case["mask"] is not None:
            known = clean
            if index + 1 < len(times):
                known = scheduler.add_noise(clean, noise, times[index + 1 : index + 2])
                known = _halfway(scheduler, clean, noise, known)
            mask = torch.from_numpy(case["mask"])
            x = (1 - mask) * known + mask * x
    return x.numpy(), [d.numpy() for d in draws], np.asarray(scheduler.timesteps, "float64")


def _halfway(scheduler, clean, noise, known):
    """Halfway through a step, dpm2 and dpmpp_sde noise to the step's end, which is not where x is:
    what they should have known.
    """
    if not hasattr(scheduler, "mid_point_sigma") and not hasattr(scheduler, "sigmas_interpol"):
        return known
    if scheduler.state_in_first_order:
        return known
    if hasattr(scheduler, "mid_point_sigma"):
        return clean + noise * scheduler.mid_point_sigma
    return clean + noise * scheduler.sigmas_interpol[scheduler.step_index]


def _brownian(draw, shape):
    """Noise of a step's first half, then of all of it, from one Brownian motion in sigma."""
    first = []

    def sample(sigma, sigma_next):
        fresh = draw(shape)
        if not first:
            first.append((fresh, sigma - sigma_next))
            return fresh
        half, length = first.pop()
        shared = length / (sigma - sigma_next)
        return shared.sqrt() * half + (1 - shared).sqrt() * fresh

    return sample
