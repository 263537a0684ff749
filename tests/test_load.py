"""Loading is strict, in PyTorch's axis order, and reads one tensor at a time."""

import weakref

import ml_dtypes
import numpy as np
import pytest
from layouts import layout

from kerasdiff.checkpoints.load import (
    MismatchError,
    compare,
    copy_turned,
    load,
    state,
    torch_shape,
)
from kerasdiff.checkpoints.names import from_diffusers
from kerasdiff.checkpoints.tensors import (
    CheckpointError,
    LazyTensor,
    Tensors,
    cast,
    require_finite,
)
from kerasdiff.configs import CLIP_L, OPENCLIP_BIGG, OPENCLIP_H, SD1, SD1_INPAINT, SD2, SDXL, TINY
from kerasdiff.decoder import Decoder
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.image_encoder import ImageEncoder
from kerasdiff.layers import tensor_name, uninitialized, without_memory
from kerasdiff.text_encoder import TextEncoder

VAE = TINY["sd1"].autoencoder


@pytest.fixture(scope="module")
def arrays():
    """Canonical tensors of a tiny decoder, of distinct values."""
    numbers = np.random.default_rng(0)
    shapes = state(Decoder(VAE)).shapes
    return {n: numbers.normal(size=shape).astype(np.float32) for n, shape in shapes.items()}


def fresh(dtype="float32"):
    with uninitialized():
        return Decoder(VAE, dtype=dtype)


FULL = {
    "clip-l": (TextEncoder, CLIP_L),
    "openclip-h": (TextEncoder, OPENCLIP_H),
    "openclip-bigg": (TextEncoder, OPENCLIP_BIGG),
    "sd15.unet": (DiffusionModel, SD1.diffusion_model),
    "sd15-inpaint.unet": (DiffusionModel, SD1_INPAINT.diffusion_model),
    "sd21.unet": (DiffusionModel, SD2.diffusion_model),
    "sdxl.unet": (DiffusionModel, SDXL.diffusion_model),
}


def variables(kind, config):
    """Names and shapes of a full-size model, for whose variables no memory is taken."""
    model = without_memory(lambda: kind(config))
    return {tensor_name(v): torch_shape(v) for v in model.variables}


@pytest.mark.parametrize("name", FULL)
def test_a_full_size_model_has_the_published_names_and_shapes(name):
    part = "text_encoder" if "clip" in name else "unet"
    want = {from_diffusers(part, n): shape for n, shape in layout(f"diffusers_{name}").items()}
    assert variables(*FULL[name]) == want


def test_the_two_halves_of_a_full_size_autoencoder_have_the_published_names_and_shapes():
    halves = [variables(kind, SD1.autoencoder) for kind in (ImageEncoder, Decoder)]
    assert not set(halves[0]) & set(halves[1])
    assert halves[0] | halves[1] == layout("diffusers_vae")


def test_every_variable_gets_its_tensor(arrays):
    model = fresh()
    report = load(model, arrays)
    assert set(report.used) == set(arrays) and not report.fault
    for name, array in state(model).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_axes_are_those_of_keras(arrays):
    model = fresh()
    load(model, arrays)
    found = {tensor_name(v): np.asarray(v.value) for v in model.variables}
    conv = arrays["decoder.conv_in.weight"]  # (O, I, H, W)
    np.testing.assert_array_equal(found["decoder.conv_in.weight"], conv.transpose(2, 3, 1, 0))
    name = "decoder.mid_block.attentions.0.to_q.weight"
    np.testing.assert_array_equal(found[name], arrays[name].T)
    name = "decoder.conv_norm_out.weight"
    np.testing.assert_array_equal(found[name], arrays[name])


