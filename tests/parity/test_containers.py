"""Files that PyTorch, safetensors and Keras 2 themselves write."""

import collections

import h5py
import numpy as np
import pytest
import torch

from kerasdiff.checkpoints.files import CheckpointError, open_tensors
from kerasdiff.checkpoints.keras_h5 import read_keras_h5
from kerasdiff.configs import TINY

TENSORS = {
    "float32": torch.randn(3, 4),
    "float16": torch.randn(5).half(),
    "bfloat16": torch.randn(2, 2).bfloat16(),
    "int64": torch.arange(3),
    "bool": torch.tensor([True, False]),
    "transposed": torch.randn(3, 4).T,
    "part": torch.randn(4, 5)[1:, 2:4],
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "parameter": torch.nn.Parameter(torch.randn(2)),
}


def assert_same(tensors, expected):
    assert set(tensors) == set(expected)
    for name, tensor in expected.items():
        assert tensors.shape(name) == tuple(tensor.shape)
        array = np.asarray(tensors[name], np.float64)
        np.testing.assert_array_equal(array, tensor.detach().double().numpy())


def test_what_torch_saves(tmp_path):
    torch.save(TENSORS, tmp_path / "a.bin")
    assert_same(open_tensors(tmp_path / "a.bin"), TENSORS)


def test_a_module_s_state_dict_with_shared_storage(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    state = module.state_dict()
    state["tied"] = state["0.weight"]
    torch.save({"state_dict": state, "epoch": 3, "lr": [torch.tensor(1.0)]}, tmp_path / "a.ckpt")
    assert_same(open_tensors(tmp_path / "a.ckpt"), state)


def test_objects_of_training_are_left_out(tmp_path):
    Callback = type("ModelCheckpoint", (), {"__module__": "__main__"})
    import __main__

    __main__.ModelCheckpoint = Callback
    callback = Callback()
    callback.best = np.float32(1.5)
    callback.path = collections.defaultdict(list, {"a": [1]})
    top = {"callbacks": {Callback: callback}, "state_dict": TENSORS, "dtype": torch.float16,
           "size": torch.Size([1, 2]), "device": torch.device("cpu")}  # fmt: skip
    torch.save(top, tmp_path / "a.ckpt")
    assert_same(open_tensors(tmp_path / "a.ckpt"), TENSORS)


def test_a_textual_inversion_of_the_original_implementation(tmp_path):
    rows = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.randn(2, 4))})
    top = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": rows}
    torch.save(top, tmp_path / "a.pt")
    assert_same(open_tensors(tmp_path / "a.pt"), dict(rows))


def test_formats_that_are_not_supported_are_named(tmp_path):
    torch.save(TENSORS, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="before 1.6"):
        open_tensors(tmp_path / "old.ckpt")
    torch.save({"a": torch.zeros(4).to(torch.float8_e4m3fn)}, tmp_path / "f8.ckpt")
    with pytest.raises(CheckpointError, match="8-bit floats"):
        open_tensors(tmp_path / "f8.ckpt")
    module = torch.jit.script(torch.nn.Linear(2, 2))
    torch.jit.save(module, tmp_path / "script.pt")
    with pytest.raises(CheckpointError, match="TorchScript"):
        open_tensors(tmp_path / "script.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match="module.pt"):
        open_tensors(tmp_path / "module.pt")


def test_keras_2_saves_in_the_format_that_is_read(tmp_path):
    """A text encoder of keras-cv's structure, saved by tf-keras."""
    import tf_keras

    config = TINY["sd1"]
    text = config.text_encoders[0]

    class CLIPEmbedding(tf_keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.token_embedding = tf_keras.layers.Embedding(text.vocab_size, text.width)
            self.position_embedding = tf_keras.layers.Embedding(text.max_length, text.width)

        def call(self, inputs):
            tokens, positions = inputs
            return self.token_embedding(tokens) + self.position_embedding(positions)

    class CLIPAttention(tf_keras.layers.Layer):
        def __init__(self):
            super().__init__()
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                setattr(self, name, tf_keras.layers.Dense(text.width))

        def call(self, x):
            return self.out_proj(self.q_proj(x) + self.k_proj(x) + self.v_proj(x))

    class CLIPEncoderLayer(tf_keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.layer_norm1 = tf_keras.layers.LayerNormalization(epsilon=1e-5)
            self.clip_attn = CLIPAttention()
            self.layer_norm2 = tf_keras.layers.LayerNormalization(epsilon=1e-5)
            self.fc1 = tf_keras.layers.Dense(text.mlp_width)
            self.fc2 = tf_keras.layers.Dense(text.width)

        def call(self, x):
            x = x + self.clip_attn(self.layer_norm1(x))
            return x + self.fc2(self.fc1(self.layer_norm2(x)))

    tokens = tf_keras.layers.Input((77,), dtype="int32")
    positions = tf_keras.layers.Input((77,), dtype="int32")
    embedding, layers = CLIPEmbedding(), [CLIPEncoderLayer() for _ in range(text.depth)]
    norm = tf_keras.layers.LayerNormalization(epsilon=1e-5)
    x = embedding([tokens, positions])
    for layer in layers:
        x = layer(x)
    model = tf_keras.Model([tokens, positions], norm(x))
    for weight in model.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    model.save_weights(tmp_path / "kcv.h5")
    assert "layer_names" in h5py.File(tmp_path / "kcv.h5").attrs
    expected = {
        "embeddings.token_embedding.weight": embedding.token_embedding.embeddings,
        "embeddings.position_embedding.weight": embedding.position_embedding.embeddings,
        "final_layer_norm.weight": norm.gamma,
        "final_layer_norm.bias": norm.beta,
    }
    for i, layer in enumerate(layers):
        name = f"encoder.layers.{i}"
        for leaf in ("layer_norm1", "layer_norm2"):
            expected[f"{name}.{leaf}.weight"] = getattr(layer, leaf).gamma
            expected[f"{name}.{leaf}.bias"] = getattr(layer, leaf).beta
        dense = {"mlp.fc1": layer.fc1, "mlp.fc2": layer.fc2}
        for leaf in ("q_proj", "k_proj", "v_proj", "out_proj"):
            dense[f"self_attn.{leaf}"] = getattr(layer.clip_attn, leaf)
        for leaf, found in dense.items():
            expected[f"{name}.{leaf}.weight"] = found.kernel.numpy().T
            expected[f"{name}.{leaf}.bias"] = found.bias
    tensors = read_keras_h5(tmp_path / "kcv.h5", "text_encoder", config)
    assert set(tensors) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], np.asarray(array))
