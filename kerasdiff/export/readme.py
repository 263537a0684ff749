"""The README.txt of an exported sampler: an example that runs, and every input that it has."""

from kerasdiff.export import TASKS

README = """\
A Stable Diffusion sampler as a TensorFlow SavedModel, written by kerasdiff {kerasdiff}.
It needs TensorFlow alone: Python, C++, Java, Go or TensorFlow Serving.{compiled}

{example}
Signatures: {names}.
All their inputs and outputs, with types and shapes, are in signature.json. Inputs:

{inputs}

Pictures are {size}. Weights are {dtype}, once, in variables/.
"""
COMPILED = """
Parts of it are compiled by XLA: on a processor, TensorFlow Serving needs
--xla_cpu_compilation_enabled=true."""
EXAMPLE = """\
    import tensorflow as tf

    def row(ids, pad):
        return [{start}, *ids, {end}] + [pad] * ({length} - 2 - len(ids))

    ids = {ids}  # of "{prompt}", by any CLIP tokenizer
    sampler = tf.saved_model.load(".")
    images = sampler.signatures["{task}"](
{arguments}
    )["images"]  # uint8 (batch, height, width, 3)
"""
PROMPT = "a red house"
VALUES = {
    "tokens": "tf.constant([row(ids, {pad})] * {batch})",
    "tokens_2": "tf.constant([row(ids, {pad_2})] * {batch})",
    "negative_tokens": "tf.constant([row([], {pad})] * {batch})",
    "negative_tokens_2": "tf.constant([row([], {pad_2})] * {batch})",
    "seed": "tf.constant(1, tf.int64)",
    "num_steps": "tf.constant({num_steps})",
    "guidance_scale": "tf.constant({guidance_scale}, tf.float32)",
    "img_height": "tf.constant({height})",
    "img_width": "tf.constant({width})",
    "image": "tf.constant(128, tf.uint8, (1, {height}, {width}, 3))",
    "mask": "tf.constant(255, tf.uint8, (1, {height}, {width}, 1))",
    "strength": "tf.constant(1.0)",
}
MEANINGS = {
    "tokens": (
        "{length} ids a prompt: {start}, the prompt's, {end}, then {pad} to the end;",
        "tokenizer/ holds vocabulary and merges of CLIP's",
    ),
    "tokens_2": ("the same ids, padded with {pad_2} (tokenizer_2/)",),
    "negative_tokens": ('what to steer away from; those of "" without such a wish',),
    "negative_tokens_2": ("the same ids, padded with {pad_2}",),
    "seed": (
        "picture i of a batch is what seed + i gives alone; the noise is that of",
        "PyTorch's CPU generator, so a seed gives kerasdiff's and diffusers' picture",
    ),
    "num_steps": ("1 to {max_steps}, of {sampler}",),
    "guidance_scale": ("0 to 1000: how far to follow the prompt; 1 or less is no guidance",),
    "img_height": ("pixels, a multiple of {factor}",),
    "img_width": ("pixels, a multiple of {factor}",),
    "image": ("1 picture, or one for each of the batch",),
    "mask": ("below 128 the picture stays, from 128 it is painted anew",),
    "strength": ("above 0, at most 1: the share of the steps; counts to six decimals",),
    "latents": ("of decode: a clean latent picture, scaled as the network has it",),
    "noise": ("standard normal, instead of a seed's",),
    "step_noise": ("standard normal, for each draw that the sampler makes on its way",),
}
ZEROS = ("what to steer away from; without such a wish begin every row with -1",)
DISTILLED = ("0 to 1000, an input of the network, which takes no negative prompt",)


def readme(models, facts):
    """The text, from what `signature.json` says."""
    signatures, words = facts["signatures"], _words(models, facts)
    meanings = dict(MEANINGS)
    if models.config.zero_empty_negative:
        meanings["negative_tokens"] = ZEROS
    if models.config.diffusion_model.time_cond_dim:
        meanings["guidance_scale"] = DISTILLED
    taken = {}
    for signature in signatures.values():
        taken |= signature["inputs"]
    lines = []
    for name in (name for name in meanings if name in taken):
        lines.append(f"{name}: {taken[name]['dtype']} {_shape(taken[name])}")
        lines += [f"    {line.format(**words)}" for line in meanings[name]]
    words |= {"names": ", ".join(signatures), "inputs": "\n".join(lines)}
    return README.format(example=_example(signatures, words), **words)


def _words(models, facts):
    """What the texts above name."""
    height, width = models.config.image_size
    size = f"of any size that is a multiple of {models.config.autoencoder.factor} pixels"
    if facts["height"] is not None:
        height, width = facts["height"], facts["width"]
        size = f"{width} x {height} pixels"
    tokens = facts["tokens"]["tokens"]
    row = models.tokenizer.pack(PROMPT).tolist()
    return facts | tokens | {
        "ids": row[1 : row.index(tokens["end"])],
        "prompt": PROMPT,
        "pad_2": facts["tokens"].get("tokens_2", tokens)["pad"],
        "batch": facts["batch_size"] or 1,
        "height": height,
        "width": width,
        "size": size,
        "compiled": COMPILED if facts["jit_compile"] else "",
        "factor": models.config.autoencoder.factor,
    }  # fmt: skip


def _example(signatures, words):
    task = next(task for task in TASKS if task in signatures)
    values = {key: value for key, value in VALUES.items() if key in signatures[task]["inputs"]}
    lines = [f"        {key}={value.format(**words)}," for key, value in values.items()]
    return EXAMPLE.format(task=task, arguments="\n".join(lines), **words)


def _shape(tensor):
    sides = ["any" if side < 0 else str(side) for side in tensor["shape"]]
    return f"({', '.join(sides)})" if sides else "number"
