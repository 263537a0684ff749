"""Small networks, their inputs and their weights, all by rule: nothing but outputs needs storing.

Every array follows from its own name, so that diffusers' networks and ours are filled alike.
"""

import zlib
from dataclasses import replace

import keras
import numpy as np
from keras import ops

from kerasdiff.checkpoints.load import torch_shape
from kerasdiff.configs import SD1, TINY, TextEncoderConfig
from kerasdiff.decoder import Decoder
from kerasdiff.diffusion_model import DiffusionModel, timestep_embedding
from kerasdiff.image_encoder import ImageEncoder
from kerasdiff.layers import tensor_name, to_torch_axes
from kerasdiff.text_encoder import TextEncoder

_SD1, _SDXL = TINY["sd1"].diffusion_model, TINY["sdxl"].diffusion_model
_DEEP = replace(
    _SD1, channels=(16, 32, 48), layers_per_block=(2, 1, 2), depth=(1, 0, 2), up_depth=(1, 0, 2),
    mid_depth=2, heads=(2, 4, 8),
)  # fmt: skip
_VAE = replace(SD1.autoencoder, norm_groups=8, layers_per_block=1)
_TEXT = TextEncoderConfig(vocab_size=300, max_length=16, width=32, depth=3, heads=4, mlp_width=64)

UNETS = {  # config, height and width of the latents, length of the context
    "sd1": (_SD1, 8, 12, 7),
    "levels": (_DEEP, 9, 13, 5),
    "no-middle": (replace(_SD1, mid_depth=None), 7, 5, 3),
    "sd2": (TINY["sd2"].diffusion_model, 8, 8, 7),
    "sdxl": (_SDXL, 10, 7, 7),
    "inpaint": (TINY["sd1-inpaint"].diffusion_model, 8, 8, 7),
    "guided": (replace(_SD1, time_cond_dim=24), 8, 8, 4),
    "sines-first": (replace(_SD1, flip_sin_to_cos=False, freq_shift=1.0), 8, 8, 4),
    "controlnet": (replace(_SD1, controlnet_residuals=True), 9, 13, 5),
}
AUTOENCODERS = {
    "one": replace(_VAE, channels=(16,), layers_per_block=2),
    "two": replace(_VAE, channels=(16, 32), scaling_factor=0.13025, shift_factor=0.4),
    "three": replace(_VAE, channels=(8, 16, 24), latent_channels=3, layers_per_block=2),
    "four": replace(_VAE, channels=(8, 16, 24, 24)),
    "bare": replace(
        _VAE, channels=(8, 16), quant_conv=False, post_quant_conv=False, mid_attention=False
    ),
}
TEXTS = {
    "clip-l": _TEXT,
    "clip-l-inner": replace(_TEXT, output_layer=-2),
    "openclip": replace(_TEXT, activation="gelu", heads=2),
    "projected": replace(_TEXT, activation="gelu", projection_dim=24, output_layer=-2),
    "end-token": replace(_TEXT, projection_dim=24, end_token_id=120),
}
VAE, UNET, TEXT = AUTOENCODERS["two"], UNETS["sd1"][0], TEXTS["projected"]
MODELS = {
    "text_encoder": (TextEncoder, TEXT),
    "image_encoder": (ImageEncoder, VAE),
    "decoder": (Decoder, VAE),
    "diffusion_model": (DiffusionModel, UNETS["sdxl"][0]),
}
TIMESTEPS = np.array([981.0, 12.5], "float32")
SIZES = np.array([[512, 640, 0, 8, 1024, 512], [768, 512, 16, 0, 512, 512]], "float32")


def numbers(name, shape):
    """Normal float32 numbers that follow from a name."""
    return np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape).astype("float32")


def weight(name, shape):
    """The tensor of a name: outputs of every layer stay near 1, and no two layers are alike."""
    values = numbers(name, shape)
    if name.endswith("bias"):
        return values * np.float32(0.1)
    if len(shape) == 1:  # a norm's scale
        return values * np.float32(0.1) + np.float32(1.0)
    if "embeddings." in name:
        return values
    return values / np.sqrt(np.float32(np.prod(shape[1:])))


def fill(model):
    """Assigns every variable of one of our models by the rule; returns the model."""
    for variable in model.variables:
        values = weight(tensor_name(variable), torch_shape(variable))
        variable.assign(values.transpose(np.argsort(to_torch_axes(variable))))
    return model


