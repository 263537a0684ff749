"""SavedModels of 16-bit models, of the demo, and of pictures that are no numbers."""

import numpy as np
import pytest
from export_cases import MASK, PICTURE, alone, inputs, opened, same, settings

from kerasdiff import StableDiffusion


@pytest.mark.parametrize("dtype", ("bfloat16", "float16"))
def test_sixteen_bits_give_nearly_pythons_pictures(tmp_path, dtype):
    model = opened(tmp_path, "sd1", dtype=dtype)
    folder = model.export(tmp_path / "sampler", max_steps=2, jit_compile=False)
    image, half = {"image": PICTURE[None]}, {"strength": np.float32(0.5)}
    mask = {"mask": MASK[None, ..., None]}
    noise = np.random.default_rng(1).standard_normal((1, 16, 16, 4), "float32")
    results = alone(
        folder, tmp_path,
        ("text_to_image", inputs(model, "a house", steps=2)),
        ("image_to_image", inputs(model, "a house", steps=2, **image, **half)),
        ("inpaint", inputs(model, "a house", steps=2, **image, **mask, **half)),
        ("decode", {"latents": noise}),
    )  # fmt: skip
    expected = (
        model.text_to_image("a house", **settings(steps=2)),
        model.image_to_image("a house", PICTURE, 0.5, **settings(steps=2)),
        model.inpaint("a house", PICTURE, MASK, 0.5, **settings(steps=2)),
        model.decode(noise),
    )
    for result, wanted in zip(results, expected, strict=True):
        assert "images" in result, result["error"]
        assert wanted.std() > 10
        assert np.abs(result["images"].astype(int) - wanted).mean() < 4
    networks = model.text_encoder, model.diffusion_model, model.image_encoder, model.decoder
    sizes = {"float16": 2, "bfloat16": 2, "float32": 4}  # float16's autoencoder is in float32
    weights = sum(sizes[v.dtype] * np.prod(v.shape) for each in networks for v in each.variables)
    assert sum(file.stat().st_size for file in (folder / "variables").iterdir()) < 1.1 * weights
    assert f"Weights are {dtype}" in (folder / "README.txt").read_text()


def test_a_picture_that_is_not_finite_is_refused(tmp_path):
    model = opened(tmp_path, "sd1")
    folder = model.export(
        tmp_path / "sampler", tasks=["text_to_image"], max_steps=1, jit_compile=False
    )
    bad = np.full((2, 1, 16, 16, 4), [[[[[np.nan]]]], [[[[np.inf]]]]], "float32")
    calls = [("decode", {"latents": latents}) for latents in bad]
    for result in alone(folder, tmp_path, *calls):
        assert "the decoded picture is not finite" in str(result["error"])


def test_the_demo_models_picture(tmp_path):
    model = StableDiffusion.from_preset("demo", jit_compile=False)
    folder = model.export(
        tmp_path / "sampler", tasks=["text_to_image"], max_steps=4, jit_compile=False
    )
    text = "a red house and a pine tree by day"
    (result,) = alone(folder, tmp_path, ("text_to_image", inputs(model, text, scale=3.0)))
    same(result["images"], model.text_to_image(text, "", **settings(scale=3.0)))
