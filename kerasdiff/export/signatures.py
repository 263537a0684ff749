"""The named functions of an exported sampler: their inputs, and what is refused."""

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2


class Inputs:
    """What signatures take, as `tf.TensorSpec`s.

    Args:
        sampler: a `saved_model.Sampler`.
    """

    def __init__(self, sampler):
        batch, (height, width) = sampler.batch_size, sampler.size
        self.suffixes = sampler.config.text_suffixes
        self.tokens = {
            f"tokens{suffix}": tf.TensorSpec((batch, length), tf.int32)
            for suffix, length in zip(self.suffixes, sampler.text_lengths, strict=True)
        }
        self.negative = {f"negative_{name}": spec for name, spec in self.tokens.items()}
        if sampler.mode == "off":
            self.negative = {}
        self.texts = self.tokens | self.negative
        scalar = {"num_steps": tf.int32, "guidance_scale": tf.float32}
        self.run = {name: tf.TensorSpec((), dtype) for name, dtype in scalar.items()}
        self.seed = {"seed": tf.TensorSpec((), tf.int64)}
        self.strength = {"strength": tf.TensorSpec((), tf.float32)}
        sides = ("img_height", "img_width") if height is None else ()
        self.size = {name: tf.TensorSpec((), tf.int32) for name in sides}
        self.image = {"image": tf.TensorSpec((None, height, width, 3), tf.uint8)}
        self.mask = {"mask": tf.TensorSpec((1, height, width, 1), tf.uint8)}
        shape = (batch, *sampler.latent_size, sampler.channels)
        self.latents = {"latents": tf.TensorSpec(shape, tf.float32)}
        self.noise = {"noise": tf.TensorSpec(shape, tf.float32)}
        if slots := sampler.tables.noise_slots:
            self.noise["step_noise"] = tf.TensorSpec((slots, *shape), tf.float32)

    def split(self, given):
        """Tokens and negative tokens of given tensors, a list each."""
        tokens = [given[name] for name in self.tokens]
        return tokens, [given[name] for name in self.negative]


def make_signatures(sampler, tasks):
    """Dict of names to concrete functions of keyword tensors that give a dict of tensors."""
    takes = Inputs(sampler)
    made = {
        "encode_text": (_encode_text(sampler, takes), takes.tokens),
        "decode": (lambda latents: {"images": sampler.decode(latents)}, takes.latents),
    }
    common = takes.texts | takes.seed | takes.run
    if "text_to_image" in tasks:
        made["text_to_image"] = (_text_to_image(sampler, takes), common | takes.size)
        given = takes.texts | takes.noise | takes.run
        made["text_to_image_with_noise"] = (_with_noise(sampler, takes), given)
    if "image_to_image" in tasks:
        given = common | takes.image | takes.strength
        made["image_to_image"] = (_from_picture(sampler, takes), given)
    if "inpaint" in tasks:
        given = common | takes.image | takes.mask | takes.strength
        made["inpaint"] = (_from_picture(sampler, takes), given)
    return {name: _concrete(function, specs) for name, (function, specs) in made.items()}


def _concrete(function, specs):
    named = {name: tf.TensorSpec(s.shape, s.dtype, name) for name, s in specs.items()}
    return tf.function(function, autograph=False).get_concrete_function(**named)


def _encode_text(sampler, takes):
    def encode_text(**given):
        encoded = sampler.encode([given[name] for name in takes.tokens])
        return {name: value for name, value in encoded._asdict().items() if value is not None}

    return encode_text