def unet_inputs(name):
    """Our inputs of a case, by name and in order; channels last."""
    config, height, width, tokens = UNETS[name]
    inputs = {
        "latent": numbers(f"{name} latent", (2, height, width, config.in_channels)),
        "timestep_embedding": np.asarray(
            timestep_embedding(
                TIMESTEPS, config.channels[0], config.flip_sin_to_cos, config.freq_shift
            )
        ),
        "context": numbers(f"{name} context", (2, tokens, config.context_dim)),
    }
    if config.added_embed_dim:
        pooled = numbers(f"{name} pooled", (2, config.added_embed_dim - 6 * config.size_embed_dim))
        sizes = np.asarray(timestep_embedding(SIZES.reshape(-1), config.size_embed_dim))
        inputs["added_embedding"] = np.concatenate([pooled, sizes.reshape(2, -1)], axis=-1)
    if config.time_cond_dim:
        inputs["guidance_embedding"] = numbers(f"{name} guidance", (2, config.time_cond_dim))
    if config.controlnet_residuals:
        inputs |= _residuals(name, config, height, width)
    return inputs


def _residuals(name, config, height, width):
    shapes = [(height, width, config.channels[0])]
    for level, channels in enumerate(config.channels):
        shapes += [(height, width, channels)] * config.layers_per_block[level]
        if level < len(config.channels) - 1:
            height, width = -(-height // 2), -(-width // 2)
            shapes.append((height, width, channels))
    names = [f"controlnet_down_{i}" for i in range(len(shapes))]
    shapes = dict(zip(names, shapes, strict=True)) | {"controlnet_mid": shapes[-1]}
    return {key: numbers(f"{name} {key}", (2, *shape)) for key, shape in shapes.items()}


def picture(name):
    """The picture of an autoencoder's case, in [-1, 1]: 3 by 4 latents."""
    config = AUTOENCODERS[name]
    shape = (2, 3 * config.factor, 4 * config.factor, config.image_channels)
    return np.tanh(numbers(f"{name} picture", shape))


def latents(name):
    """Scaled latents of an autoencoder's case."""
    config = AUTOENCODERS[name]
    return numbers(f"{name} latents", (2, 3, 5, config.latent_channels)) * config.scaling_factor


def tokens(name):
    """Ids (3, 9) of a text case; the largest, or the end token, stands at 2, 6 and 8."""
    config = TEXTS[name]
    ids = np.random.default_rng(7).integers(0, 100, (3, 9))
    end = config.vocab_size - 1 if config.end_token_id is None else config.end_token_id
    for row, place in enumerate((2, 6, 8)):
        ids[row, place:] = end
    if config.end_token_id is not None:
        ids[0, 5:] = end + 1  # a larger id that ends nothing
    return ids


def unet_outputs(name, dtype="float32"):
    """What our UNet makes of a case: a list of one array."""
    model = fill(DiffusionModel(UNETS[name][0], dtype=dtype))
    return [np.asarray(model(unet_inputs(name)))]


def autoencoder_outputs(name):
    """Moments, scaled mean latents, and the decoded picture."""
    config = AUTOENCODERS[name]
    encoder, decoder = fill(ImageEncoder(config)), fill(Decoder(config))
    image = picture(name)
    outputs = encoder.moments(image), encoder(image), decoder(latents(name))
    return [np.asarray(output) for output in outputs]


def text_outputs(name):
    """The context and, where there is one, the pooled vector."""
    ids = tokens(name)
    model = fill(TextEncoder(TEXTS[name]))
    output = model({"tokens": ids, "positions": np.arange(ids.shape[1])[None]})
    outputs = list(output.values()) if isinstance(output, dict) else [output]
    return [np.asarray(output) for output in outputs]


KINDS = {
    "unet": (UNETS, unet_outputs),
    "autoencoder": (AUTOENCODERS, autoencoder_outputs),
    "text": (TEXTS, text_outputs),
}
CASES = [(kind, name) for kind, (cases, _) in KINDS.items() for name in cases]


def error(ours, theirs):
    """Largest difference relative to the largest value."""
    assert ours.shape == theirs.shape
    return np.abs(ours.astype("float64") - theirs).max() / np.abs(theirs).max()


def inputs_of(name):
    """A list of inputs for a model of `MODELS`."""
    ids = tokens("projected")
    return {
        "text_encoder": [ids, np.arange(ids.shape[1])[None]],
        "image_encoder": [picture("two")],
        "decoder": [numbers("decoder", (2, 3, 4, 4))],
        "diffusion_model": list(unet_inputs("sdxl").values()),
    }[name]


def call(model, inputs):
    """All outputs as float32 arrays."""
    output = model(inputs if len(inputs) > 1 else inputs[0])
    return [np.asarray(ops.cast(part, "float32")) for part in keras.tree.flatten(output)]
