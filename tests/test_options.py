"""Every option is checked before any work is done."""

from dataclasses import replace

import numpy as np
import pytest

from kerasdiff.configs import FAMILIES
from kerasdiff.options import (
    MAX_PICTURES,
    Options,
    check_batch_size,
    check_given,
    check_prompts,
    check_size,
    check_strength,
    finite_floats,
    options_of,
)


def test_defaults_are_the_checkpoints_and_those_of_most_are_keras_cvs():
    options = Options().with_defaults(FAMILIES["sd1"])
    assert (options.num_steps, options.unconditional_guidance_scale) == (50, 7.5)
    assert options.guided
    distilled = replace(FAMILIES["sd1"], num_steps=4, guidance_scale=1.0)
    options = Options().with_defaults(distilled)
    assert (options.num_steps, options.unconditional_guidance_scale) == (4, 1.0)
    assert not options.guided
    options = Options(3, 0.0).with_defaults(distilled)
    assert (options.num_steps, options.unconditional_guidance_scale) == (3, 0.0)


def test_guidance_of_one_or_less_is_off():
    assert not Options(unconditional_guidance_scale=1.0).guided
    assert not Options(unconditional_guidance_scale=0.0).guided


def test_picture_i_has_seed_plus_i():
    assert Options(seed=7).seeds(3) == [7, 8, 9]
    assert Options(seed=[5, 1]).seeds(2) == [5, 1]
    assert Options(seed=np.int64(2)).seeds(1) == [2]


def test_without_a_seed_runs_differ():
    assert Options().seeds(1) != Options().seeds(1)


@pytest.mark.parametrize("seed", (-1, 1.5, True, "3", 2**63))
def test_impossible_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="`seed` must be"):
        Options(seed=seed).seeds(1)


def test_the_last_picture_s_seed_must_be_possible_too():
    assert Options(seed=2**63 - 2).seeds(2) == [2**63 - 2, 2**63 - 1]
    with pytest.raises(ValueError, match="`seed` must be"):
        Options(seed=2**63 - 2).seeds(3)


def test_a_seed_for_each_picture_or_none():
    with pytest.raises(ValueError, match="2 entries for 3 pictures"):
        Options(seed=[1, 2]).seeds(3)


@pytest.mark.parametrize("scale", (float("nan"), float("inf"), -1, "7", True))
def test_impossible_guidance_is_refused(scale):
    with pytest.raises(ValueError, match="`unconditional_guidance_scale` must be"):
        Options(unconditional_guidance_scale=scale)


@pytest.mark.parametrize("rescale", (-0.1, 1.1))
def test_impossible_rescale_is_refused(rescale):
    with pytest.raises(ValueError, match="`guidance_rescale` must be"):
        Options(guidance_rescale=rescale)


def test_a_callback_must_be_callable():
    with pytest.raises(ValueError, match="`callback` must be callable"):
        Options(callback=3)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="num_stepz"):
        Options(num_stepz=3)


def test_sizes_that_do_not_fit_name_the_nearest():
    with pytest.raises(ValueError, match="multiple of 8, not 500; the nearest are 496 or 504"):
        check_size(512, 500, 8)
    with pytest.raises(ValueError, match="the nearest are 8"):
        check_size(3, 512, 8)


@pytest.mark.parametrize("size", (0, -8, 8.0, "8", True, 32768))
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ValueError, match="`img_height` must be"):
        check_size(size, 8, 8)


@pytest.mark.parametrize("strength", (0, -0.1, 1.01, float("nan"), "1", None))
def test_impossible_strengths_are_refused(strength):
    with pytest.raises(ValueError, match="`strength` must be"):
        check_strength(strength)


def test_prompts_are_texts():
    assert check_prompts("a") == ["a"]
    assert check_prompts(("a", "b")) == ["a", "b"]
    assert check_prompts("") == [""]
    with pytest.raises(ValueError, match="empty list"):
        check_prompts([])
    with pytest.raises(ValueError, match="must hold strings, not 3"):
        check_prompts(["a", 3])
    with pytest.raises(ValueError, match="must be a string"):
        check_prompts(None)


@pytest.mark.parametrize("count", (0, -1, 1.0, "2", True, MAX_PICTURES + 1))
def test_impossible_batches_are_refused(count):
    with pytest.raises(ValueError, match="`batch_size` must be"):
        check_batch_size(count)


def test_a_picture_must_be_given():
    check_given("mask", np.zeros((2, 2)))
    with pytest.raises(ValueError, match="`mask` must be a picture, not None"):
        check_given("mask", None)


def test_arrays_become_float32():
    assert finite_floats("noise", [[1, 2]]).dtype == np.float32


@pytest.mark.parametrize("value", (None, "a", [[1], [2, 3]], [np.nan], np.inf))
def test_arrays_that_are_no_finite_numbers_are_named(value):
    with pytest.raises(ValueError, match="`noise` must be an array of finite numbers"):
        finite_floats("noise", value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("num_inference_steps", "num_steps"), ("guidance_scale", "unconditional_guidance_scale"),
     ("height", "img_height"), ("num_step", "num_steps"), ("etaa", "eta")],
)  # fmt: skip
def test_an_option_of_another_name_is_told_its_own(name, meant):
    with pytest.raises(TypeError, match=f"`{name}` is no option here: did you mean `{meant}`"):
        options_of(**{name: 1})
    with pytest.raises(TypeError, match="`xyz` is no option here: the options are num_steps, "):
        options_of(xyz=1)
    assert options_of(7, seed=3) == Options(7, seed=3)
