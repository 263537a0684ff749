"""`make weights`, with few steps in each stage: from nothing to a folder that paints."""

import sys

import numpy as np
import pytest

from kerasdiff.demo import recipe
from kerasdiff.stable_diffusion import StableDiffusion

FEW = {
    "AUTOENCODER_PICTURES": 24,
    "AUTOENCODER_PHASES": ((64, 2, 52, 0.01), (recipe.SIZE, 2, 104, 0.002)),
    "POLISHES": ((8, 3, 2, 51, 0.004),),
    "LESSON_STEPS": 451,
    "LESSON_BATCH": 2,
    "ROUNDS": (
        recipe.Round(((6, 3), (12, 102)), decay=1, batch=2),
        recipe.Round(((18, 102),), decay=1, batch=2),
    ),
}


@pytest.fixture
def make_weights(monkeypatch, tmp_path):
    for name, value in FEW.items():
        monkeypatch.setattr(recipe, name, value)
    monkeypatch.setattr(recipe, "compiles_training", lambda: False)  # so few steps start sooner
    monkeypatch.setattr(sys, "argv", ["recipe", str(tmp_path)])

    def make():
        recipe.main()
        return tmp_path / "demo"

    return make


def weights_of(folder):
    paths = sorted(folder.rglob("*.safetensors"))
    return {path.parent.name: path.read_bytes() for path in paths}


def test_the_recipe_goes_from_nothing_to_a_folder_that_paints(make_weights):
    folder = make_weights()
    weights = weights_of(folder)
    assert list(weights) == ["text_encoder", "unet", "vae"]
    model = StableDiffusion.from_preset(str(folder))
    texts = ["a red house by day", "a boat with red sails at sea"]
    first, second = model.text_to_image(texts, num_steps=4, seed=1).astype(int)
    assert first.std() > 1 and np.abs(first - second).max() > 0

    with pytest.raises(SystemExit):  # rather than hours later
        make_weights()
    folder.rename(folder.with_name("first"))
    # Every stage finds its last state and has nothing left to do.
    assert weights_of(make_weights()) == weights
