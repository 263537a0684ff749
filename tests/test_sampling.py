"""The loop over rows, with a small network that reacts to everything it is given."""

import subprocess
import sys
import time
from functools import partial

import keras
import numpy as np
import pytest

from kerasdiff import sampling
from kerasdiff.backend import Program
from kerasdiff.configs import SD1, TINY
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.noise import TorchStream
from kerasdiff.samplers import make_table
from kerasdiff.start import draw, prepare

SHAPE = (6, 8, 4)
CUT = ("lms", "plms", "unipc", "heun", "dpmpp_2m_sde")


def network(seed=0):
    keras.utils.set_random_seed(seed)
    model = DiffusionModel(TINY["sd1"].diffusion_model)
    for variable in model.variables:
        if variable.path.endswith("conv_out/kernel"):
            variable.assign(variable.value * 6.0)
    return model


def start(table, seed=1):
    return prepare(table, partial(draw, [TorchStream(seed)], SHAPE))


def inputs():
    context = np.random.default_rng(0).normal(size=(2, 77, 32)).astype("float32")
    return {"context": context, "guidance_rescale": np.float32(0)}


@pytest.fixture(scope="module")
def program():
    model = network()
    return Program(lambda *a: sampling.loop(model, *a, "batched"), model, jit_compile=True)


def run(program, table, seed=1, **more):
    passes = sampling.plan_passes(table, "batched")
    given = (table, passes, 5.0, start(table, seed), inputs())
    return sampling.run(lambda how: program, *given, **more)


def test_one_program_serves_samplers_steps_and_strengths(program):
    before = program.traces
    latents = [
        run(program, make_table(SD1.schedule, steps, sampler=sampler, strength=strength,
                                from_noise=strength == 1.0))
        for sampler in ("ddim", "lms", "unipc", "heun", "euler_ancestral", "dpmpp_2m_sde")
        for steps in (4, 5, 9)
        for strength in (1.0, 0.5)
    ]  # fmt: skip
    assert program.traces - before <= 1
    assert program.traces == 1
    assert len({latent.tobytes() for latent in latents}) == len(latents)


@pytest.mark.parametrize("sampler", CUT)
def test_watching_changes_nothing(program, sampler):
    table = make_table(SD1.schedule, 5, sampler=sampler)
    steps = []
    watched = run(program, table, watch=lambda step, denoised: steps.append(step))
    np.testing.assert_array_equal(watched, run(program, table))
    assert steps == [1, 2, 3, 4, 5]


def test_a_run_cut_after_any_row_continues_in_a_new_process(program, tmp_path):
    expected = {}
    for sampler in CUT:
        table = make_table(SD1.schedule, 4, sampler=sampler)
        rows, begin = sampling.pad_rows(table, 5.0), start(table)
        noise = sampling.pad_noise(begin.noise, begin.x.shape)
        whole = program(rows, 0, len(table.rows), sampling.new_carry(begin.x), noise, inputs())
        expected[sampler] = np.asarray(whole.x)
        for row in range(1, len(table.rows)):
            carry = program(rows, 0, row, sampling.new_carry(begin.x), noise, inputs())
            np.savez(tmp_path / f"{sampler}-{row}.npz", *[np.asarray(part) for part in carry])
    np.savez(tmp_path / "expected.npz", **expected)
    done = subprocess.run(
        [sys.executable, "-c", CONTINUE, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) == sum(
        len(make_table(SD1.schedule, 4, sampler=sampler).rows) - 1 for sampler in CUT
    )


CONTINUE = """
import sys
from functools import partial
from pathlib import Path
import numpy as np
sys.path.insert(0, "tests")
from test_sampling import *
folder = Path(sys.argv[1])
model, count = network(), 0
program = Program(lambda *a: sampling.loop(model, *a, "batched"), model, jit_compile=True)
for sampler, expected in np.load(folder / "expected.npz").items():
    table = make_table(SD1.schedule, 4, sampler=sampler)
    rows, begin = sampling.pad_rows(table, 5.0), start(table)
    noise = sampling.pad_noise(begin.noise, begin.x.shape)
    for row in range(1, len(table.rows)):
        carry = sampling.Carry(*np.load(folder / f"{sampler}-{row}.npz").values())
        after = program(rows, row, len(table.rows), carry, noise, inputs())
        np.testing.assert_array_equal(np.asarray(after.x), expected)
        count += 1
print(count)
"""


def test_a_graph_begins_no_row_before_the_last_one_s_end(monkeypatch):
    import tensorflow as tf

    noted = []

    def note(word, x):
        time.sleep(0.01)
        noted.append(word)
        return x

    def noted_call(word, x):  # stateful ones would wait for one another by themselves
        return tf.numpy_function(partial(note, word), [x], "float32", stateful=False)

    def denoise(model, x, scalings, *_):
        return tf.ensure_shape(noted_call("latents", x) * noted_call("time", scalings[3]), x.shape)

    monkeypatch.setattr(sampling, "denoise", denoise)
    table, model = make_table(SD1.schedule, 6, sampler="ddim"), keras.layers.Identity()
    program = Program(lambda *a: sampling.loop(model, *a, "off"), model, jit_compile=False)
    run(program, table)
    assert len(noted) == 12
    turns = [sorted(noted[row : row + 2]) for row in range(0, 12, 2)]
    assert turns == [["latents", "time"]] * 6


def test_a_new_weight_counts_at_once_and_nothing_is_traced_again(program):
    table = make_table(SD1.schedule, 3, sampler="ddim")
    model = network()
    program = Program(lambda *a: sampling.loop(model, *a, "batched"), model, jit_compile=True)
    before = run(program, table)
    variable = next(v for v in model.variables if v.path.endswith("conv_out/kernel"))
    value = np.asarray(variable.value)
    variable.assign(value * 1.5)
    changed = run(program, table)
    assert np.abs(changed - before).max() > 0.01
    variable.assign(value)
    np.testing.assert_array_equal(run(program, table), before)
    assert program.traces == 1


def test_a_row_can_be_differentiated(program):
    import tensorflow as tf

    model = network()
    table = make_table(SD1.schedule, 2, sampler="dpmpp_2m")
    rows, begin = sampling.pad_rows(table, 5.0), start(table)
    noise = sampling.pad_noise(begin.noise, begin.x.shape)
    tensors = keras.tree.map_structure(tf.convert_to_tensor, inputs())
    with tf.GradientTape() as tape:
        carry = sampling.new_carry(begin.x)
        for row in tf.convert_to_tensor(rows[:2]):
            carry = sampling.step(
                model, row, carry, tf.convert_to_tensor(noise), tensors, "batched"
            )
        loss = tf.reduce_mean(tf.square(carry.x))
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    assert all(gradient is not None for gradient in gradients)
    assert any(np.abs(tf.convert_to_tensor(gradient)).max() > 0 for gradient in gradients)


def test_tables_too_long_are_refused():
    table = make_table(SD1.schedule, 5, sampler="ddim")
    with pytest.raises(ValueError, match="5000 rows; at most 2048"):
        sampling.pad_rows(table._replace(rows=np.zeros((5000, table.rows.shape[1]))), 1.0)


def test_noise_comes_in_few_sizes():
    shape = (1, *SHAPE)
    draws = [np.full(shape, index) for index in range(65)]
    assert sampling.pad_noise([], shape).shape == (64, *shape)
    assert sampling.pad_noise(draws[:1], shape).shape == (64, *shape)
    padded = sampling.pad_noise(draws, shape)
    assert padded.shape == (128, *shape)
    assert padded[64, 0, 0, 0, 0] == 64 and not padded[65:].any()
