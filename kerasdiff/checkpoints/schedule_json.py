"""The scheduler config of a diffusers folder, both ways.

A config names the class that samples by default, and may carry fields of other classes, which
diffusers keeps for when the sampler is changed. So do we: those that `ScheduleConfig` knows are
read for whichever class, while a field that no longer leads to a table of weights is refused only
where the class in charge has it.
"""

import math
from dataclasses import fields as fields_of

from kerasdiff.checkpoints.config_fields import DIFFUSERS_RECORDS, Fields, is_integer, is_number
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.configs import (
    BETA_SCHEDULES,
    FINAL_SIGMAS,
    FIXED_VARIANCES,
    PREDICTION_TYPES,
    SIGMA_SPACINGS,
    SOLVER_TYPES,
    TIMESTEP_SPACINGS,
    ScheduleConfig,
)

MAX_TIMESTEPS = 100_000
COMMON = (
    "num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type "
    "timestep_spacing steps_offset "
)
SIGMAS = "use_karras_sigmas use_exponential_sigmas use_beta_sigmas "
CLIPS = "clip_sample clip_sample_range "
THRESHOLDS = "thresholding dynamic_thresholding_ratio sample_max_value "
MULTISTEP = (
    "solver_order solver_type lower_order_final use_flow_sigmas flow_shift final_sigmas_type "
    "rescale_betas_zero_snr use_dynamic_shifting time_shift_type "
)
DISTILLED = "original_inference_steps timestep_scaling set_alpha_to_one rescale_betas_zero_snr "
CLASSES = {  # the fields of each class of diffusers
    name: (COMMON + own).split()
    for name, own in {
        "DDIMScheduler": CLIPS + THRESHOLDS + "set_alpha_to_one rescale_betas_zero_snr",
        "DDPMScheduler": CLIPS + THRESHOLDS + "variance_type rescale_betas_zero_snr",
        "PNDMScheduler": "skip_prk_steps set_alpha_to_one",
        "LMSDiscreteScheduler": SIGMAS,
        "EulerDiscreteScheduler": SIGMAS + "interpolation_type sigma_min sigma_max timestep_type "
        "rescale_betas_zero_snr final_sigmas_type",
        "EulerAncestralDiscreteScheduler": "rescale_betas_zero_snr",
        "HeunDiscreteScheduler": SIGMAS + CLIPS,
        "KDPM2DiscreteScheduler": SIGMAS,
        "DPMSolverMultistepScheduler": SIGMAS + THRESHOLDS + MULTISTEP + "algorithm_type "
        "euler_at_final use_lu_lambdas lambda_min_clipped variance_type",
        "DPMSolverSDEScheduler": SIGMAS + "noise_sampler_seed",
        "UniPCMultistepScheduler": SIGMAS + THRESHOLDS + MULTISTEP + "predict_x0 "
        "disable_corrector solver_p sigma_min sigma_max shift_terminal",
        "LCMScheduler": CLIPS + THRESHOLDS + DISTILLED,
        "TCDScheduler": CLIPS + THRESHOLDS + DISTILLED,
    }.items()
}
SAMPLERS = {
    "ddim": "DDIMScheduler", "ddpm": "DDPMScheduler", "plms": "PNDMScheduler",
    "lms": "LMSDiscreteScheduler", "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler", "heun": "HeunDiscreteScheduler",
    "dpm2": "KDPM2DiscreteScheduler", "dpmpp_sde": "DPMSolverSDEScheduler",
    "unipc": "UniPCMultistepScheduler", "lcm": "LCMScheduler", "tcd": "TCDScheduler",
}  # fmt: skip
SOLVERS = {  # of DPMSolverMultistepScheduler: algorithm and order
    "dpmpp_2m": ("dpmsolver++", 2), "dpmpp_3m": ("dpmsolver++", 3),
    "dpmpp_2m_sde": ("sde-dpmsolver++", 2), "dpmpp_3m_sde": ("sde-dpmsolver++", 3),
}  # fmt: skip
MULTISTEP_CLASS = "DPMSolverMultistepScheduler"
DDPM_CLASS = "DDPMScheduler"

