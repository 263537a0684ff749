"""Parts for other runtimes give Python's picture, by the loop of examples/litert."""

import importlib.util
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_checkpoint import write_checkpoint
from export_cases import shorten_texts
from PIL import Image
from stable_diffusion_cases import tiny_checkpoint, tiny_model

from kerasdiff import StableDiffusion
from kerasdiff.attention import function
from kerasdiff.block_plan import unet_blocks
from kerasdiff.cli import main
from kerasdiff.configs import TINY
from kerasdiff.diffusion_model import DiffusionModel
from kerasdiff.export import converters, parts
from kerasdiff.export.pieces import cut

EXAMPLE = Path(__file__).parents[2] / "examples" / "litert" / "paint.py"
PROMPT = "a red house, and the lighthouse's 25 windows"


folder = pytest.fixture(tiny_checkpoint, scope="module")
model = pytest.fixture(tiny_model, scope="module")


@pytest.fixture(scope="module")
def paint():
    spec = importlib.util.spec_from_file_location("paint", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected(model, sampler=None):
    return model.text_to_image(
        PROMPT, "", seed=7, num_steps=3, unconditional_guidance_scale=5.0, sampler=sampler
    )[0]


def painted(paint, folder, networks):
    facts = json.loads((folder / "sampler.json").read_text())
    tokenizer = paint.Tokenizer(folder / "tokenizer")
    tokens = [paint.pack(facts, tokenizer.encode(text)) for text in (PROMPT, "")]
    return paint.paint(networks, facts, *tokens, 7, 3, 5.0)


def difference(picture, wanted):
    assert picture.shape == wanted.shape and wanted.std() > 10
    return np.abs(picture.astype(int) - wanted)


@pytest.mark.parametrize(
    "weights, most, mean", (("float32", 2, 0.1), ("float16", 8, 0.5), ("int8", 255, 20))
)
def test_litert_paints_the_picture(model, paint, tmp_path, weights, most, mean):
    pytest.importorskip("ai_edge_litert")
    folder = model.export(tmp_path / "parts", "litert", weights=weights, max_steps=3)
    command = [sys.executable, EXAMPLE, folder, PROMPT, tmp_path / "out.png", "--seed", "7",
               "--steps", "3", "--guidance", "5"]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True, cwd=tmp_path)
    with Image.open(tmp_path / "out.png") as image:
        apart = difference(np.asarray(image), expected(model))
    assert apart.max() <= most and apart.mean() <= mean
    tflite = sum(path.stat().st_size for path in folder.glob("*.tflite"))
    numbers = sum(
        np.prod(variable.shape)
        for network in (model.text_encoder, model.diffusion_model, model.decoder)
        for variable in network.variables
    )
    assert tflite < 1.35 * numbers * {"float32": 4, "float16": 2, "int8": 1}[weights]


class Onnx:
    def __init__(self, folder):
        self.folder, self.sessions = folder, {}

    def run(self, name, **inputs):
        import onnxruntime

        if name not in self.sessions:
            self.sessions[name] = onnxruntime.InferenceSession(self.folder / f"{name}.onnx")
        session = self.sessions[name]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))


class OpenVino:
    def __init__(self, folder):
        self.folder, self.compiled = folder, {}

    def run(self, name, **inputs):
        import openvino

        if name not in self.compiled:
            exact = {"INFERENCE_PRECISION_HINT": "f32"}
            path = self.folder / f"{name}.xml"
            self.compiled[name] = openvino.compile_model(path, "CPU", exact)
        outputs = self.compiled[name](inputs)
        return {next(iter(key.names)): value for key, value in outputs.items()}


