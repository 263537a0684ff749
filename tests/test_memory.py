"""Little memory: the same pictures, one model at a time, weights as they are read, tiles."""

from dataclasses import replace
from threading import Thread

import keras
import numpy as np
import pytest
from stable_diffusion_cases import FEW, tiny_checkpoint, tiny_model

from kerasdiff import StableDiffusion, compiled_models, progress
from kerasdiff.checkpoints import load
from kerasdiff.checkpoints.load import MismatchError
from kerasdiff.checkpoints.save import convert
from kerasdiff.checkpoints.streaming import StreamedDiffusionModel
from kerasdiff.checkpoints.tensors import CheckpointError, Tensors
from kerasdiff.configs import TINY
from kerasdiff.decoder import Decoder

pytestmark = pytest.mark.usefixtures("uncompiled")
folder = pytest.fixture(tiny_checkpoint, scope="module")
model = pytest.fixture(tiny_model, scope="module")
PHOTO = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype="uint8")


def opened(folder, **options):
    return StableDiffusion.from_preset(folder, jit_compile=False, **options)


def held(model):
    """The networks whose weights are in memory."""
    names = {name for name in model._parts if not name.startswith(("tokenizer", "streamed"))}
    assert all(
        keras.ops.size(variable) == 0
        for name in model._empty for variable in model._parts[name].variables
    )  # fmt: skip
    return names - model._empty


@pytest.mark.parametrize("memory", ("medium", "low"))
def test_less_memory_gives_the_same_picture(folder, model, memory):
    little = opened(folder, memory=memory)
    options = FEW | {"sampler": "euler_ancestral"}
    ours = little.text_to_image("a red house", **options).astype(int)
    assert np.abs(ours - model.text_to_image("a red house", **options)).max() <= 1
    ours = little.image_to_image("a red house", PHOTO, 0.6, **FEW).astype(int)
    assert np.abs(ours - model.image_to_image("a red house", PHOTO, 0.6, **FEW)).max() <= 1


@pytest.mark.parametrize("memory", ("high", "medium", "low"))
def test_the_compiler_is_told_what_memory_and_dtype_are_asked_for(folder, monkeypatch, memory):
    asked = []
    monkeypatch.setattr(compiled_models, "prepare_compiler", lambda *given: asked.append(given))
    opened(folder, memory=memory, dtype="bfloat16")
    assert asked == [(memory, "bfloat16", False)]


@pytest.mark.parametrize(
    "options, spares", [({}, False), ({"memory": "medium"}, False), ({"memory": "low"}, True),
                        ({"tile": 16}, True)],
)  # fmt: skip
def test_pictures_programs_spare_memory_where_it_is_short(folder, monkeypatch, options, spares):
    asked = []

    def program(function, model, jit_compile, spares):
        asked.append(spares)
        return function

    monkeypatch.setattr(compiled_models, "Program", program)
    opened(folder, **options).decode(np.zeros((1, 4, 4, 4), "float32"))
    assert asked == [spares]


def test_low_memory_shows_previews(folder):
    seen = []
    opened(folder, memory="low").text_to_image(
        "a red house", **FEW, callback=lambda step, total, preview: seen.append(preview().shape)
    )
    assert seen == [(1, 32, 32, 3)] * 3


def test_previews_do_not_let_the_network_go(folder):
    little, read = opened(folder, memory="medium"), []
    refill = little._models.refill
    little._models.refill = lambda model, name: read.append(name) or refill(model, name)

    def show(step, total, preview):
        if step == 1:  # a picture within a picture
            little.text_to_image("a blue boat", **FEW, callback=lambda *_: None)
        preview()

    little.text_to_image("a red house", **FEW, callback=show)
    assert read.count("diffusion_model") == 1 and read.count("decoder") > 1
    assert held(little) == {"decoder"}


def test_with_medium_memory_one_model_is_held_at_a_time(folder):
    little = opened(folder, memory="medium")
    context = little.encode_text("a red house")
    assert held(little) == {"text_encoder"}
    little.generate_image(context, **FEW)
    assert held(little) == {"decoder"}


