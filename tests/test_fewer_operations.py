"""Guidance in an interval, and kept deep features: less work, where it was asked for."""

import numpy as np
import pytest
from stable_diffusion_cases import FEW, tiny_checkpoint, tiny_model

from kerasdiff import StableDiffusion
from kerasdiff.block_plan import unet_blocks
from kerasdiff.configs import SD1, TINY
from kerasdiff.deep_cache import Keeping, Reusing
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.samplers import make_table
from kerasdiff.sampling import COLUMNS, Pass, pad_rows, plan_passes

folder = pytest.fixture(tiny_checkpoint, scope="module")
model = pytest.fixture(tiny_model, scope="module")
CONFIG = TINY["sd1"].diffusion_model


@pytest.fixture(scope="module")
def network():
    return DiffusionModel(CONFIG)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def inputs(rows=2, seed=0):
    return {
        "latent": numbers(rows, 5, 6, 4, seed=seed),
        "timestep_embedding": numbers(rows, CONFIG.channels[0], seed=1),
        "context": numbers(rows, 7, CONFIG.context_dim, seed=2),
    }


def features_of(network):
    keeping = Keeping(network)
    keeping(inputs(seed=9))
    return np.asarray(keeping.features[0])


def close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-5)


def test_keeping_changes_no_prediction(network):
    keeping = Keeping(network)
    close(keeping(inputs()), network(inputs()))
    assert len(keeping.features) == 1


def test_features_of_the_same_input_give_the_whole_prediction(network):
    keeping = Keeping(network)
    whole = keeping(inputs())
    close(Reusing(network, keeping.features[0])(inputs()), whole)


def test_reusing_asks_the_outer_blocks_alone(network):
    features = features_of(network)
    before = np.asarray(Reusing(network, features)(inputs()))

    def change(prefix):
        changed = [v for v in network.variables if v.path.split("/")[0].startswith(prefix)]
        for variable in changed:
            variable.assign(variable.value * 1.5)
        after = np.abs(np.asarray(Reusing(network, features)(inputs())) - before).max()
        for variable in changed:
            variable.assign(variable.value / 1.5)
        assert changed
        return after

    last = [block.name for block in unet_blocks(CONFIG) if block.kind == "res"][-1]
    assert change("mid_block") == change("down_blocks.1") == change("up_blocks.0") == 0
    assert change("conv_in") > 1e-4 and change(last) > 1e-4
    assert np.abs(np.asarray(Reusing(network, features * 2)(inputs())) - before).max() > 1e-4


def test_halves_take_their_share_of_the_features(network):
    features = features_of(network)
    whole = Reusing(network, features)(inputs())
    halves, given = Reusing(network, features), inputs()
    for row in (0, 1):
        half = {name: value[row : row + 1] for name, value in given.items()}
        close(halves(half), whole[row : row + 1])


def test_a_network_with_control_is_refused(network):
    control = TINY["sd1"].diffusion_model.__class__(
        **{**vars(CONFIG), "controlnet_residuals": True}
    )
    with pytest.raises(ValueError, match="ControlNet"):
        Keeping(DiffusionModel(control))(inputs())


def test_passes_follow_the_interval_and_start_anew_where_guidance_changes():
    table = make_table(SD1.schedule, 8, sampler="ddim")
    low, high = table.sigmas[5], table.sigmas[2]
    modes = [how.mode for how in plan_passes(table, "batched", (low, high))]
    assert modes == ["positive"] * 2 + ["batched"] * 4 + ["positive"] * 2
    deep = [how.deep for how in plan_passes(table, "batched", (low, high), 3)]
    keep, reuse = "keep", "reuse"
    assert deep == [keep, reuse, keep, reuse, reuse, keep, keep, reuse]
    assert plan_passes(table, "off", (low, high)) == [Pass("off")] * 8