def _text_to_image(sampler, takes):
    def text_to_image(**given):
        steps, scale = _checked(sampler, given)
        size = _size(sampler, given)
        latent_size = [side // sampler.factor for side in size]
        count, most = tf.shape(given["tokens"])[0], 1 + sampler.tables.noise_slots
        draw = sampler.drawing(given["seed"], count, latent_size, most)
        table = sampler.table(steps, steps, scale)
        begin = sampler.start_from_noise(table, steps, draw)
        return {"images": sampler.run(table, begin, *takes.split(given), scale, size)}

    return text_to_image


def _with_noise(sampler, takes):
    def text_to_image_with_noise(**given):
        steps, scale = _checked(sampler, given)
        later = iter(tf.unstack(given["step_noise"])) if "step_noise" in given else None
        table = sampler.table(steps, steps, scale)
        begin = sampler.start_from_noise(table, steps, lambda: next(later), given["noise"])
        size = [side * sampler.factor for side in tf.unstack(tf.shape(given["noise"])[1:3])]
        return {"images": sampler.run(table, begin, *takes.split(given), scale, size)}

    return text_to_image_with_noise


def _from_picture(sampler, takes):
    def from_picture(**given):
        steps, scale = _checked(sampler, given)
        taken = _taken(steps, given["strength"])
        image, size = _picture(sampler, given)
        latent_size = [side // sampler.factor for side in size]
        count, masked = tf.shape(given["tokens"])[0], "mask" in given
        most = 2 + masked + sampler.tables.noise_slots

        def drawing():
            return sampler.drawing(given["seed"], count, latent_size, most)

        table = sampler.table(steps, taken, scale)
        if masked:
            mask = tf.cast(given["mask"] >= 128, "float32")
            begin = sampler.start_from_mask(table, steps, taken, drawing, image, mask)
        else:
            begin = sampler.start_from_image(table, drawing(), image)
        pictures = sampler.run(table, begin, *takes.split(given), scale, size)
        if masked:  # kept parts are the picture's own, not what the autoencoder makes of them
            pictures = tf.where(mask > 0.0, pictures, given["image"])
        return {"images": pictures}

    return from_picture


def _checked(sampler, given):
    """The number of steps and the guidance scale, once they are known to be possible."""
    steps, scale = given["num_steps"], given["guidance_scale"]
    most = len(sampler.tables.pure_noise) - 1
    possible = tf.gather(sampler.tables.pure_noise > 0.0, tf.clip_by_value(steps, 0, most))
    with tf.control_dependencies([
        tf.debugging.Assert(possible & (steps <= most),
                            [f"num_steps must be from 1 to {most}, and possible, not", steps]),
        tf.debugging.Assert((scale >= 0.0) & (scale <= 1000.0),
                            ["guidance_scale must be from 0 to 1000, not", scale]),
    ]):  # fmt: skip
        return tf.identity(steps), tf.identity(scale)


def _taken(steps, strength):
    """How many of the steps are taken, as Python counts them from the same decimal number."""
    # The float32 of 0.7 is a little less than 0.7, and 10 * 0.7 steps are 7.
    exact = tf.round(tf.cast(strength, "float64") * 1e6) / 1e6
    taken = tf.cast(tf.cast(steps, "float64") * exact, "int32")
    possible = (strength > 0.0) & (strength <= 1.0) & (taken >= 1)
    message = "strength must be above 0 and at most 1, and leave a step, not"
    with tf.control_dependencies([tf.debugging.Assert(possible, [message, strength])]):
        return tf.identity(taken)


def _size(sampler, given):
    """(height, width) in pixels."""
    if sampler.size[0] is not None:
        return [tf.constant(side) for side in sampler.size]
    size = [given["img_height"], given["img_width"]]
    with tf.control_dependencies([_fits(sampler, "img_height and img_width", size)]):
        return [tf.identity(side) for side in size]


def _fits(sampler, names, size):
    fits = [(side > 0) & (side % sampler.factor == 0) for side in size]
    message = f"{names} must be positive multiples of {sampler.factor}, not"
    return tf.debugging.Assert(tf.reduce_all(fits), [message, *size])


def _picture(sampler, given):
    """The image in [-1, 1] and its (height, width), once latents, batch and mask fit it."""
    count, *size = tf.unstack(tf.shape(given["image"])[:3])
    wanted = tf.shape(given["tokens"])[0]
    checks = [
        _fits(sampler, "height and width of image", size),
        tf.debugging.Assert((count == 1) | (count == wanted),
                            ["image must hold 1 picture or one for each of", wanted, "not", count]),
    ]  # fmt: skip
    if "mask" in given:
        sides = tf.unstack(tf.shape(given["mask"])[1:3])
        same = (sides[0] == size[0]) & (sides[1] == size[1])
        message = "mask must have the height and width of image,"
        checks.append(tf.debugging.Assert(same, [message, *size, "not", *sides]))
    with tf.control_dependencies(checks):
        image = 2.0 * (tf.cast(given["image"], "float32") / 255.0) - 1.0
        return image, [tf.identity(side) for side in size]


def describe(folder):
    """The signatures of a SavedModel for `signature.json`: tensors by name; -1 is any size."""
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())

    def as_json(tensors):
        return {
            name: {
                "tensor": info.name,  # as TensorFlow's C API asks for it
                "dtype": tf.as_dtype(info.dtype).name,
                "shape": [dimension.size for dimension in info.tensor_shape.dim],
            }
            for name, info in sorted(tensors.items())
        }

    return {
        name: {"inputs": as_json(definition.inputs), "outputs": as_json(definition.outputs)}
        for name, definition in sorted(saved.meta_graphs[0].signature_def.items())
        if not name.startswith("__")
    }