@pytest.mark.parametrize(
    "options", [{"memory": "medium"}, {"memory": "low"}, {"memory": "medium", "int8": True},
                {"memory": "medium", "dtype": "mixed_bfloat16"}],
)  # fmt: skip
def test_with_little_memory_programs_stay(folder, options):
    little = opened(folder, **options)
    first = little.image_to_image("a red house", PHOTO, 0.6, **FEW)
    parts, programs = dict(little._parts), dict(little._programs)
    again = little.image_to_image("a red house", PHOTO, 0.6, **FEW)
    np.testing.assert_array_equal(again, first)
    assert little._parts == parts and little._programs == programs


@pytest.mark.parametrize("task", ("encode_text", "decoder"))
def test_threads_take_turns_with_little_memory(folder, task):
    little, threads, waited = opened(folder, memory="medium"), [], []

    def work():
        return little.encode_text("a blue boat") if task == "encode_text" else little.decoder

    def begin(step, total, preview):
        thread = Thread(target=work)
        thread.start()
        thread.join(0.2)
        waited.append(thread.is_alive())
        threads.append(thread)

    little.text_to_image("a red house", **FEW, callback=begin)
    for thread in threads:
        thread.join(60)
    assert waited == [True] * 3 and not any(thread.is_alive() for thread in threads)


def test_weights_that_could_not_be_read_anew_are_read_by_the_next_picture(folder, monkeypatch):
    little = opened(folder, memory="medium")
    first = little.text_to_image("a red house", **FEW)
    with monkeypatch.context() as patch:
        patch.setattr(load, "require_finite", _raise_after(3))
        with pytest.raises(CheckpointError, match="a damaged file"):
            little.text_to_image("a red house", **FEW)
    assert held(little) == set()
    np.testing.assert_array_equal(little.text_to_image("a red house", **FEW), first)


def test_weights_are_not_read_anew_from_a_file_that_was_replaced(single):
    path = single()
    little = opened(path, memory="medium")
    little.encode_text("a red house")
    little.decode(np.zeros((1, 4, 4, 4), "float32"))
    convert(path, path, "float16")
    with pytest.raises(CheckpointError, match=f"{path}: was changed after it was opened"):
        little.encode_text("a red house")
    opened(path, memory="medium").encode_text("a red house")


def _raise_after(count):
    calls = iter(range(count))

    def check(*_):
        if next(calls, None) is None:
            raise CheckpointError("a damaged file")

    return check


def test_what_decodes_in_float32_gives_its_weights_up_too(folder, model):
    little = opened(folder, memory="medium")
    little.decoder = Decoder(model.decoder.config, dtype="float16")
    for target, source in zip(little.decoder.variables, model.decoder.variables, strict=True):
        target.assign(source.value)
    latents = np.full((1, 16, 16, 4), 1e5, "float32")  # more than float16 can hold
    for _ in range(2):
        np.testing.assert_allclose(little.decode(latents), model.decode(latents), atol=1)
        assert held(little) == {"decoder", "float32_decoder"}
        little.encode_text("a red house")
        assert held(little) == {"decoder", "text_encoder"}


def test_with_low_memory_the_network_is_never_whole(folder):
    little = opened(folder, memory="low")
    little.text_to_image("a red house", **FEW)
    assert "diffusion_model" not in little._parts and held(little) == {"decoder"}


@pytest.mark.parametrize("memory", ("medium", "low"))
def test_a_model_that_was_taken_or_set_is_kept(folder, model, memory):
    little = opened(folder, memory=memory)
    network = little.diffusion_model
    network.get_layer("conv_out").bias.assign_add(keras.ops.ones(4))
    little.decoder = model.decoder
    changed = little.text_to_image("a red house", **FEW).astype(int)
    assert little.diffusion_model is network and little.decoder is model.decoder
    assert np.abs(changed - model.text_to_image("a red house", **FEW)).max() > 5


@pytest.mark.parametrize("options, error", [
    ({"memory": "tiny"}, "`memory` must be one of high, medium, low, not 'tiny'"),
    ({"tile": 101}, "`tile` must be a multiple of 2, not 101"),
    ({"tile": 0}, "`tile` must be a positive whole number of pixels, not 0"),
    ({"tile": 64.0}, "`tile` must be a positive whole number of pixels, not 64.0"),
])  # fmt: skip
def test_what_cannot_be_is_refused(folder, options, error):
    with pytest.raises(ValueError, match=error):
        opened(folder, **options)