def test_embeddings_are_not_transposed():
    model = TextEncoder(TINY["sd1"].text_encoders[0])
    shapes = state(model).shapes
    assert shapes["embeddings.token_embedding.weight"] == (49408, 32)
    assert shapes["embeddings.position_embedding.weight"] == (77, 32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_tensors_are_cast_to_the_variables_dtype(arrays, dtype):
    model = fresh(dtype)
    load(model, arrays)
    for name, entry in state(model).entries.items():
        assert str(entry.dtype) == dtype
        want = arrays[name].astype(entry.dtype)
        np.testing.assert_array_equal(entry.read(), want)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda a: a.pop("decoder.conv_in.bias"), "1 missing: decoder.conv_in.bias"),
        (lambda a: a.update(new=np.ones(2)), "1 unexpected: new"),
        (
            lambda a: a.update({"decoder.conv_in.bias": np.ones(3, np.float32)}),
            r"1 misshapen: decoder.conv_in.bias \(3,\) instead of \(32,\)",
        ),
        (lambda a: a.clear(), r"missing: .*, \.\.\."),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_assigned(arrays, change, complaint):
    model = Decoder(VAE)
    before = {name: np.array(array) for name, array in state(model).items()}
    changed = dict(arrays)
    change(changed)
    with pytest.raises(MismatchError, match=complaint) as error:
        load(model, Tensors.of(changed, "file.safetensors"))
    assert "file.safetensors" in str(error.value)
    for name, array in state(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_names_known_to_be_no_weights_are_reported(arrays):
    extra = {"model_ema.decay": np.ones(1), "betas": np.ones(3)}
    assert load(fresh(), arrays | extra).skipped == ("model_ema.decay", "betas")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_named(arrays, value):
    bad = arrays["decoder.conv_out.weight"].copy()
    bad[0, 1, 2, 0] = value
    with pytest.raises(CheckpointError, match="'decoder.conv_out.weight' holds NaN .* in 1 of"):
        load(fresh(), arrays | {"decoder.conv_out.weight": bad})


def test_a_weight_too_large_for_the_dtype_is_named(arrays):
    bad = arrays | {"decoder.conv_out.bias": np.full(3, 1e6, np.float32)}
    load(fresh("bfloat16"), bad)
    with pytest.raises(CheckpointError, match="'decoder.conv_out.bias' .* as float16, in 3 of 3"):
        load(fresh("float16"), bad)


def test_large_finite_weights_are_no_false_alarm(arrays):
    large = np.full(3, 3e38, np.float32)
    load(fresh(), arrays | {"decoder.conv_out.bias": large})


@pytest.mark.parametrize("dtype", (np.float16, ml_dtypes.bfloat16), ids=("float16", "bfloat16"))
def test_every_number_of_sixteen_bits_is_known_to_be_finite_or_not(dtype):
    for number in np.arange(2**16, dtype=np.uint16).view(dtype):
        pair = np.array([[0, number]], dtype)
        if np.isfinite(number):
            require_finite(pair, "weight", "file")
        else:
            with pytest.raises(CheckpointError, match="file: .* 'weight' holds NaN .* in 1 of 2"):
                require_finite(pair, "weight", "file")


@pytest.mark.parametrize("dtype", ("<f4", ">f4", "<f8", ">f2"))
@pytest.mark.parametrize("value", (np.nan, -np.nan, np.inf, -np.inf))
def test_numbers_are_looked_at_in_any_order_of_bytes_and_of_axes(dtype, value):
    array = np.full((2, 6), -1.5, dtype)
    view = array.T[::2]  # (3, 2)
    require_finite(view, "weight", "file")
    require_finite(view[:0], "weight", "file")
    view[1, 1] = value
    with pytest.raises(CheckpointError, match="in 1 of 6 places"):
        require_finite(view, "weight", "file")


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # NumPy's, of NaN
@pytest.mark.parametrize("dtype", (np.float16, np.float32, np.float64, ml_dtypes.bfloat16))
def test_every_float16_is_cast_as_numpy_casts_it(dtype):
    everything = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = everything[np.isfinite(everything)]
    some = finite[: 2**15].reshape(-1, 8)[::3, 1::2]  # neither rows nor columns lie together
    for given in (everything, finite, some, some[:0], finite.astype(">f2")):
        wanted, got = given.astype(dtype), cast(given, np.dtype(dtype))
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        assert got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("threads", (1, 3))
def test_few_tensors_are_in_memory_besides_the_variables(arrays, threads, monkeypatch):
    monkeypatch.setattr("kerasdiff.checkpoints.load.THREADS", threads)
    alive, most = set(), []

    def reader(name):
        def read():
            array = arrays[name].copy()
            alive.add(name)
            weakref.finalize(array, alive.discard, name)
            most.append(len(alive))
            return array

        return read

    entries = {n: LazyTensor(a.shape, a.dtype, reader(n)) for n, a in arrays.items()}
    load(fresh("bfloat16"), Tensors("counted", entries))
    assert len(most) == len(arrays) > 2 * threads and max(most) <= 2 * threads


def test_compare_lists_each_kind():
    have = {"a": (1,), "b": (2,), "betas": (3,), "x": ()}
    report = compare(have, {"a": (1,), "b": (3,), "c": (4,)})
    assert report.used == ("a", "b") and report.missing == ("c",)
    assert report.skipped == ("betas",) and report.unexpected == ("x",)
    assert report.misshapen == (("b", (2,), (3,)),)
    assert report.fault == "1 missing: c; 1 unexpected: x; 1 misshapen: b (2,) instead of (3,)"


@pytest.mark.parametrize("outputs", (1, 64, 65, 130))
@pytest.mark.parametrize("inner, axes", [((), (0,)), ((7,), (1, 0)), ((5, 3, 3), (3, 2, 0, 1))])
@pytest.mark.parametrize(
    "have, want",
    [("float16", "float32"), ("float32", "float16"), ("float16", "bfloat16")],
)
@pytest.mark.parametrize("is_whole", (True, False))
def test_pieces_of_a_tensor_make_the_whole(outputs, inner, axes, have, want, is_whole):
    numbers = np.random.default_rng(0).normal(size=(2 * outputs, *inner)).astype(have)
    tensor = numbers[:outputs] if is_whole else numbers[::2]
    wanted = tensor.transpose(np.argsort(axes)).astype(want)
    array = np.zeros(wanted.shape, want)
    copy_turned(tensor, array, axes)
    np.testing.assert_array_equal(array, wanted)
