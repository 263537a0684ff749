"""The layers that the networks are made of.

`Dense` and `PaddedConv2D` are the one door for matrices and convolutions: no other layer owns a
kernel. Every layer that owns variables is named with the full diffusers name of its tensors'
module, so that `tensor_name` needs no table.

Layers for pictures that keras-cv had, such as `CenterCrop`, are found here too, as its scripts
ask for them as `keras_cv.layers`: they are Keras' own.
"""

import keras

from kerasdiff.layers.autoencoder import AttentionBlock, MeanLatents, apply_blocks
from kerasdiff.layers.basic import Dense, PaddedConv2D, gelu
from kerasdiff.layers.blocks import (
    Composite,
    Downsample,
    JoinSkip,
    ResBlock,
    TimeEmbedding,
    Upsample,
    repeat_rows,
)
from kerasdiff.layers.int8 import quantize, rounded
from kerasdiff.layers.network import Network, to_policy
from kerasdiff.layers.norms import GroupNorm, LayerNorm, layer_norm
from kerasdiff.layers.transformers import Attention, FeedForward, SpatialTransformer
from kerasdiff.layers.variables import (
    initializer,
    tensor_name,
    to_torch_axes,
    uninitialized,
    without_memory,
)

__all__ = [
    "Attention",
    "AttentionBlock",
    "Composite",
    "Dense",
    "Downsample",
    "FeedForward",
    "GroupNorm",
    "JoinSkip",
    "LayerNorm",
    "MeanLatents",
    "Network",
    "PaddedConv2D",
    "ResBlock",
    "SpatialTransformer",
    "TimeEmbedding",
    "Upsample",
    "apply_blocks",
    "gelu",
    "initializer",
    "layer_norm",
    "quantize",
    "repeat_rows",
    "rounded",
    "tensor_name",
    "to_policy",
    "to_torch_axes",
    "uninitialized",
    "without_memory",
]


def __getattr__(name):
    # "Augmenter" is keras-cv's name. Layers with kernels are not passed on: there is one door.
    found = getattr(keras.layers, "Pipeline" if name == "Augmenter" else name, None)
    if ".preprocessing." not in getattr(found, "__module__", ""):
        raise AttributeError(f"neither kerasdiff.layers nor keras.layers has {name!r} for pictures")
    return found
