"""keras-cv's Stable Diffusion weights: one `.h5` file a model, in Keras 2's legacy format.

Layers' names in these files are automatic (`dense_12`), so that their order is what counts: the
order in which Keras sorts a model's layers and each layer its weights. It is the order of the block
plan, but for the second layer of the timestep embedding, which comes after the first convolution.
Kernels are HWIO and IO; they are handed out in PyTorch's order like any other checkpoint's.
"""

from pathlib import Path

import h5py
import numpy as np

from kerasdiff.block_plan import autoencoder_plan, diffusion_model_plan
from kerasdiff.checkpoints.files import HDF5
from kerasdiff.checkpoints.names import PART_OF, is_matrix
from kerasdiff.checkpoints.original import squeezed
from kerasdiff.checkpoints.tensors import CheckpointError, LazyTensor, Tensors
from kerasdiff.configs import SD1, SD2_BASE

# keras-cv's file names, which its cache folder keeps; both kinds predict noise, and share the VAE
VAE_FILES = {"vae_encoder.h5": "image_encoder", "kcv_decoder.h5": "decoder"}
FOLDERS = (
    (SD1, {"kcv_encoder.h5": "text_encoder", "kcv_diffusion_model.h5": "diffusion_model"}),
    (
        SD2_BASE,
        {"text_encoder_v2_1.h5": "text_encoder", "diffusion_model_v2_1.h5": "diffusion_model"},
    ),
)
LATE = "vae_encoder.h5"  # keras-cv downloads it where a picture is encoded, not for one of a text
UNBIASED = ("to_q", "to_k", "to_v")  # in the UNet
RESNET = ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
VAE_LEAVES = {
    "res": [leaf for leaf in RESNET if leaf != "time_emb_proj"],
    "attention": ["group_norm", *ATTENTION],
    "down": ["conv"],
    "up": ["conv"],
}
TEXT_LAYER = (
    "layer_norm1", *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
    "layer_norm2", "mlp.fc1", "mlp.fc2",
)  # fmt: skip


def is_keras_folder(path):
    """Whether a folder holds keras-cv's files under the names that they are published by."""
    return any((path / name).is_file() for _, files in FOLDERS for name in files)


def open_keras_folder(path):
    """keras-cv's files in one folder, such as `~/.keras/models`.

    Returns:
        The `StableDiffusionConfig`, a dict of part to `Tensors`, and `Checkpoint.missing`.

    Raises:
        CheckpointError: if a file but `LATE` is missing, or those of two checkpoints are there.
    """
    found = [pair for pair in FOLDERS if any((path / name).is_file() for name in pair[1])]
    if len(found) != 1:
        raise CheckpointError(f"{path}: holds the files of both of keras-cv's checkpoints")
    config, files = found[0]
    parts, missing = {}, {}
    for name, model in (files | VAE_FILES).items():
        if name == LATE and not (path / name).exists():
            missing[model] = path / name
            continue
        tensors = read_keras_h5(path / name, model, config)
        part = PART_OF[model]
        if part in parts:
            tensors = tensors.with_entries(parts[part].entries | tensors.entries)
        parts[part] = tensors
    return config, parts, missing


def read_keras_h5(path, model, config):
    """Open one model's weights as keras-cv publishes and saves them.

    Args:
        path: the `.h5` file.
        model: "text_encoder", "image_encoder", "decoder" or "diffusion_model".
        config: the `StableDiffusionConfig` of the whole checkpoint.

    Returns:
        `Tensors` under canonical names, in PyTorch's axis order, for `load`.

    Raises:
        CheckpointError: if the file is no such file or its layers are of another model.
    """
    path = Path(path)
    order = list(_order(model, config))
    try:
        with path.open("rb") as file:
            if file.read(8) != HDF5:
                raise CheckpointError(f"{path}: not an HDF5 file")
        file = h5py.File(path, "r")
        layers = list(_layers(path, file))
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except Exception as error:  # hostile bytes can make h5py raise anything
        raise CheckpointError(f"{path}: damaged, or not weights of Keras 2: {error}") from error
    if len(layers) != len(order):
        raise CheckpointError(
            f"{path}: holds {len(layers)} layers with weights; the {model} has {len(order)}"
        )
    entries = {}
    for (layer, weights), names in zip(layers, order, strict=True):
        if names[-1].endswith("conv_shortcut.bias") and len(weights) == len(names) - 2:
            names = names[:-2]  # a residual block has no shortcut where the channels stay
        if len(weights) != len(names):
            raise CheckpointError(
                f"{path}: the layer {layer!r} has {len(weights)} weights; "
                f"{names[0]} and what belongs to it are {len(names)}"
            )
        entries |= {
            n: _entry(PART_OF[model], n, dataset) for n, dataset in zip(names, weights, strict=True)
        }
    return Tensors(path, entries, on_close=file.close)


