"""Products for XLA on processors: other forms of the same sums, where and only where they pay."""

import keras
import numpy as np
import pytest
from keras import ops

from kerasdiff import backend
from kerasdiff.layers import Dense, PaddedConv2D, products
from kerasdiff.processor import for_xla_of, whose_xla

HERE = keras.backend.backend()
MOST = 2e-6  # of the largest output; 24 bits round to 6e-8, sums of a thousand products to more

ROWS = {  # (x, kernel): whether a convolution takes it
    "as many rows and inputs as it takes": ((2048, 256), 40, True),
    "rows of two pictures": ((2, 32, 32, 258), 3, True),
    "too few rows": ((2047, 256), 40, False),
    "too few inputs": ((4096, 254), 40, False),
    "an odd number of inputs": ((2048, 257), 40, False),
}
PICTURES = {  # (x, size, filters): what computes it
    "as small as it may be": ((2, 16, 16, 128), 3, 128, "_filter"),
    "wide": ((1, 4, 67, 130), 3, 129, "_filter"),
    "tall": ((1, 64, 4, 128), 3, 128, "_filter"),
    "too small": ((2, 12, 20, 128), 3, 128, "conv"),
    "height no multiple of four": ((1, 18, 16, 128), 3, 128, "conv"),
    "few channels": ((1, 16, 16, 127), 3, 128, "conv"),
    "few filters": ((1, 16, 16, 128), 3, 127, "conv"),
    "larger kernel": ((1, 16, 16, 128), 5, 128, "conv"),
    "one pixel": ((2, 32, 32, 256), 1, 40, "matmul"),
}


def drawn(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape, "float32")


def convolved(x, kernel):
    """In float64, each of the kernel's places a matrix."""
    size = len(kernel)
    before = size // 2
    x = np.pad(x.astype("float64"), ((0, 0), (before, before), (before, before), (0, 0)))
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    return sum(
        x[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(size) for j in range(size)
    )


@pytest.fixture
def taken(monkeypatch):
    """Names of the forms that were taken, innermost last."""
    names = []

    def note(owner, name):
        function = getattr(owner, name)

        def noted(*args, **kwargs):
            names.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)

    note(products, "matmul")
    note(products, "_filter")
    note(ops, "matmul")
    note(ops, "conv")
    return names


def assert_near(got, wanted):
    off = np.abs(ops.convert_to_numpy(got) - wanted).max() / np.abs(wanted).max()
    assert off < MOST


@pytest.mark.parametrize("shape, units, is_paired", ROWS.values(), ids=ROWS)
def test_matrices_are_convolutions_where_it_pays(shape, units, is_paired, taken):
    x, kernel = drawn(*shape), drawn(shape[-1], units)
    with for_xla_of(HERE):
        got = products.matmul(ops.convert_to_tensor(x), ops.convert_to_tensor(kernel))
    assert taken[-1] == ("conv" if is_paired and HERE == "tensorflow" else "matmul")
    assert tuple(got.shape) == (*shape[:-1], units)
    assert_near(got, x.astype("float64") @ kernel)


@pytest.mark.parametrize("shape, size, filters, form", PICTURES.values(), ids=PICTURES)
def test_convolutions_are_filtered_where_it_pays(shape, size, filters, form, taken):
    x, kernel = drawn(*shape), drawn(size, size, shape[-1], filters)
    with for_xla_of(HERE):
        got = products.convolve(ops.convert_to_tensor(x), ops.convert_to_tensor(kernel))
    assert taken[0] == form
    assert tuple(got.shape) == (*shape[:-1], filters)
    assert_near(got, convolved(x, kernel))


def test_zeros_lie_around_a_filtered_picture():
    """Each output of a picture of ones counts the kernel's places inside of it."""
    ones, kernel = np.ones((1, 16, 16, 128), "float32"), np.zeros((3, 3, 128, 128), "float32")
    kernel[:, :, 0, 0] = 1
    with for_xla_of(HERE):
        got = products.convolve(ops.convert_to_tensor(ones), ops.convert_to_tensor(kernel))
    rows = np.array([2, *[3] * 14, 2])
    np.testing.assert_allclose(got[0, :, :, 0], np.outer(rows, rows), atol=1e-5)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_sixteen_bits_take_the_plain_forms(dtype, taken):
    """Mixed rows are larger than rows, and would lose what 16 bits have."""
    x, kernel = ops.cast(drawn(1, 16, 16, 256), dtype), ops.cast(drawn(3, 3, 256, 128), dtype)
    with for_xla_of(HERE):
        products.convolve(x, kernel)
        products.matmul(ops.reshape(ops.tile(x, (8, 1, 1, 1)), (2048, 256)), kernel[0, 0])
    assert taken == ["conv", "matmul", "matmul"]


def test_outside_of_such_programs_forms_are_plain(taken):
    products.convolve(drawn(1, 16, 16, 128), drawn(3, 3, 128, 128))
    products.convolve(drawn(2, 32, 32, 256), drawn(1, 1, 256, 8))
    products.matmul(drawn(2048, 256), drawn(256, 8))
    assert taken == ["conv", "conv", "matmul", "matmul"]


def test_models_of_any_size_take_the_plain_forms(taken):
    with for_xla_of(HERE):
        PaddedConv2D(128, 3, 1)(keras.Input((None, None, 128)))
        Dense(8)(keras.Input((None, 256)))
    assert "_filter" not in taken


@pytest.mark.parametrize("is_int8", (False, True))
def test_layers_in_a_program_give_what_they_give_alone(is_int8, taken):
    inputs = keras.Input((16, 16, 128), batch_size=8)
    model = keras.Model(inputs, Dense(130)(PaddedConv2D(256, 3, 1)(inputs)))
    for layer in model.layers[1:]:
        layer.bias.assign(drawn(*layer.bias.shape))
        if is_int8:
            layer.quantize("int8")
    x = drawn(8, 16, 16, 128)
    alone = ops.convert_to_numpy(model(x))
    assert "_filter" not in taken
    assert_near(backend.Program(model, model)(x), alone)
    assert "_filter" in taken


@pytest.mark.parametrize(
    "asked, answer",
    [({}, HERE), ({"jit_compile": False}, None), ({"travels": True}, None)],
    ids=["here", "not compiled", "elsewhere"],
)
def test_programs_say_who_compiles_them(asked, answer):
    found = []
    program = backend.Program(
        lambda x: found.append(whose_xla()) or x, keras.layers.Identity(), **asked
    )
    program(np.ones(1, "float32"))
    assert found == [answer] and whose_xla() is None


def test_other_devices_take_the_plain_forms(monkeypatch):
    found = []
    monkeypatch.setattr(backend, "device", lambda: "gpu")
    program = backend.Program(lambda x: found.append(whose_xla()) or x, keras.layers.Identity())
    program(np.ones(1, "float32"))
    assert found == [None]
