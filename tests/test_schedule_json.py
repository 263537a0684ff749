"""Every field of a scheduler's config is honoured, refused by name, or without effect."""

import json
from dataclasses import replace

import pytest
from config_changes import SCHEDULER_CHANGES

from kerasdiff.checkpoints.diffusers_configs import pipeline_config, to_json
from kerasdiff.checkpoints.schedule_json import (
    CLASSES,
    FIXED,
    HONOURED,
    SAMPLERS,
    SOLVERS,
    schedule_config,
)
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.configs import SD2, SDXL, TINY


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("field", SCHEDULER_CHANGES)
def test_a_changed_scheduler_field_gives_another_schedule_or_an_error(kind, field):
    switches = {"clip_sample": False, "skip_prk_steps": True, "set_alpha_to_one": False}
    table = {"_class_name": kind} | switches
    before = schedule_config(table)
    try:
        after = schedule_config(table | {field: SCHEDULER_CHANGES[field]})
    except CheckpointError as error:
        assert f"`{field}`" in str(error)
    else:
        assert after != before or field not in CLASSES[kind]


@pytest.mark.parametrize("sampler", [*SAMPLERS, *SOLVERS])
def test_every_sampler_survives_with_its_options(sampler):
    schedule = replace(
        SDXL.schedule, sampler=sampler, spacing="trailing", sigma_spacing="karras", sigma_min=0.1,
        sigma_max=9.0, steps_offset=0, set_alpha_to_one=True, final_sigma="sigma_min",
        solver_type="heun", lower_order_final=False, euler_at_final=True, disable_corrector=(0,),
        variance_type="fixed_large", original_inference_steps=20, timestep_scaling=5.0,
        zero_terminal_snr=True, prediction_type="sample", trained_betas=(0.01,) * 1000,
    )  # fmt: skip
    config = replace(TINY["sdxl"], schedule=schedule)
    assert pipeline_config(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    "algorithm, order, sampler",
    [("dpmsolver++", 2, "dpmpp_2m"), ("dpmsolver++", 3, "dpmpp_3m"),
     ("sde-dpmsolver++", 2, "dpmpp_2m_sde"), ("sde-dpmsolver++", 3, "dpmpp_3m_sde")],
)  # fmt: skip
def test_a_multistep_solver_is_told_by_algorithm_and_order(algorithm, order, sampler):
    table = {
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": algorithm,
        "solver_order": order,
    }
    assert schedule_config(table).sampler == sampler


@pytest.mark.parametrize("change", [{"algorithm_type": "dpmsolver"}, {"solver_order": 1}])
def test_other_multistep_solvers_are_refused(change):
    with pytest.raises(CheckpointError, match=f"`{next(iter(change))}`"):
        schedule_config({"_class_name": "DPMSolverMultistepScheduler"} | change)


@pytest.mark.parametrize(
    "kind, field",
    [("DDIMScheduler", "clip_sample"), ("DDPMScheduler", "clip_sample"),
     ("PNDMScheduler", "skip_prk_steps")],
)  # fmt: skip
def test_defaults_that_no_table_can_say_are_refused(kind, field):
    with pytest.raises(CheckpointError, match=f"`{field}`"):
        schedule_config({"_class_name": kind})


def test_absent_fields_have_the_defaults_of_diffusers():
    schedule = schedule_config({"_class_name": "EulerDiscreteScheduler"})
    assert (schedule.beta_start, schedule.beta_schedule) == (0.0001, "linear")
    assert schedule.spacing is None and schedule.steps_offset == 0


def test_every_field_that_is_read_is_among_the_changes():
    assert HONOURED.keys() | FIXED.keys() <= SCHEDULER_CHANGES.keys()
    assert HONOURED.keys() | FIXED.keys() <= {name for own in CLASSES.values() for name in own}


@pytest.mark.parametrize("json", [{}, {"_class_name": "DEISMultistepScheduler"}, [], None, "x"])
def test_other_classes_are_refused_by_name(json):
    with pytest.raises(CheckpointError, match="`_class_name`"):
        schedule_config(json)


@pytest.mark.parametrize(
    "field, value",
    [("beta_start", 0.5), ("trained_betas", [0.1]), ("trained_betas", [2.0] * 1000),
     ("steps_offset", -1), ("prediction_type", "flow_prediction"), ("solver_order", 4),
     ("timestep_spacing", "quadratic"), ("beta_schedule", "sigmoid"), ("disable_corrector", 3),
     ("variance_type", "learned_range"), ("use_karras_sigmas", 1), ("mystery", None)],
)  # fmt: skip
def test_values_that_no_schedule_has_are_refused(field, value):
    with pytest.raises(CheckpointError, match=f"`{field}`"):
        schedule_config({"_class_name": "UniPCMultistepScheduler", field: value})


def test_fields_of_other_classes_are_kept_for_a_change_of_sampler_and_never_in_the_way():
    euler = {"_class_name": "EulerDiscreteScheduler"}
    foreign = {"clip_sample": True, "skip_prk_steps": False, "sample_max_value": 1.0}
    assert schedule_config(euler | foreign) == schedule_config(euler)
    assert schedule_config(euler | {"set_alpha_to_one": True}).set_alpha_to_one


def test_published_schedulers_of_stable_diffusion_2_and_xl_are_the_presets():
    # as in the repositories of 2.1 and XL base 1.0, with their fields of other classes
    common = {
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False,
        "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
    }  # fmt: skip
    ddim = {"_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0"}
    assert schedule_config(common | ddim | {"prediction_type": "v_prediction"}) == SD2.schedule
    euler = {
        "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0",
        "interpolation_type": "linear", "prediction_type": "epsilon", "sample_max_value": 1.0,
        "timestep_spacing": "leading", "use_karras_sigmas": False,
    }  # fmt: skip
    assert schedule_config(common | euler) == SDXL.schedule