# Our names, where they differ; the rest of `ScheduleConfig` is called as in diffusers.
RENAMED = {
    "zero_terminal_snr": "rescale_betas_zero_snr", "spacing": "timestep_spacing",
    "final_sigma": "final_sigmas_type",
}  # fmt: skip
NOT_FIELDS = {"sampler", "sigma_spacing"}
HONOURED = {
    RENAMED.get(field.name, field.name): field.default
    for field in fields_of(ScheduleConfig)
    if field.name not in NOT_FIELDS
} | {
    "use_karras_sigmas": False, "use_exponential_sigmas": False,
    "algorithm_type": "dpmsolver++",
}  # fmt: skip
FIXED = {
    "clip_sample": (False,), "thresholding": (False,), "skip_prk_steps": (True,),
    "use_beta_sigmas": (False,), "use_flow_sigmas": (False,), "use_lu_lambdas": (False,),
    "use_dynamic_shifting": (False,), "interpolation_type": ("linear",),
    "timestep_type": ("discrete",), "predict_x0": (True,), "solver_p": (None,),
    "shift_terminal": (None,), "noise_sampler_seed": (None,), "lambda_min_clipped": (-math.inf,),
}  # fmt: skip
NO_EFFECT = DIFFUSERS_RECORDS | {
    "clip_sample_range": "belongs to `clip_sample`, which must be off",
    "dynamic_thresholding_ratio": "belongs to `thresholding`, which must be off",
    "sample_max_value": "belongs to `thresholding`, which must be off",
    "flow_shift": "belongs to `use_flow_sigmas`, which must be off",
    "time_shift_type": "belongs to `use_dynamic_shifting`, which must be off",
}
# Written for every class, as published checkpoints do: samplers that diffusers is switched to read
# them, and its defaults are not Stable Diffusion's.
SPOKEN = {"clip_sample", "skip_prk_steps", "set_alpha_to_one", "steps_offset"}
FOREIGN = "belongs to another sampler's class"

LINEAR = {"beta_schedule": "linear", "steps_offset": 0}
PIXELS = LINEAR | {"beta_start": 0.0001, "beta_end": 0.02}
CLEAN_END = {"set_alpha_to_one": True}
DEFAULTS = {  # of each class, where they differ from those of `ScheduleConfig` and `FIXED`
    "DDIMScheduler": PIXELS | CLEAN_END | {"clip_sample": True},
    "DDPMScheduler": PIXELS | {"clip_sample": True},
    "PNDMScheduler": PIXELS | {"skip_prk_steps": False},
    "HeunDiscreteScheduler": LINEAR,
    "KDPM2DiscreteScheduler": LINEAR,
    "DPMSolverSDEScheduler": LINEAR,
    "LCMScheduler": {"steps_offset": 0} | CLEAN_END,
    "TCDScheduler": {"steps_offset": 0} | CLEAN_END,
}


def schedule_config(json):
    """Parse `scheduler/scheduler_config.json`.

    A field that is absent has the default of the class in diffusers. So DDIM and DDPM without
    `clip_sample`, and PNDM without `skip_prk_steps`, ask for what no table of weights can say, and
    are refused; pipelines of Stable Diffusion 1 and 2 switch clipping off (see `pipeline_config`).

    Raises:
        CheckpointError: naming the class or the field that cannot be honoured.
    """
    kind = json.get("_class_name") if isinstance(json, dict) else None
    if not isinstance(kind, str) or kind not in CLASSES:
        raise CheckpointError(
            f"`_class_name` of scheduler must be one of {', '.join(CLASSES)}, not {kind!r:.80}"
        )
    defaults = DEFAULTS.get(kind, PIXELS)
    fixed = {name: FIXED[name] for name in CLASSES[kind] if name in FIXED}
    fixed["_class_name"] = (kind,)
    foreign = dict.fromkeys(FIXED.keys() - fixed.keys(), FOREIGN)
    unsaid = {name: defaults[name] for name in fixed if name in defaults and name not in json}
    fields = Fields(
        "scheduler", unsaid | json, HONOURED | _known(defaults), fixed, NO_EFFECT | foreign
    )
    spacing = fields.choice("timestep_spacing", (None, *TIMESTEP_SPACINGS))
    return ScheduleConfig(
        **_betas(fields),
        **_solver(fields, kind),
        prediction_type=fields.choice("prediction_type", PREDICTION_TYPES),
        spacing=spacing,
        sigma_spacing=_sigma_spacing(fields),
        sigma_min=fields.number("sigma_min", 1e-6, 1e6, optional=True),
        sigma_max=fields.number("sigma_max", 1e-6, 1e6, optional=True),
        steps_offset=fields.integer("steps_offset", 0, MAX_TIMESTEPS),
        set_alpha_to_one=fields.flag("set_alpha_to_one"),
        final_sigma=fields.choice("final_sigmas_type", FINAL_SIGMAS),
        original_inference_steps=fields.integer("original_inference_steps", 1, MAX_TIMESTEPS),
        timestep_scaling=fields.number("timestep_scaling", 0.0, 1e6),
    )


