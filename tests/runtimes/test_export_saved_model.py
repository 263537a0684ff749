"""A SavedModel gives Python's pictures in a process that has TensorFlow alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_checkpoint import write_checkpoint
from export_cases import (
    MASK,
    PICTURE,
    alone,
    inputs,
    opened,
    same,
    settings,
    shorten_texts,
    tokens,
)
from tensorflow.core.protobuf import saved_model_pb2

from kerasdiff import conditioning
from kerasdiff.added_tokens import add_token
from kerasdiff.backend import Forms, forms
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.cli import main
from kerasdiff.configs import TINY
from kerasdiff.export import export
from kerasdiff.layers import products


def compiled(folder):
    """How many functions of a SavedModel XLA must compile."""
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    functions = saved.meta_graphs[0].graph_def.library.function
    return sum(each.attr["_XlaMustCompile"].b for each in functions)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("checkpoint"), "sd1")


def test_every_task_of_a_fixed_size_by_xla(model, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(products, "forms", lambda: asked.append(forms()) or asked[-1])
    folder = model.export(tmp_path / "sampler", max_steps=10, jit_compile=True)
    assert set(asked) == {Forms()}  # nothing is fitted to this machine's processor
    assert compiled(folder) >= 4  # text encoder, loop, decoder, image encoder
    text, negative = "a red house", "a tree"
    image, mask = {"image": PICTURE[None]}, {"mask": MASK[None, ..., None]}
    strengths = {"strength": np.float32(0.7)}  # 7 of 10 steps, as 10 * 0.7 in Python
    noise = np.random.default_rng(1).standard_normal((1, 16, 16, 4), "float32")
    unknown, absent = tokens(model, text), tokens(model, text)
    unknown["tokens"][0, 3], absent["tokens"][0, 0] = 49408, -1
    results = alone(
        folder, tmp_path,
        ("text_to_image", inputs(model, text, negative=negative)),
        ("text_to_image", inputs(model, text, seed=2**40 + 9, steps=1, scale=0.5)),
        ("text_to_image_with_noise", inputs(model, text, seed=None, noise=noise)),
        ("image_to_image", inputs(model, text, steps=10, **image, **strengths)),
        ("inpaint", inputs(model, text, steps=10, **image, **mask, **strengths)),
        ("inpaint", inputs(model, text, **image, **mask, strength=np.float32(1.0))),
        ("encode_text", tokens(model, text)),
        ("decode", {"latents": noise}),
        ("encode_text", unknown),
        ("encode_text", absent),
    )  # fmt: skip
    pictures = [result.get("images") for result in results]
    same(pictures[0], model.text_to_image(text, negative, **settings()))
    same(pictures[1], model.text_to_image(text, **settings(seed=2**40 + 9, steps=1, scale=0.5)))
    same(pictures[2], model.text_to_image(text, **settings(seed=None), diffusion_noise=noise))
    same(pictures[3], model.image_to_image(text, PICTURE, 0.7, **settings(steps=10)))
    same(pictures[4], model.inpaint(text, PICTURE, MASK, 0.7, **settings(steps=10)))
    same(pictures[5], model.inpaint(text, PICTURE, MASK, **settings()))
    np.testing.assert_allclose(results[6]["context"], model.encode_text(text), atol=1e-4)
    same(pictures[7], model.decode(noise))
    for result in results[8:]:
        assert "tokens must be from 0 to 49407" in str(result["error"])


def test_any_size_and_batch_with_fresh_noise_in_every_step(model, tmp_path):
    folder = model.export(
        tmp_path / "sampler", free_size=True, max_steps=6, sampler="euler_ancestral"
    )
    assert compiled(folder) == 0
    texts = "a red house", "a tree"
    size = {"img_height": np.int32(20), "img_width": np.int32(28)}  # latents of 10 x 14
    odd = {"img_height": np.int32(21), "img_width": np.int32(28)}
    picture = np.random.default_rng(2).integers(0, 255, (6, 6, 3), dtype="uint8")  # ragged noise
    results = alone(
        folder, tmp_path,
        ("text_to_image", inputs(model, *texts, **size)),
        ("image_to_image", inputs(model, *texts, image=picture[None], strength=np.float32(0.5))),
        ("text_to_image", inputs(model, *texts, **odd)),
        ("text_to_image", inputs(model, *texts, steps=7, **size)),
        ("text_to_image", inputs(model, *texts, scale=-1.0, **size)),
        ("image_to_image", inputs(model, *texts, image=picture[None], strength=np.float32(0.1))),
    )  # fmt: skip
    given = settings(sampler="euler_ancestral")
    expected = model.text_to_image(texts, img_height=20, img_width=28, **given)
    same(results[0]["images"], expected)
    same(results[1]["images"], model.image_to_image(list(texts), picture, 0.5, **given))
    for result, message in zip(
        results[2:],
        ("multiples of 2", "num_steps must be from 1 to 6", "guidance_scale must be", "strength"),
        strict=True,
    ):
        assert message in str(result["error"])


@pytest.mark.parametrize("family", ("sd2", "sdxl"))
def test_other_families(family, tmp_path):
    model = opened(tmp_path, family)
    texts = model.config.text_encoders
    add_token(model, "<cat>", [np.ones((1, text.width), "float32") for text in texts])
    folder = model.export(
        tmp_path / "sampler", tasks=["text_to_image"], max_steps=4, jit_compile=False
    )
    calls = [("text_to_image", inputs(model, "a house"))]
    none = inputs(model, "a house")  # SDXL's own negative is no text at all
    none["negative_tokens"] = -np.ones_like(none["negative_tokens"])
    calls += [("text_to_image", none)] if family == "sdxl" else []
    calls += [("encode_text", tokens(model, "a <cat>"))]
    *results, learnt = alone(folder, tmp_path, *calls)
    encoded = conditioning.as_conditioning(
        model.encode_text("a <cat>"), model.config.diffusion_model, "text"
    )
    np.testing.assert_allclose(learnt["context"], encoded.context, atol=1e-4)
    first, *others = [result["images"] for result in results]
    same(first, model.text_to_image("a house", "", **settings()))
    for pictures in others:
        same(pictures, model.text_to_image("a house", **settings()))


def test_networks_for_inpainting(tmp_path):
    model = opened(tmp_path, "sd1-inpaint")
    folder = model.export(tmp_path / "sampler", tasks=["inpaint"], max_steps=4, jit_compile=False)
    picture = {"image": PICTURE[None], "mask": MASK[None, ..., None]}
    results = alone(
        folder, tmp_path,
        ("inpaint", inputs(model, "a house", **picture, strength=np.float32(1.0))),
        ("inpaint", inputs(model, "a house", **picture, strength=np.float32(0.5))),
    )  # fmt: skip
    same(results[0]["images"], model.inpaint("a house", PICTURE, MASK, **settings()))
    same(results[1]["images"], model.inpaint("a house", PICTURE, MASK, 0.5, **settings()))


def test_the_folder_tells_a_stranger_all_and_holds_the_weights_once(model, tmp_path):
    folder = export(
        model, tmp_path / "sampler", img_height=32, img_width=32, max_steps=2, jit_compile=False
    )
    networks = (model.text_encoder, model.diffusion_model, model.image_encoder, model.decoder)
    weights = sum(4 * np.prod(v.shape) for network in networks for v in network.variables)
    written = sum(path.stat().st_size for path in (folder / "variables").iterdir())
    assert weights <= written < 1.1 * weights
    facts = json.loads((folder / "signature.json").read_text())
    assert facts["tokens"]["tokens"] == {"length": 77, "start": 49406, "end": 49407, "pad": 49407}
    assert set(facts["signatures"]) == {
        "encode_text", "decode", "text_to_image", "text_to_image_with_noise", "image_to_image",
        "inpaint",
    }  # fmt: skip
    text = facts["signatures"]["text_to_image"]
    given, images = text["inputs"]["tokens"], text["outputs"]["images"]
    assert (given["dtype"], given["shape"]) == ("int32", [1, 77]) and ":" in given["tensor"]
    assert (images["dtype"], images["shape"]) == ("uint8", [1, 32, 32, 3])
    readme = (folder / "README.txt").read_text()
    assert "49406" in readme and "32 x 32" in readme and "{" not in readme
    assert (folder / "tokenizer" / "merges.txt").is_file()


BAD = {
    "an unknown format": ({"format": "magic"}, "`format` must be one of tf_saved_model"),
    "an unknown task": ({"tasks": ["upscale"]}, "`tasks` must be some of text_to_image"),
    "a task as text": ({"tasks": "inpaint"}, "`tasks` must be some of"),
    "no task": ({"tasks": []}, "`tasks` must be some of"),
    "a size that does not fit": ({"img_height": 31}, "multiple of 2"),
    "no batch": ({"batch_size": 0}, "`batch_size` must be"),
    "XLA of no size": ({"free_size": True, "jit_compile": True}, "XLA compiles a fixed size"),
    "no steps": ({"max_steps": 0}, "`max_steps` must be"),
    "an unknown sampler": ({"sampler": "magic"}, "`sampler` must be one of"),
}


@pytest.mark.parametrize("options, message", BAD.values(), ids=BAD)
def test_wrong_options_are_named_and_leave_nothing(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        model.export(tmp_path / "sampler", **({"max_steps": 2} | options))
    assert not list(tmp_path.iterdir())


def test_what_stood_at_the_target_stays(model, tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "precious").write_text("kept")
    with pytest.raises(CheckpointError, match="exists and is not an empty folder"):
        model.export(tmp_path / "old", max_steps=2)
    assert (tmp_path / "old" / "precious").read_text() == "kept"

    import tensorflow as tf

    def fill_up(module, folder, signatures, options):
        (Path(folder) / "half").write_text("written")
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fill_up)
    with pytest.raises(CheckpointError, match="new: cannot be written: No space left on device"):
        model.export(tmp_path / "new", max_steps=2, jit_compile=False)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_the_command_exports(tmp_path, capsys):
    config = replace(TINY["sd1"], image_size=(32, 32))
    write_checkpoint(tmp_path / "model", config)
    arguments = ["export", str(tmp_path / "out"), "--model", str(tmp_path / "model")]
    arguments += ["--tasks", "text_to_image", "--size", "16x24", "--max-steps", "2", "--no-jit"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'out'}\n")
    facts = json.loads((tmp_path / "out" / "signature.json").read_text())
    assert (facts["width"], facts["height"]) == (16, 24) and facts["max_steps"] == 2
    assert main(arguments) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err


def test_a_tokenizer_of_fewer_tokens_than_the_encoder_gives_the_rows(tmp_path):
    write_checkpoint(tmp_path / "sd1", TINY["sd1"])
    shorten_texts(tmp_path / "sd1", 40)
    model = opened(tmp_path, "sd1")
    folder = model.export(tmp_path / "out", tasks=["text_to_image"], max_steps=4, jit_compile=False)
    assert json.loads((folder / "signature.json").read_text())["tokens"]["tokens"]["length"] == 40
    (made,) = alone(folder, tmp_path, ("text_to_image", inputs(model, "a red house")))
    same(made["images"], model.text_to_image("a red house", "", **settings()))
