"""Textual inversion: what trains, what does not, and how a learnt token is used."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from kerasdiff.added_tokens import add_token, expand, token_names, with_rows
from kerasdiff.checkpoints.embeddings import write_embedding
from kerasdiff.checkpoints.load import state
from kerasdiff.checkpoints.save import save_folder
from kerasdiff.checkpoints.tensors import Tensors
from kerasdiff.configs import TINY
from kerasdiff.stable_diffusion import StableDiffusion
from kerasdiff.text_encoder import TextEncoder
from kerasdiff.training.data.batches import Batches, DiffusionDraw
from kerasdiff.training.textual_inversion import (
    InversionSource,
    TextualInversionTrainer,
    rows_of,
)

CONFIG = TINY["sd1"]


@pytest.fixture(scope="module")
def model():
    return StableDiffusion(checkpoint=CONFIG, jit_compile=False)


class Pictures:
    """Latents' moments of four pictures."""

    sizes, skipped = [(4, 4)] * 4, {}

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return np.random.default_rng(i).normal(size=(4, 4, 8)).astype("float16"), "unused"


def trained(steps=4):
    """A trainer after a few steps of an optimizer that would change all it may."""
    fresh = StableDiffusion(checkpoint=CONFIG, jit_compile=False)
    tokenizer, encoder = fresh.tokenizer, fresh.text_encoder
    names = token_names("<cat>", 2)
    rows = rows_of(encoder, tokenizer, "animal", 2)
    tokenizer.add_tokens(names)
    trainer = TextualInversionTrainer(CONFIG, fresh.diffusion_model, encoder, rows)
    trainer.compile(keras.optimizers.AdamW(0.1, weight_decay=0.5, use_ema=True), jit_compile=False)
    before = {
        v.path: np.array(v.value) for v in encoder.variables + fresh.diffusion_model.variables
    }
    source = InversionSource(Pictures(), " ".join(names))
    draw = DiffusionDraw([tokenizer], CONFIG, caption_dropout=0.0, moments=True)
    trainer.fit(Batches(source, 2, draw), steps_per_epoch=steps, shuffle=False, verbose=0)
    after = {v.path: np.array(v.value) for v in encoder.variables + fresh.diffusion_model.variables}
    return trainer, rows, before, after


def test_only_the_new_rows_change():
    trainer, rows, before, after = trained()
    assert len(trainer.trainable_variables) == 1
    assert np.abs(np.array(trainer.rows.value) - rows).min() > 0
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_the_context_in_training_is_the_context_in_use(model):
    rows = np.random.default_rng(0).normal(size=(2, CONFIG.text_encoders[0].width))
    trainer = TextualInversionTrainer(CONFIG, model.diffusion_model, model.text_encoder, rows)
    size = CONFIG.text_encoders[0].vocab_size
    tokens = np.array([[49406, 320, size, size + 1, 49407], [49406, 320, 5, 6, 49407]], "int32")
    got = trainer._context({"tokens": tokens})
    larger = with_rows(model.text_encoder, rows)
    expected = larger({"tokens": tokens, "positions": np.arange(5)[None]})
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_rows_of_another_width_are_refused(model):
    with pytest.raises(ValueError, match=r"must be \(n, 32\)"):
        TextualInversionTrainer(CONFIG, model.diffusion_model, model.text_encoder, np.ones((1, 9)))


def test_a_word_of_nothing_gives_no_vectors(model):
    with pytest.raises(ValueError, match="`word` must hold a token, not ' '"):
        rows_of(model.text_encoder, model.tokenizer, " ")


def test_pictures_come_with_each_template():
    source = InversionSource(Pictures(), "<cat>", ("a {}", "the {}"), repeats=2)
    assert len(source) == len(source.sizes) == 8
    captions = [source[i][1] for i in range(8)]
    assert captions == ["a <cat>", "the <cat>"] * 2 + ["the <cat>", "a <cat>"] * 2
    with pytest.raises(ValueError, match="templates"):
        InversionSource(Pictures(), "<cat>", ("no place",))


def test_a_prompt_names_every_vector():
    tokens = ["<cat>", "<cat>_1", "<cat>_2", "dog"]
    assert expand("a <cat>, a dog", tokens) == "a <cat> <cat>_1 <cat>_2, a dog"
    assert expand("A <CAT>", tokens) == "A <cat> <cat>_1 <cat>_2"
    assert expand("<cat> <cat>_1", tokens[:2]) == "<cat> <cat>_1 <cat>_1"
    assert expand("a dog", []) == "a dog"


def test_a_token_within_another_one_stays_whole():
    tokens = ["easy", "easy_1", "easyv2"]
    assert expand("easyv2, Easy", tokens) == "easyv2, easy easy_1"


