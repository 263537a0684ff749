"""Products for XLA on processors: other forms of the same sums, where and only where they pay."""

from functools import partial

import keras
import numpy as np
import pytest
from keras import ops

from kerasdiff import backend
from kerasdiff.backend import Forms, Program, compilers, forms, product_forms, with_forms
from kerasdiff.layers import Dense, PaddedConv2D, Upsample, products

ALL = Forms(filtered=True, paired=True, widened=True)
HERE = ALL._replace(paired=keras.backend.backend() == "tensorflow")

ROWS = {  # (x, kernel): whether a convolution takes it
    "as many rows and inputs as it takes": ((2048, 256), 40, True),
    "rows of two pictures": ((2, 32, 32, 258), 3, True),
    "too few rows": ((2047, 256), 40, False),
    "too few inputs": ((4096, 254), 40, False),
    "an odd number of inputs": ((2048, 257), 40, False),
}
PICTURES = {  # (x, size, filters): what computes it
    "as small as it may be": ((2, 16, 16, 128), 3, 128, "filtered"),
    "many channels": ((1, 16, 16, 1280), 3, 640, "filtered"),
    "wide": ((1, 4, 67, 130), 3, 129, "filtered"),
    "tall": ((1, 64, 4, 128), 3, 128, "filtered"),
    "too small": ((2, 12, 20, 128), 3, 128, "conv"),
    "too large": ((1, 256, 512, 128), 3, 128, "conv"),
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
    note(products, "filtered")
    note(ops, "matmul")
    note(ops, "conv")
    return names


@pytest.fixture
def on_processor(monkeypatch):
    """One without instructions for bfloat16, whose cache is not known."""
    for module in (product_forms, compilers):
        monkeypatch.setattr(module, "device", lambda: "cpu")
        monkeypatch.setattr(module, "computes_in_bfloat16", lambda: False)
    monkeypatch.setattr(product_forms, "cache_size", lambda: 0)


@pytest.fixture
def natively(on_processor, monkeypatch):
    """Another, which computes in bfloat16."""
    for module in (product_forms, compilers):
        monkeypatch.setattr(module, "computes_in_bfloat16", lambda: True)


def error(got, exact):
    """Root of the mean square, as a part of the output's."""
    return np.sqrt(np.mean((ops.convert_to_numpy(got) - exact) ** 2) / np.mean(exact**2))


def assert_near(got, exact, plain):
    """`got` rounds at most four times as much as the plain form, or as a single number."""
    assert error(got, exact) <= 4 * max(error(plain, exact), 2.0**-24)


def gradients(loss, *arrays):
    """Of a number, by each of the arrays that it is computed of."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(loss, tuple(range(len(arrays))))(*arrays)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(arrays)
        value = loss(*arrays)
    return tape.gradient(value, arrays)


@pytest.mark.parametrize("shape, units, is_paired", ROWS.values(), ids=ROWS)
def test_matrices_are_convolutions_where_it_pays(shape, units, is_paired, taken):
    x, kernel = drawn(*shape), drawn(shape[-1], units)
    with with_forms(ALL):
        got = products.matmul(ops.convert_to_tensor(x), ops.convert_to_tensor(kernel))
    assert taken[-1] == ("conv" if is_paired else "matmul")
    assert tuple(got.shape) == (*shape[:-1], units)
    assert_near(got, x.astype("float64") @ kernel, ops.matmul(x, kernel))


@pytest.mark.parametrize("shape, size, filters, form", PICTURES.values(), ids=PICTURES)
def test_convolutions_are_filtered_where_it_pays(shape, size, filters, form, taken):
    x, kernel = drawn(*shape), drawn(size, size, shape[-1], filters)
    with with_forms(ALL):
        got = products.convolve(ops.convert_to_tensor(x), ops.convert_to_tensor(kernel))
    assert taken[0] == form
    assert tuple(got.shape) == (*shape[:-1], filters)
    plain = ops.conv(x, kernel, 1, "same", data_format="channels_last")
    assert_near(got, convolved(x, kernel), plain)


@pytest.mark.parametrize("width, form", ((128, "filtered"), (256, "conv")))
def test_where_memory_is_short_smaller_pictures_are_not_filtered(width, form, taken):
    x, kernel = drawn(1, 128, width, 128), drawn(3, 3, 128, 128)
    with with_forms(ALL._replace(spares=True)):
        products.convolve(ops.convert_to_tensor(x), ops.convert_to_tensor(kernel))
    assert taken[0] == form


def test_zeros_lie_around_a_filtered_picture():
    """Each output of a picture of ones counts the kernel's places inside of it."""
    ones, kernel = np.ones((1, 16, 16, 128), "float32"), np.zeros((3, 3, 128, 128), "float32")
    kernel[:, :, 0, 0] = 1
    with with_forms(ALL):
        got = products.convolve(ops.convert_to_tensor(ones), ops.convert_to_tensor(kernel))
    rows = np.array([2, *[3] * 14, 2])
    np.testing.assert_allclose(got[0, :, :, 0], np.outer(rows, rows), atol=1e-5)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_sixteen_bits_take_the_plain_forms(dtype, taken):
    """Mixed rows are larger than rows, and would lose what 16 bits have."""
    x, kernel = ops.cast(drawn(1, 16, 16, 256), dtype), ops.cast(drawn(3, 3, 256, 128), dtype)
    with with_forms(ALL):
        products.convolve(x, kernel)
        products.matmul(ops.reshape(ops.tile(x, (8, 1, 1, 1)), (2048, 256)), kernel[0, 0])
    assert taken == ["conv", "matmul", "matmul"]


def test_outside_of_such_programs_forms_are_plain(taken):
    products.convolve(drawn(1, 16, 16, 128), drawn(3, 3, 128, 128))
    products.convolve(drawn(2, 32, 32, 256), drawn(1, 1, 256, 8))
    products.matmul(drawn(2048, 256), drawn(256, 8))
    assert taken == ["conv", "conv", "matmul", "matmul"]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX knows all sizes")
def test_sizes_that_are_not_known_take_the_plain_forms(taken):
    import tensorflow as tf

    convolution, matrix = PaddedConv2D(128, 3, 1), Dense(8)
    convolution.build((None, None, None, 128))
    matrix.build((None, 256))
    with with_forms(ALL):
        for layer, shape in ((convolution, (1, None, 64, 128)), (matrix, (None, 256))):
            traced = tf.function(layer.call, autograph=False)
            traced.get_concrete_function(tf.TensorSpec(shape))
    assert taken == ["conv", "matmul"]


@pytest.mark.parametrize("is_int8", (False, True))
def test_layers_in_a_program_give_what_they_give_alone(is_int8, taken, on_processor):
    inputs = keras.Input((16, 16, 128), batch_size=8)
    model = keras.Model(inputs, Dense(130)(PaddedConv2D(256, 3, 1)(inputs)))
    for layer in model.layers[1:]:
        layer.bias.assign(drawn(*layer.bias.shape))
        if is_int8:
            layer.quantize("int8")
    x = drawn(8, 16, 16, 128)
    alone = ops.convert_to_numpy(model(x))
    assert taken == ["conv", "matmul"]
    taken.clear()
    together = Program(model, model)(x)
    assert taken == ["filtered", "conv", "conv" if HERE.paired else "matmul"]
    assert error(together, alone) < 4e-6


def test_filtered_layers_of_one_size_are_traced_once_and_keep_their_own_kernels(
    taken, on_processor
):
    model = keras.Sequential([PaddedConv2D(128, 3, 1) for _ in range(3)])
    x = drawn(1, 16, 16, 128)
    alone = ops.convert_to_numpy(model(x))
    taken.clear()
    together = Program(model, model)(x)
    assert taken == ["filtered", "conv", "filtered", "filtered"]
    assert error(together, alone) < 4e-6


@pytest.mark.parametrize("dtype, rounding", [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_layers_of_16_bits_are_computed_in_float32_in_a_program(
    dtype, rounding, taken, on_processor
):
    inputs = keras.Input((16, 16, 128), batch_size=8, dtype=dtype)
    kinds = [(PaddedConv2D, 256, 3, 1), (Dense, 130), (Upsample, 3), (PaddedConv2D, 5, 3, 1, 2)]
    x = inputs
    for kind, *sizes in kinds:
        x = kind(*sizes, dtype=dtype)(x)
    model = keras.Model(inputs, x)
    x = drawn(8, 16, 16, 128).astype("float16")
    alone = ops.convert_to_numpy(ops.cast(model(ops.cast(x, dtype)), "float32"))
    taken.clear()
    together = Program(model, model)(ops.cast(x, dtype))
    assert together.dtype == dtype
    assert taken[:3] == ["filtered", "conv", "conv" if HERE.paired else "matmul"]
    # Each layer rounds its output, to numbers half a step apart at most.
    assert error(ops.cast(together, "float32"), alone) < len(kinds) * rounding


SMALL = {  # (x, size, filters)
    "as large as it may be": ((2, 16, 16, 40), 3, 24),
    "odd": ((1, 3, 5, 7), 3, 9),
    "one pixel's": ((3, 1, 1, 8), 3, 2),
    "a kernel of one pixel": ((1, 40, 40, 8), 1, 2),
}


@pytest.mark.parametrize("shape, size, filters", SMALL.values(), ids=SMALL)
def test_native_convolutions_of_small_pictures_are_matrix_products(
    shape, size, filters, taken, natively
):
    """Exact but for float32's sums: what is multiplied are bfloat16's numbers themselves."""
    layer = PaddedConv2D(filters, size, size // 2, dtype="bfloat16")
    layer.build(shape)
    x, kernel = (ops.cast(drawn(*each), "bfloat16") for each in (shape, layer.kernel.shape))

    def product(x):
        with keras.StatelessScope([(layer.kernel, kernel)]):
            return layer.product(layer.factor(x), layer.kernel_values(x))

    got = Program(product, layer, True)(x)
    assert taken == ["matmul"] and keras.backend.standardize_dtype(got.dtype) == "float32"
    exact = convolved(*(ops.convert_to_numpy(ops.cast(y, "float64")) for y in (x, kernel)))
    assert error(got, exact) < 1e-6


def test_native_layers_round_their_outputs_alone(taken, natively):
    inputs = keras.Input((8, 8, 32), batch_size=2, dtype="bfloat16")
    kinds = [(PaddedConv2D, 64, 3, 1), (Dense, 30), (Upsample, 16), (PaddedConv2D, 5, 3, 1, 2)]
    x = inputs
    for kind, *sizes in kinds:
        x = kind(*sizes, dtype="bfloat16")(x)
    model = keras.Model(inputs, x)
    x = ops.cast(drawn(2, 8, 8, 32), "bfloat16")
    alone = ops.convert_to_numpy(ops.cast(model(x), "float32"))
    taken.clear()
    together = Program(model, model, True)(x)
    assert taken == ["matmul", "matmul", "conv"]  # of the convolutions; strides are not gathered
    assert error(ops.cast(together, "float32"), alone) < len(kinds) * 2**-8


def test_native_convolutions_of_large_pictures_are_filtered(taken, natively):
    layer = PaddedConv2D(128, 3, 1, dtype="bfloat16")
    layer.build((1, 32, 32, 128))
    Program(layer, layer, True)(ops.cast(drawn(1, 32, 32, 128), "bfloat16"))
    assert taken[0] == "filtered"


def test_rounding_by_bits_is_to_the_nearest():
    x = np.random.default_rng(0).random(4096)
    x = np.append(x, [0, 1, 2.0**-133, 2.0**-149, np.inf, np.nan]).astype("float32")
    got = ops.convert_to_numpy(ops.cast(backend.in_bfloat16(ops.convert_to_tensor(x)), "float32"))
    error = np.abs(got[:4096] - x[:4096])
    assert (error <= 2.0 ** (np.floor(np.log2(x[:4096])) - 8)).all()
    np.testing.assert_array_equal(got[4096:], [0, 1, 2.0**-133, 0, np.inf, np.nan])


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
@pytest.mark.parametrize("machine", ("on_processor", "natively"))
def test_gradients_of_16_bits_go_through_a_program(dtype, machine, request):
    request.getfixturevalue(machine)
    layer, x = Dense(3, dtype=dtype), ops.cast(drawn(4, 5), dtype)
    layer.build(x.shape)

    def loss(kernel, x):
        with keras.StatelessScope([(layer.kernel, kernel)]):
            return ops.sum(ops.cast(layer(x), "float32") ** 2)

    found = Program(partial(gradients, loss), layer)(layer.kernel.value, x)
    for each, plain in zip(found, gradients(loss, layer.kernel.value, x), strict=True):
        assert each.dtype == dtype
        each, plain = (ops.convert_to_numpy(ops.cast(y, "float32")) for y in (each, plain))
        assert np.abs(plain).min() > 0 and error(each, plain) < 2e-2


def test_gradients_go_through_a_program(on_processor):
    """Those of both forms, of inputs and kernels, as they are outside of it."""
    x, kernel, matrix = drawn(1, 16, 128, 128), drawn(3, 3, 128, 256), drawn(256, 3)

    def loss(x, kernel, matrix):
        return ops.sum(ops.sin(products.matmul(products.convolve(x, kernel), matrix) / 300))

    arrays = [ops.convert_to_tensor(array) for array in (x, kernel, matrix)]
    found = Program(partial(gradients, loss), keras.layers.Identity())(*arrays)
    for each, plain in zip(found, gradients(loss, *arrays), strict=True):
        assert error(each, ops.convert_to_numpy(plain)) < 1e-5


def found_forms(dtype="float32", **how):
    """The forms that a program's function may take."""
    found, layer = [], keras.layers.Identity(dtype=dtype)
    program = Program(lambda x: found.append(forms()) or x, layer, **how)
    program(np.ones(1, "float32"))
    assert forms() == Forms()
    return found[0]


def test_only_programs_for_this_processor_take_them(on_processor, monkeypatch):
    assert found_forms() == HERE
    assert found_forms(spares=True) == HERE._replace(spares=True)
    assert found_forms(jit_compile=False) == found_forms(travels=True) == Forms()
    assert found_forms("bfloat16") == HERE
    monkeypatch.setattr(product_forms, "device", lambda: "gpu")
    assert found_forms() == Forms()


def test_where_it_computes_in_bfloat16_xla_compiles_parts(natively, monkeypatch):
    """But JAX, which has no kernels of its own, all."""
    native = HERE._replace(native=True)
    assert found_forms() == found_forms("bfloat16", jit_compile=True) == native
    parts = Forms(regional=True, spares=True)
    is_jax = keras.backend.backend() == "jax"
    wanted = native._replace(spares=True) if is_jax else parts
    assert found_forms("bfloat16", spares=True) == wanted
    assert found_forms("bfloat16", jit_compile=False) == Forms()
    assert found_forms("bfloat16", travels=True) == Forms()


@pytest.mark.parametrize(
    "mebibytes, queries", [(0, 2048), (4, 256), (16, 256), (32, 512), (48, 768), (260, 2048)]
)
def test_as_much_at_once_as_suits_the_cache(mebibytes, queries, on_processor, monkeypatch):
    monkeypatch.setattr(product_forms, "cache_size", lambda: mebibytes << 20)
    quarter = mebibytes << 18 or None
    assert found_forms() == HERE._replace(queries=queries, kernel_bytes=quarter)
