"""Learnt tokens in diffusers and here: the same files, the same context."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from drawn_checkpoint import write_checkpoint

from kerasdiff.checkpoints.embeddings import write_embedding
from kerasdiff.configs import TINY
from kerasdiff.stable_diffusion import StableDiffusion

ROWS = np.random.default_rng(0).normal(size=(2, 32)).astype("float32")
PROMPT = "two <cat> toys, one cat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "model"
    write_checkpoint(path, TINY["sd1"])
    return path


def their_context(folder, file, token=None):
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.load_textual_inversion(str(file), token=token)
    with torch.no_grad():
        return pipe.encode_prompt(PROMPT, "cpu", 1, False)[0].numpy()


def our_context(folder, file, token=None):
    model = StableDiffusion.from_preset(folder)
    model.load_textual_inversion(file, token=token)
    return model.encode_text(PROMPT)


@pytest.mark.parametrize("form", ["diffusers", "web-ui"])
def test_diffusers_reads_what_we_write(folder, tmp_path, form):
    file = tmp_path / "<cat>.safetensors"
    write_embedding(file, "<cat>", ROWS, form)
    theirs = their_context(folder, file, "<cat>")
    np.testing.assert_allclose(our_context(folder, file), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bin", "pt"])
def test_we_read_what_torch_writes(folder, tmp_path, kind):
    file, rows = tmp_path / f"learned_embeds.{kind}", torch.from_numpy(ROWS)
    web_ui = {"string_to_token": {"*": 265}, "string_to_param": {"*": rows}, "name": "<cat>"}
    torch.save({"<cat>": rows} if kind == "bin" else web_ui, file)
    theirs = their_context(folder, file)
    np.testing.assert_allclose(our_context(folder, file), theirs, rtol=1e-4, atol=1e-5)