@pytest.mark.parametrize("memory", ("medium", "low"))
def test_untrained_networks_cannot_be_made_anew(memory):
    with pytest.raises(ValueError, match=f"`memory` '{memory}' needs a checkpoint"):
        StableDiffusion(checkpoint=TINY["sd1"], memory=memory)


# Weights as they are read


def test_streaming_computes_what_the_model_does(model):
    draw = np.random.default_rng(0).standard_normal
    config = model.config.diffusion_model
    inputs = {
        "latent": draw((2, 8, 12, config.in_channels), "float32"),
        "timestep_embedding": draw((2, config.channels[0]), "float32"),
        "context": draw((2, 5, config.context_dim), "float32"),
    }
    tensors = model._models.checkpoint.parts["unet"]
    for dtype in ("float32", "bfloat16"):
        network = type(model.diffusion_model)(config, dtype=dtype)
        model._models.checkpoint.load("unet", network)
        ours = np.array(StreamedDiffusionModel(config, tensors, dtype)(inputs), "float32")
        theirs = np.array(network(inputs), "float32")
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 if dtype == "float32" else 0.05)


@pytest.mark.parametrize("fault", ("missing", "unexpected", "misshapen"))
def test_a_checkpoint_that_does_not_fit_is_refused_before_the_first_step(model, fault):
    tensors = dict(model._models.checkpoint.parts["unet"].entries)
    first = next(name for name in tensors if name.endswith("conv1.weight"))
    if fault == "missing":
        del tensors[first]
    elif fault == "unexpected":
        tensors["conv_next.weight"] = tensors[first]
    else:
        tensors[first] = replace(tensors[first], shape=(1, 2, 3, 3))
    with pytest.raises(MismatchError, match=f"1 {fault}: "):
        StreamedDiffusionModel(model.config.diffusion_model, Tensors("a file", tensors))


# Tiles


@pytest.fixture
def cut(monkeypatch):
    """The sizes of what was cut into tiles, and of its tiles."""
    seen, cut_up = [], compiled_models.in_tiles

    def noting(function, array, size, *scales):
        def noted(tile):
            seen.append((array.shape[:2], tile.shape[1:3]))
            return function(tile)

        return cut_up(noted, array, size, *scales)

    monkeypatch.setattr(compiled_models, "in_tiles", noting)
    return seen


def test_pictures_no_larger_than_a_tile_are_not_changed(folder, model):
    tiled = opened(folder, tile=32)
    picture = tiled.text_to_image("a red house", **FEW)
    np.testing.assert_array_equal(picture, model.text_to_image("a red house", **FEW))


def test_tiles_work_both_ways_at_any_size(folder, cut):
    tiled = opened(folder, tile=32)
    photo = np.random.default_rng(1).integers(0, 255, (40, 72, 3), dtype="uint8")
    assert tiled.image_to_image("a red house", photo, 0.6, **FEW).shape == (1, 40, 72, 3)
    assert set(cut) == {((40, 72), (32, 32)), ((20, 36), (16, 16))}


@pytest.mark.parametrize(
    "memory, tile, unit, count", [("high", 32, "tile", 12), ("medium", None, "picture", 2)]
)
def test_bars_count_steps_and_then_what_is_decoded(folder, monkeypatch, memory, tile, unit, count):
    bars, make = [], progress.bar

    def noting(total, unit, shown, desc, **options):
        bars.append((make(total, unit, shown, desc=desc, **options), unit, desc))
        return bars[-1][0]

    monkeypatch.setattr(progress, "bar", noting)
    tiled = opened(folder, memory=memory, tile=tile)
    size = {"img_height": 40, "img_width": 72, "batch_size": 2}
    for _ in range(2):
        tiled.text_to_image("a red house", **FEW | {"seed": [1, 2]}, **size, progress=True)
    again = None if memory == "high" else "loading, compiling"
    assert [(bar.n, bar.total, *rest) for bar, *rest in bars] == [
        (3, 3, "step", "loading, compiling"), (count, count, unit, "decoding"),
        (3, 3, "step", again), (count, count, unit, "decoding"),
    ]  # fmt: skip