@pytest.mark.parametrize("sampler", ("ddim", "euler", "dpmpp_2m", "heun", "unipc"))
def test_sigmas_fall_and_belong_to_rows(sampler):
    table = make_table(SD1.schedule, 6, sampler=sampler)
    assert len(table.sigmas) == len(table.rows) and (np.diff(table.sigmas) <= 0).all()
    after = table.rows[:, COLUMNS.index("noise")] / table.rows[:, COLUMNS.index("signal")]
    np.testing.assert_allclose(table.sigmas[1:], after[:-1])


@pytest.mark.parametrize("split", (False, True))
def test_outside_of_the_interval_guidance_is_left_out(model, monkeypatch, split):
    """As if the scale were 1 there, which is what leaving it out means."""
    table = make_table(model.config.schedule, 4, sampler="ddim")
    low, high = table.sigmas[2], table.sigmas[1]
    given = FEW | {"num_steps": 4, "unconditional_guidance_scale": 6.0, "split_guidance": split}
    ours = model.text_to_image("a red house", **given, guidance_interval=(low, high))

    def rows_with_scales(table, scale):
        rows = pad_rows(table, scale)
        rows[[0, 3], COLUMNS.index("guidance")] = 1.0
        return rows

    everywhere = model.text_to_image("a red house", **given)
    monkeypatch.setattr("kerasdiff.sampling.pad_rows", rows_with_scales)
    wanted = model.text_to_image("a red house", **given)
    assert np.abs(ours.astype(int) - wanted).max() <= 1
    assert np.abs(everywhere.astype(int) - wanted).max() > 4


def test_an_interval_of_all_sigmas_is_the_exact_picture(model):
    given = FEW | {"sampler": "heun"}
    ours = model.text_to_image("a red house", **given, guidance_interval=(0, float("inf")))
    np.testing.assert_array_equal(ours, model.text_to_image("a red house", **given))


@pytest.mark.parametrize(
    "memory, interval", (("high", None), ("high", (0.5, 4.0)), ("low", (0.5, 4.0)))
)
def test_kept_features_make_a_picture_near_the_exact_one(folder, model, memory, interval):
    given = FEW | {"num_steps": 8, "guidance_interval": interval}
    ours = StableDiffusion.from_preset(folder, jit_compile=False, memory=memory)
    seen = []
    pictures = [
        ours.text_to_image("a red house", **given, cache_interval=2, **watched)
        for watched in ({}, {"callback": lambda step, *_: seen.append(step)})
    ]
    np.testing.assert_array_equal(*pictures)
    assert seen == list(range(1, 9))
    exact = model.text_to_image("a red house", **given).astype(int)
    apart = np.abs(pictures[0] - exact).mean()
    assert 0 < apart < np.abs(exact - exact.mean()).mean() / 4


def test_programs_are_compiled_once_for_each_kind_of_pass(folder):
    ours = StableDiffusion.from_preset(folder, jit_compile=False)
    for seed, steps in ((1, 6), (2, 9)):
        ours.text_to_image("a house", num_steps=steps, seed=seed, sampler="ddim", cache_interval=3)
    programs = {key[1]: entry[1] for key, entry in ours._programs.items() if key[1]}
    assert set(programs) == {Pass("batched", "keep"), Pass("batched", "reuse")}
    assert [program.traces for program in programs.values()] == [1, 1]


@pytest.mark.parametrize("interval", (3, (4, 1), (-1, 2), "ab", (1, 2, 3), (None, 1)))
def test_wrong_intervals_are_refused(model, interval):
    with pytest.raises(ValueError, match="`guidance_interval` must be two sigmas"):
        model.text_to_image("a red house", **FEW, guidance_interval=interval)


@pytest.mark.parametrize("interval", (0, -1, 1.5, True, None, "2"))
def test_wrong_cache_intervals_are_refused(model, interval):
    with pytest.raises(ValueError, match="`cache_interval` must be a whole number from 1"):
        model.text_to_image("a red house", **FEW, cache_interval=interval)
