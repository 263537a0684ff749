"""Weights come into memory once: variables begin unfilled and take arrays over."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasdiff.backend import Program
from kerasdiff.backend.memory import empty, give_up, hand_over, new_array
from kerasdiff.checkpoints.tensors import FLOATS


@pytest.mark.parametrize("dtype", FLOATS)
def test_new_arrays_are_zeros_that_can_be_written(dtype):
    array = new_array((3, 5), FLOATS[dtype])
    assert array.shape == (3, 5) and array.dtype == FLOATS[dtype] and not array.any()
    array[1] = 2.5
    assert array.sum() == 12.5


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_variable_takes_the_memory_of_a_new_array(dtype):
    variable = keras.Variable(empty, shape=(3, 5), dtype=dtype)
    array = new_array((3, 5), FLOATS[dtype])
    array[:] = np.arange(15).reshape(3, 5)
    hand_over(array, variable)
    np.testing.assert_array_equal(variable.numpy(), array)
    array[0, 0] = 7.0  # which whoever hands it over must not do
    assert variable.numpy()[0, 0] == 7.0


def test_arrays_that_begin_anywhere_can_be_handed_over():
    variable = keras.Variable(empty, shape=(64, 64), dtype="float32")
    memory = np.ones(64 * 64 + 1, "float32")
    odd = memory[1:].reshape(64, 64)  # 4 bytes from where the one before begins
    even = memory[:-1].reshape(64, 64)
    for array in (odd, even):
        hand_over(array, variable)
        np.testing.assert_array_equal(variable.numpy(), array)


def test_a_variable_that_took_an_array_trains_and_outlives_it():
    layer = keras.layers.Dense(2, use_bias=False)
    layer.build((None, 3))
    array = new_array((3, 2), "float32")
    array[:] = 1.0
    hand_over(array, layer.kernel)
    del array
    model = keras.Sequential([layer])
    model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=True)
    model.train_on_batch(np.ones((1, 3), "float32"), np.zeros((1, 2), "float32"))
    # loss ((3 w)^2 summed over 2) / 2: the gradient of each weight is 3
    np.testing.assert_allclose(layer.kernel.numpy(), np.full((3, 2), -0.5), rtol=1e-6)


def test_a_variable_gives_its_memory_up_and_programs_read_the_next_values():
    layer = keras.layers.Dense(2, use_bias=False)
    layer.build((None, 3))
    model, ones = keras.Sequential([layer]), np.ones((1, 3), "float32")
    programs = [Program(model, model, jit_compile) for jit_compile in (True, False)]
    for value in (1.0, 2.0):
        array = new_array((3, 2), "float32")
        array[:] = value
        hand_over(array, layer.kernel)
        for program in programs:
            np.testing.assert_allclose(program(ones), np.full((1, 2), 3 * value), rtol=1e-6)
        give_up([layer.kernel])
        assert layer.kernel.value.read_value().shape == (0,) and layer.kernel.shape == (3, 2)
        for program in programs:
            with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
                program(ones)
    assert [program.traces for program in programs] == [1, 1]


ON_TWO_DEVICES = """
import keras, numpy as np, tensorflow as tf
from kerasdiff.backend.memory import give_up, hand_over, new_array
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    variable = keras.Variable(np.zeros((2, 3)), dtype="float32")
array = new_array((2, 3), "float32")
array[:] = 4.0
for _ in range(2):
    hand_over(array, variable)
    assert [each.numpy().tolist() for each in variable.value.values] == [array.tolist()] * 2
    give_up([variable])
    assert [int(tf.size(each)) for each in variable.value.values] == [0, 0]
"""


def test_variables_on_several_devices_are_assigned():
    done = subprocess.run([sys.executable, "-c", ON_TWO_DEVICES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