def test_every_vector_of_a_folder_s_own_tokens_is_named(tmp_path):
    rows = np.random.default_rng(1).normal(size=(2, 32)).astype("float32")
    model = StableDiffusion(checkpoint=CONFIG, jit_compile=False)
    add_token(model, "<cat>", [rows])
    parts = {"unet": state(model.diffusion_model), "text_encoder": state(model.text_encoder)}
    parts["vae"] = state(model.image_encoder).entries | state(model.decoder).entries
    parts["vae"] = Tensors("vae", parts["vae"])
    model.tokenizer.save(tmp_path / "tokenizer")
    config = replace(CONFIG, text_encoders=(model.text_encoder.config,))
    save_folder(tmp_path / "model", config, parts, None, {"tokenizer": tmp_path / "tokenizer"})
    opened = StableDiffusion.from_preset(tmp_path / "model", jit_compile=False)
    tokens = model.tokenizer.pack("a <cat> <cat>_1")
    expected = model.text_encoder({"tokens": tokens[None], "positions": np.arange(77)[None]})
    np.testing.assert_allclose(opened.encode_text("a <cat>"), expected, rtol=1e-4, atol=1e-5)


def test_a_larger_table_changes_no_other_text(model):
    larger = with_rows(model.text_encoder, np.ones((3, 32)))
    inputs = {"tokens": np.array([[1, 2, 3]]), "positions": np.arange(3)[None]}
    np.testing.assert_array_equal(larger(inputs), model.text_encoder(inputs))


@pytest.mark.parametrize("form, name", [("diffusers", "embeds"), ("web-ui", "<cat>")])
def test_a_learnt_token_is_used_by_its_name(tmp_path, form, name):
    rows = np.random.default_rng(1).normal(size=(2, 32)).astype("float32")
    path = tmp_path / f"{name}.safetensors"
    write_embedding(path, "<cat>", rows, form)
    model = StableDiffusion(checkpoint=CONFIG, jit_compile=False)
    encoder, before = model.text_encoder, model.encode_text("a cat")
    assert model.load_textual_inversion(path) == "<cat>"
    np.testing.assert_array_equal(model.encode_text("a cat"), before)  # other prompts stay
    tokens = model.tokenizer.pack("a <cat> <cat>_1")
    assert list(tokens[2:4]) == [49408, 49409]
    inputs = {"tokens": tokens[None], "positions": np.arange(77)[None]}
    expected = with_rows(encoder, rows)(inputs)
    np.testing.assert_allclose(model.encode_text("a <cat>"), expected, rtol=1e-4, atol=1e-5)


def test_a_token_can_be_called_otherwise(tmp_path):
    write_embedding(tmp_path / "e.safetensors", "<cat>", np.ones((1, 32)))
    model = StableDiffusion(checkpoint=CONFIG)
    assert model.load_textual_inversion(tmp_path / "e.safetensors", token="<dog>") == "<dog>"
    assert "<dog>" in model.tokenizer.vocab and "<cat>" not in model.tokenizer.vocab


def test_a_token_that_exists_is_refused_and_nothing_changes(tmp_path):
    model = StableDiffusion(checkpoint=CONFIG)
    write_embedding(tmp_path / "e.safetensors", "<cat>", np.ones((1, 32)))
    model.load_textual_inversion(tmp_path / "e.safetensors")
    encoder = model.text_encoder
    with pytest.raises(ValueError, match="exists already"):
        model.load_textual_inversion(tmp_path / "e.safetensors")
    assert model.text_encoder is encoder and model.tokenizer.vocab_size == 49409


@pytest.mark.parametrize(
    "vectors, message",
    [([np.ones((1, 48))], "width of 32"), ([np.ones((1, 32))] * 2, "for 2 text encoders")],
)
def test_vectors_for_other_text_encoders_are_refused(vectors, message):
    model = StableDiffusion(checkpoint=CONFIG)
    with pytest.raises(ValueError, match=message):
        add_token(model, "<cat>", vectors)
    assert "<cat>" not in model.tokenizer.vocab


def test_both_text_encoders_of_sdxl_learn_the_token():
    model = StableDiffusion(checkpoint=TINY["sdxl"])
    assert add_token(model, "<cat>", [np.ones((2, 32)), np.zeros((2, 32))]) == 2
    for tokenizer in (model.tokenizer, model.tokenizer_2):
        assert tokenizer.vocab["<cat>_1"] == 49409
    assert model.text_encoder_2.config.vocab_size == 49410


def test_a_smaller_vocabulary_takes_tokens_too():
    text = replace(CONFIG.text_encoders[0], vocab_size=100)
    larger = with_rows(TextEncoder(text), np.ones((1, 32)))
    assert larger.config.vocab_size == 101