@pytest.mark.parametrize(
    "format, package, runtime", (("onnx", "tf2onnx", Onnx), ("openvino", "openvino", OpenVino))
)
def test_other_runtimes_paint_the_picture(
    model, paint, tmp_path, monkeypatch, format, package, runtime
):
    pytest.importorskip(package)
    # Attention as of large pictures, in pieces.
    monkeypatch.setattr(function, "_is_short", lambda *_: False)
    folder = model.export(tmp_path / "parts", format, max_steps=3, sampler="dpmpp_2m_sde")
    picture = painted(paint, folder, runtime(folder))
    assert difference(picture, expected(model, "dpmpp_2m_sde")).max() <= 2


@pytest.mark.parametrize(
    "format, package, runtime", (("onnx", "tf2onnx", Onnx), ("openvino", "openvino", OpenVino))
)
def test_a_model_in_float16_paints_nearly_its_picture(
    drawn_folder, paint, tmp_path, format, package, runtime
):
    pytest.importorskip(package)
    model = StableDiffusion.from_preset(drawn_folder, dtype="float16", jit_compile=False)
    folder = model.export(tmp_path / "parts", format, max_steps=3)
    apart = difference(painted(paint, folder, runtime(folder)), expected(model))
    assert apart.max() <= 8 and apart.mean() <= 0.5
    weights = 2 * model.diffusion_model.count_params()
    files = (path.stat().st_size for path in folder.glob("diffusion_model.*"))
    assert max(files) < 1.35 * weights  # OpenVINO's graph lies beside its weights


def test_a_tokenizer_of_fewer_tokens_than_the_encoder_gives_the_rows(paint, tmp_path):
    pytest.importorskip("onnxruntime")
    write_checkpoint(tmp_path / "short", TINY["sd1"])
    shorten_texts(tmp_path / "short", 40)
    model = tiny_model(tmp_path / "short")
    folder = model.export(tmp_path / "parts", "onnx", max_steps=3)
    assert json.loads((folder / "sampler.json").read_text())["tokens"]["tokens"]["length"] == 40
    assert difference(painted(paint, folder, Onnx(folder)), expected(model)).max() <= 2


@pytest.mark.parametrize("count", (2, 3, 7))
def test_a_large_network_goes_into_several_files(model, paint, tmp_path, monkeypatch, count):
    pytest.importorskip("onnxruntime")
    most = model.diffusion_model.count_params() // count + 1
    monkeypatch.setattr(parts, "MOST_WEIGHTS", most)
    folder = model.export(tmp_path / "parts", "onnx", max_steps=3)
    files = sorted(folder.glob("diffusion_model*"))
    assert [path.name for path in files] == [f"diffusion_model_{i}.onnx" for i in range(count)]
    assert sum(path.stat().st_size for path in files) < 1.35 * 4 * most * count
    assert max(path.stat().st_size for path in files) < 2 * 4 * most
    picture = painted(paint, folder, Onnx(folder))
    assert difference(picture, expected(model)).max() <= 2


def test_large_parts_are_converted_in_a_process_of_their_own(model, paint, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "LARGE", model.diffusion_model.count_params() - 1)
    folder = model.export(tmp_path / "parts", "litert", max_steps=3)
    assert difference(painted(paint, folder, paint.Parts(folder)), expected(model)).max() <= 2

    killed = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(converters.subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(ValueError, match="cannot be written: killed by signal 9: was memory"):
        model.export(tmp_path / "again", "litert", max_steps=3)
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_a_converter_in_another_process_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="nowhere"):
        converters.convert_apart("litert", tmp_path / "nowhere", tmp_path / "out", "float32")


@pytest.mark.parametrize("family", ("sd1", "sdxl"))
def test_pieces_take_from_earlier_ones_alone(family):
    network = DiffusionModel(TINY[family].diffusion_model)
    for count in range(1, 9):
        given = {"latent", "timestep", "context", "added_embedding"}
        pieces = cut(network, count)
        for piece in pieces:
            assert set(piece.inputs) <= given
            given |= {*piece.outputs}
        assert sum((piece.blocks for piece in pieces), []) == unet_blocks(network.config)
        held = [variable.path for piece in pieces for variable in piece.variables]
        assert sorted(held) == sorted(variable.path for variable in network.variables)


