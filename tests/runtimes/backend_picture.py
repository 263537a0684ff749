"""Makes one small picture on whatever backend is set: python backend_picture.py OUT FOLDER.

Also assigns one variable: the picture changes, and but on OpenVINO nothing is traced again; makes
the picture by two threads at once, and twice more, holding one network at a time. No other
framework is imported.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from kerasdiff import StableDiffusion


def picture(model):
    """Latents and picture of a few steps, without a bar."""
    kept = {}
    pixels = model.text_to_image(
        "a red house", num_steps=3, seed=1, sampler="dpmpp_2m", progress=False,
        callback=lambda step, total, preview: kept.update(step=step),
    )  # fmt: skip
    assert kept["step"] == 3
    return pixels


def main():
    out, folder, jit_compile, dtype = sys.argv[1:]
    model = StableDiffusion.from_preset(folder, jit_compile=jit_compile == "True", dtype=dtype)
    decoded = []
    decode = model.decode
    model.decode = lambda latents, shown: decoded.append(latents) or decode(latents)
    first = picture(model)
    [loop] = [made[1] for name, made in model._programs.items() if name[0] == "diffusion_model"]
    variable = next(v for v in model.diffusion_model.variables if "conv_out" in v.path)
    value = np.array(variable.value, "float32")
    variable.assign(value * 1.5)
    second = picture(model)
    assert loop.traces == (2 if keras.backend.backend() == "openvino" else 1)
    assert np.abs(first.astype(int) - second).max() > 2
    variable.assign(value)
    assert np.array_equal(picture(model), first)
    with ThreadPoolExecutor(2) as threads:
        at_once = list(threads.map(lambda _: picture(model), range(2)))
    assert all(np.array_equal(each, first) for each in at_once)
    little = StableDiffusion.from_preset(
        folder, jit_compile=jit_compile == "True", dtype=dtype, memory="medium"
    )
    assert np.array_equal(picture(little), first)
    programs = dict(little._programs)
    assert np.array_equal(picture(little), first)
    assert {program.traces for _, program in little._programs.values()} == {1}
    assert (little._programs == programs) == (keras.backend.backend() != "openvino")
    assert ("tensorflow" in sys.modules) == (keras.backend.backend() == "tensorflow")
    np.savez(out, latents=decoded[0], pixels=first)


if __name__ == "__main__":
    main()
