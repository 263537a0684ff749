"""The request of docs/serving.md, through TensorFlow's own runner of SavedModels."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from drawn_checkpoint import write_checkpoint

from kerasdiff import StableDiffusion
from kerasdiff.configs import TINY

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def test_the_pages_request_gives_pythons_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "tiny", TINY["sd1"])
    model = StableDiffusion.from_preset(tmp_path / "tiny", jit_compile=False)
    model.export("served/sampler/1", tasks=["text_to_image"], max_steps=10, jit_compile=False)
    page = PAGE.read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.S)
                if "signature_name" in block)  # fmt: skip
    names = {}
    exec(code, names)
    inputs = names["request"]["inputs"]

    dtypes = {"seed": "int64", "guidance_scale": "float32"}
    np.savez("in.npz", **{name: np.array(value, dtypes.get(name, "int32"))
                          for name, value in inputs.items()})  # fmt: skip
    given = ";".join(f"{name}=in.npz[{name}]" for name in inputs)
    runner = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "run"]
    what = ["--dir", "served/sampler/1", "--tag_set", "serve", "--signature_def"]
    what += [names["request"]["signature_name"], "--inputs", given, "--outdir", "out"]
    subprocess.run([*runner, *what], check=True, capture_output=True)
    expected = model.text_to_image(
        "a red house and a pine tree by day", "", seed=7, num_steps=10,
        unconditional_guidance_scale=3.0,
    )  # fmt: skip
    pictures = np.load("out/images.npy")
    assert pictures.shape == expected.shape and expected.std() > 10
    assert np.abs(pictures.astype(int) - expected).max() <= 1