def schedule_json(config):
    """The `scheduler_config.json` that diffusers opens; `schedule_config` reversed."""
    kind = MULTISTEP_CLASS if config.sampler in SOLVERS else SAMPLERS.get(config.sampler)
    if kind is None:
        raise CheckpointError(f"`sampler` {config.sampler!r} has no scheduler class in diffusers")
    ours = {
        RENAMED.get(field.name, field.name): (getattr(config, field.name), field.default)
        for field in fields_of(config)
        if field.name not in NOT_FIELDS
    }
    own = CLASSES[kind]
    table = {
        name: list(value) if isinstance(value, tuple) else value
        for name, (value, default) in ours.items()
        if value is not None and (name in own or name in SPOKEN or value != default)
    }
    table |= {name: FIXED[name][0] for name in FIXED if name in own or name in SPOKEN}
    for name in SIGMA_SPACINGS:
        if f"use_{name}_sigmas" in own or config.sigma_spacing == name:
            table[f"use_{name}_sigmas"] = config.sigma_spacing == name
    if kind == MULTISTEP_CLASS:
        table["algorithm_type"], table["solver_order"] = SOLVERS[config.sampler]
    return {"_class_name": kind} | table


def _known(defaults):
    return {name: value for name, value in defaults.items() if name in HONOURED}


def _betas(fields):
    count = fields.integer("num_train_timesteps", 1, MAX_TIMESTEPS)
    betas = fields["trained_betas"]
    if betas is not None:
        what = "numbers between 0 and 1"
        betas = fields.items(
            "trained_betas", what, lambda item: is_number(item, 1e-12, 1.0), MAX_TIMESTEPS
        )
        if len(betas) != count:
            fields.refuse("trained_betas", len(betas), f"`num_train_timesteps` = {count} numbers")
    start, end = (fields.number(name, 1e-12, 0.999999) for name in ("beta_start", "beta_end"))
    if start > end:
        fields.refuse("beta_start", start, f"at most `beta_end` = {end}")
    return {
        "num_train_timesteps": count,
        "beta_start": start,
        "beta_end": end,
        "beta_schedule": fields.choice("beta_schedule", BETA_SCHEDULES),
        "trained_betas": betas,
        "zero_terminal_snr": fields.flag("rescale_betas_zero_snr"),
    }


def _solver(fields, kind):
    """The sampler, and what multistep solvers and DDPM's variance are told."""
    order = fields.integer("solver_order", 1, 3)
    sampler = next((name for name, owner in SAMPLERS.items() if owner == kind), None)
    if kind == MULTISTEP_CLASS:
        known = {algorithm for algorithm, _ in SOLVERS.values()}
        algorithm = fields.choice("algorithm_type", sorted(known))
        names = {solver: name for name, solver in SOLVERS.items()}
        if (algorithm, order) not in names:
            fields.refuse("solver_order", order, f"2 or 3 with `algorithm_type` {algorithm!r}")
        sampler, order = names[algorithm, order], ScheduleConfig.solver_order
    variance = fields["variance_type"]
    if kind == DDPM_CLASS or variance is not None:
        variance = fields.choice("variance_type", FIXED_VARIANCES)
    return {
        "sampler": sampler,
        "solver_order": order,
        "solver_type": fields.choice("solver_type", SOLVER_TYPES),
        "lower_order_final": fields.flag("lower_order_final"),
        "euler_at_final": fields.flag("euler_at_final"),
        "disable_corrector": _steps(fields, "disable_corrector"),
        "variance_type": variance or ScheduleConfig.variance_type,
    }


def _steps(fields, name):
    value = fields[name]
    if value in ([], ()):
        return ()
    return fields.items(name, "steps", lambda item: is_integer(item, 0, MAX_TIMESTEPS), 1000)


def _sigma_spacing(fields):
    chosen = [name for name in SIGMA_SPACINGS if fields.flag(f"use_{name}_sigmas")]
    if len(chosen) == 2:
        fields.refuse("use_exponential_sigmas", True, "false where `use_karras_sigmas` is true")
    return chosen[0] if chosen else None