def test_core_ml_packages_name_what_goes_in_and_out(model, tmp_path):
    """Core ML runs on Apple's systems alone: here its specification is read, no picture made."""
    coremltools = pytest.importorskip("coremltools")
    folder = model.export(tmp_path / "parts", "coreml", max_steps=3, weights="float16")
    wanted = {
        "text_encoder": ({"tokens": (1, 77)}, {"context"}),
        "diffusion_model": (
            {"latent": (1, 16, 16, 4), "timestep": (1,), "context": (1, 77, 32)}, {"prediction"},
        ),
        "decoder": ({"latents": (1, 16, 16, 4)}, {"images"}),
    }  # fmt: skip
    numbers = size = 0
    for name, (inputs, outputs) in wanted.items():
        package = folder / f"{name}.mlpackage"
        spec = coremltools.utils.load_spec(str(package))
        given = {each.name: each.type.multiArrayType for each in spec.description.input}
        assert {key: tuple(value.shape) for key, value in given.items()} == inputs
        assert {each.name for each in spec.description.output} == outputs
        (function,) = spec.mlProgram.functions.values()
        (block,) = function.block_specializations.values()
        used = {(op.type, dtype_of(each)) for op in block.operations for each in op.outputs}
        assert {pair for pair in used if pair[0] == "matmul"} == {("matmul", "FLOAT16")}
        exact = {"softmax", "pow"} | ({"sin", "cos"} if name == "diffusion_model" else set())
        found = {pair for pair in used if pair[0] in exact | {"square"}}
        assert {kind for _, kind in found} == {"FLOAT32"}
        assert {kind for kind, _ in found} >= exact
        size += (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    numbers = sum(
        np.prod(variable.shape)
        for network in (model.text_encoder, model.diffusion_model, model.decoder)
        for variable in network.variables
    )
    assert size < 1.2 * numbers * 2


def dtype_of(output):
    """Name of a Core ML tensor's element type."""
    from coremltools.proto.MIL_pb2 import DataType

    return DataType.Name(output.type.tensorType.dataType)


def test_a_missing_package_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"pip install 'kerasdiff\[openvino\]'"):
        model.export(tmp_path / "parts", "openvino")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"format": "litert", "weights": "int4"}, "`weights` of litert must be one of float32,"),
        ({"format": "onnx", "weights": "int8"}, "`weights` of onnx must be one of float32,"),
        ({"format": "litert", "img_width": 31}, "multiple of 2"),
    ],
)
def test_wrong_options_are_named_and_leave_nothing(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        model.export(tmp_path / "parts", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ("litert", "onnx", "openvino", "coreml"))
def test_a_full_disk_is_named_and_leaves_nothing(model, tmp_path, monkeypatch, format):
    pytest.importorskip(converters.PACKAGES[format])
    write = converters._CONVERTERS.get(format, parts.write_onnx)

    def write_on_a_full_disk(*given):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            write(*given)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setitem(converters._CONVERTERS, format, write_on_a_full_disk)
    monkeypatch.setattr(parts, "write_onnx", write_on_a_full_disk)
    with pytest.raises(ValueError, match="parts: .*cannot be written: "):
        model.export(tmp_path / "parts", format, max_steps=1)
    assert not list(tmp_path.iterdir())


def test_the_command_exports_parts(tmp_path, capsys):
    pytest.importorskip("ai_edge_litert")
    write_checkpoint(tmp_path / "model", TINY["sd1"])
    arguments = ["export", str(tmp_path / "out"), "--model", str(tmp_path / "model")]
    assert main([*arguments, "--format", "litert", "--max-steps", "2", "--weights", "int8"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"text_encoder.tflite", "diffusion_model.tflite", "decoder.tflite",
                     "sampler.json", "tokenizer"}  # fmt: skip