def _layers(path, file):
    """(name, datasets) of each layer that has weights, in the file's order."""
    group = _get(path, file, "model_weights") if "model_weights" in file else file
    if "layer_names" not in group.attrs and "layer_names0" not in group.attrs:
        raise CheckpointError(f"{path}: has no layer_names: not weights that Keras 2 saved")
    for layer in _strings(group, "layer_names"):
        inner = _get(path, group, layer)
        weights = [_get(path, inner, name) for name in _strings(inner, "weight_names")]
        for dataset in weights:
            if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
                raise CheckpointError(f"{path}: {layer!r} keeps its weights in another file")
            if dataset.shape is None or dataset.dtype.kind not in "fiu":
                raise CheckpointError(f"{path}: {layer!r} has weights that are no numbers")
        if weights:
            yield layer, weights


def _strings(group, name):
    """An attribute of strings, which Keras cuts into numbered pieces where it is long."""
    names = [name] if name in group.attrs else []
    names += [f"{name}{i}" for i in range(len(group.attrs)) if f"{name}{i}" in group.attrs]
    texts = [text for piece in names for text in group.attrs[piece]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]


def _get(path, group, name):
    """A member of the file itself: links out of it, or across it, are refused."""
    for step in name.split("/"):
        if not isinstance(group.get(step, getlink=True), h5py.HardLink):
            raise CheckpointError(f"{path}: {name!r} is missing or a link to elsewhere")
        group = group[step]
    return group


def _entry(part, name, dataset):
    """One weight, its axes brought into PyTorch's order."""
    axes = range(dataset.ndim)
    if dataset.ndim == 4:  # (H, W, I, O) -> (O, I, H, W)
        axes = (3, 2, 0, 1)
    elif dataset.ndim == 2 and not name.startswith("embeddings."):  # (I, O) -> (O, I)
        axes = (1, 0)
    shape = tuple(dataset.shape[axis] for axis in axes)
    entry = LazyTensor(shape, dataset.dtype, lambda: np.asarray(dataset[()]).transpose(axes))
    return squeezed(entry) if is_matrix(part, name) else entry


def _order(model, config):
    """Lists of canonical names, one list a layer of keras-cv's model."""
    if model == "text_encoder":
        yield ["embeddings.token_embedding.weight", "embeddings.position_embedding.weight"]
        for i in range(config.text_encoders[0].depth):
            yield _weights(f"encoder.layers.{i}.{name}" for name in TEXT_LAYER)
        yield _weights(["final_layer_norm"])
    elif model == "diffusion_model":
        for name in ("time_embedding.linear_1", "conv_in", "time_embedding.linear_2"):
            yield _weights([name])
        for block in diffusion_model_plan(config.diffusion_model):
            yield _weights(_unet_block(block))
        yield from (_weights([name]) for name in ("conv_norm_out", "conv_out"))
    elif model == "image_encoder":
        yield from _half("encoder", config.autoencoder)
        yield _weights(["quant_conv"])
    elif model == "decoder":
        yield _weights(["post_quant_conv"])
        yield from _half("decoder", config.autoencoder)
    else:
        raise ValueError(f"`model` must be one of {', '.join(PART_OF)}, not {model!r}")


def _half(half, config):
    yield _weights([f"{half}.conv_in"])
    for block in autoencoder_plan(config):
        if block.name.startswith(half):
            yield _weights(f"{block.name}.{leaf}" for leaf in VAE_LEAVES[block.kind])
    yield from (_weights([f"{half}.{name}"]) for name in ("conv_norm_out", "conv_out"))


def _weights(modules):
    """Each module's weight and, unless it has none, bias."""
    names = []
    for module in modules:
        names.append(f"{module}.weight")
        if ".transformer_blocks." not in module or not module.endswith(UNBIASED):
            names.append(f"{module}.bias")
    return names


def _unet_block(block):
    name, inner = block.name, f"{block.name}.transformer_blocks.0"
    if block.kind != "transformer":
        return [f"{name}.{leaf}" for leaf in (RESNET if block.kind == "res" else ("conv",))]
    return [
        *(f"{name}.{leaf}" for leaf in ("norm", "proj_in")),
        *(f"{inner}.{leaf}" for leaf in ("norm1", *(f"attn1.{leaf}" for leaf in ATTENTION))),
        *(f"{inner}.{leaf}" for leaf in ("norm2", *(f"attn2.{leaf}" for leaf in ATTENTION))),
        *(f"{inner}.{leaf}" for leaf in ("norm3", "ff.net.0.proj", "ff.net.2")),
        f"{name}.proj_out",
    ]
