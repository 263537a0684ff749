"""The orchestrator: prompt -> conditioning -> table -> loop -> picture.

It holds a checkpoint's models and compiled programs and no maths of its own. Latent Diffusion is
arXiv 2112.10752; image to image starts part-way along the schedule (SDEdit, arXiv 2108.01073);
inpainting with a plain checkpoint blends the known part in, re-noised, after each row (as RePaint,
arXiv 2201.09865, without resampling), and with a 9-channel checkpoint hands it to the network.
"""

from functools import partial

import numpy as np

from kerasdiff import conditioning, images, start
from kerasdiff.compiled_models import CompiledModels
from kerasdiff.conditioning import Conditioning
from kerasdiff.noise import TorchStream
from kerasdiff.options import (
    check_batch_size,
    check_given,
    check_prompts,
    check_strength,
    options_of,
)
from kerasdiff.samplers import make_table


class StableDiffusion(CompiledModels):
    """Text to image, image to image and inpainting with one checkpoint.

    Args:
        img_height, img_width: default picture size in pixels, multiples of the autoencoder's
            factor (8); None takes the checkpoint's.
        jit_compile: True (XLA), False, or "auto": what is faster on this kind of device and in
            this dtype, see `backend.resolve_jit_compile`.
        checkpoint: a preset's name, a file or a folder (see `from_preset`), or a
            `StableDiffusionConfig`, whose networks then start untrained. Unless given it is
            Stable Diffusion 1.4, downloaded (4 GB).
        dtype: of the networks: "float32", "bfloat16" or "float16". Latents, guidance and the
            sampler stay in float32.
        int8: whether the UNet's matrices and convolutions are kept as int8, a good quarter of
            float32's memory, and computed in `dtype`: a slightly other picture.
        token_merging: share of the positions, up to 0.75, that the UNet's outermost self-attention
            merges with others that are alike (arXiv 2303.17604): a slightly other picture.
        memory: "high" keeps every model; "medium" the weights of one at a time, read anew for each
            task (models that you took from here or set keep theirs); "low" moreover reads the
            UNet's weights layer by layer at every step and splits guidance.
        tile: side in pixels of the overlapping tiles in which pictures larger than it are encoded
            and decoded, 512 say: less memory, and a slightly other picture. None: in one piece.
        **files: further arguments of `checkpoints.checkpoint.find_and_open`, such as `vae`,
            `variant` and `prediction_type`.

    Attributes:
        config: a `StableDiffusionConfig`.
        text_encoder, text_encoder_2, image_encoder, decoder, diffusion_model: Keras models, made
            when first used; assign to replace one.
        tokenizer, tokenizer_2: each text encoder's `SimpleTokenizer`.
    """

    def __init__(
        self,
        img_height=None,
        img_width=None,
        jit_compile="auto",
        *,
        checkpoint="sd-v1-4",
        dtype="float32",
        int8=False,
        token_merging=0.0,
        memory="high",
        tile=None,
        **files,
    ):
        files |= {"int8": int8, "token_merging": token_merging}
        super().__init__(checkpoint, dtype, jit_compile, memory, tile, **files)
        height, width = self.config.image_size
        self.img_height = height if img_height is None else img_height
        self.img_width = width if img_width is None else img_width
        self.check_size(self.img_height, self.img_width)

    @classmethod
    def from_preset(cls, preset, **arguments):
        """Opens a checkpoint.

        Args:
            preset: a name in `weights/manifest.json` ("sd-v1-5": downloaded once, checked), a
                single file (.safetensors, .ckpt), a diffusers folder or one of keras-cv's files.
            **arguments: as of the class, such as `dtype` or `vae`.
        """
        return cls(checkpoint=preset, **arguments)

    def text_to_image(
        self,
        prompt,
        negative_prompt=None,
        batch_size=1,
        num_steps=None,
        unconditional_guidance_scale=None,
        seed=None,
        **options,
    ):
        """Pictures of a text.

        Args:
            prompt: a string, or a list of them.
            negative_prompt: what to steer away from; a string, or one for each prompt.
            batch_size: pictures of each prompt.
            num_steps, unconditional_guidance_scale, seed, **options: see `options.Options`.

        Returns:
            uint8 array (B, img_height, img_width, 3).
        """
        options = options_of(num_steps, unconditional_guidance_scale, seed, **options)
        return self._generate(check_prompts(prompt), negative_prompt, batch_size, options)

    def image_to_image(
        self, prompt, image, strength=0.8, negative_prompt=None, batch_size=1, **options
    ):
        """Pictures of a text that start from a picture.

        Args:
            image: PIL image, path, uint8 array or floats in [0, 1]; one, or one for each result.
                Without `img_height` and `img_width` its own size is kept.
            strength: how far to go back into noise, above 0 (hardly) to 1 (all the way).
            prompt, negative_prompt, batch_size, **options: as in `text_to_image`.

        Returns:
            uint8 array (B, img_height, img_width, 3).
        """
        check_given("image", image)
        text, options = check_prompts(prompt), options_of(**options)
        return self._generate(text, negative_prompt, batch_size, options, image, None, strength)

    def inpaint(
        self, prompt, image, mask, strength=1.0, negative_prompt=None, batch_size=1, overlay=True,
        **options,
    ):  # fmt: skip
        """Pictures of a text where the mask is white; elsewhere the picture stays.

        Args:
            mask: greyscale PIL image, path or array: black keeps, white paints anew.
            overlay: as `images.overlay`; False: all as the decoder gives it, diffusers' way.
            image, strength, prompt, and the rest: as in `image_to_image`.

        Returns:
            uint8 array (B, img_height, img_width, 3).
        """
        check_given("image", image)
        check_given("mask", mask)
        text, options = check_prompts(prompt), options_of(**options)
        made = self._generate(text, negative_prompt, batch_size, options, image, mask, strength)
        return images.overlay(made, image, mask) if overlay else made

    def generate_image(
        self,
        encoded_text,
        negative_prompt=None,
        batch_size=1,
        num_steps=None,
        unconditional_guidance_scale=None,
        diffusion_noise=None,
        seed=None,
        **options,
    ):
        """Pictures of an encoded text, for instance of a mixture of two.

        Args:
            encoded_text: from `encode_text`, or an array (77, D) or (B, 77, D).
            negative_prompt: text, list of texts, or encoded text.
            diffusion_noise: starting noise, (h, w, C) or (B, h, w, C), standard normal.

        Returns:
            uint8 array (B, img_height, img_width, 3).
        """
        options = options_of(
            num_steps, unconditional_guidance_scale, seed, diffusion_noise, **options
        )
        network = self.config.diffusion_model
        text = conditioning.as_conditioning(encoded_text, network, "encoded_text")
        return self._generate(text, negative_prompt, batch_size, options)

    def export(self, path, format="tf_saved_model", **options):
        """Writes the whole sampler as files that run without kerasdiff and Keras.

        Args:
            path: a new or empty folder.
            format: "tf_saved_model": text encoders, loop and autoencoder as one SavedModel, whose
                signatures take tokens, a seed, steps and guidance and give pictures; "litert",
                "onnx", "openvino" or "coreml": a file for each network, and the sampler as a
                table.
            **options: `img_height`, `img_width` (None: the model's), `sampler`, `schedule` and
                `max_steps`; for `tf_saved_model` also `tasks` (some of "text_to_image",
                "image_to_image", "inpaint"; None: what the network can do), `batch_size`,
                `free_size` (any size and batch, without XLA), `jit_compile` and `eta`; for the
                others `weights` ("float32", "float16", "int8", as far as the format has them).

        Returns:
            The path.

        Raises:
            ValueError: an argument does not fit.
            CheckpointError: the folder holds something or cannot be written to; nothing is left.
        """
        from kerasdiff.export import export  # TensorFlow: not before it is needed

        height, width = options.pop("img_height", None), options.pop("img_width", None)
        options["img_height"] = self.img_height if height is None else height
        options["img_width"] = self.img_width if width is None else width
        return export(self, path, format, **options)

    def _generate(
        self, text, negative_prompt, batch_size, options, image=None, mask=None, strength=1.0
    ):
        """Pictures of a list of prompts or a `Conditioning`."""
        # First all that can be refused, then what makes and runs networks.
        options = options.with_defaults(self.config)
        check_batch_size(batch_size)
        check_strength(strength)
        height, width = self._picture_size(options, image)
        count = _count(text) * batch_size
        guided = self.asks_twice(options)
        negative = self._negative(negative_prompt, _count(text), count) if guided else None
        table = make_table(
            self.config.schedule,
            options.num_steps,
            sampler=options.sampler,
            schedule=options.schedule,
            strength=strength,
            from_noise=image is None or (mask is not None and strength == 1.0),
            eta=options.eta,
        )
        begin = self._start(table, options, count, height, width, image, mask)

        positive = self._encoded(text, count)
        if guided and negative is None:
            negative = conditioning.zeros_like(positive)
        elif guided:
            negative = self._encoded(negative, count)
        network, scale = self.config.diffusion_model, options.unconditional_guidance_scale
        inputs = conditioning.network_inputs(network, positive, negative, scale, height, width)
        return self.decode(self.denoise(table, begin(), inputs, options), options.progress)

    def _start(self, table, options, count, height, width, image, mask):
        """A function that gives the run's `start.Start`: only its call runs the image encoder."""
        factor, channels = self.config.autoencoder.factor, self.config.autoencoder.latent_channels
        shape = (height // factor, width // factor, channels)
        streams = [TorchStream(seed) for seed in options.seeds(count)]
        noise = start.broadcast_noise(options.diffusion_noise, count, shape)
        drawn = (table, partial(start.draw, streams, shape))
        if image is None:
            if self.config.paints:
                raise ValueError("this checkpoint is for inpainting: use `inpaint`")
            return partial(start.prepare, *drawn, noise)
        image = images.to_float(image, height, width)
        if len(image) not in (1, count):
            raise ValueError(f"`image` holds {len(image)} pictures for {count} results")
        drawn = (*drawn, self.encode_pictures, image)
        if mask is not None:
            mask = images.to_mask(mask, height, width)
            drawn = (*drawn, mask, factor, self.config.paints, table.initial_signal == 0.0)
            return partial(start.prepare_inpainting, *drawn, noise)
        if self.config.paints:
            raise ValueError("this checkpoint is for inpainting: use `inpaint`")
        return partial(start.prepare_from_image, *drawn, noise)

    def _negative(self, negative_prompt, texts, count):
        """The negative's list of prompts or `Conditioning`, or None where it is zeros."""
        if negative_prompt is None:
            return None if self.config.zero_empty_negative else [""]
        if isinstance(negative_prompt, (np.ndarray, Conditioning)):
            network = self.config.diffusion_model
            negative = conditioning.as_conditioning(negative_prompt, network, "negative_prompt")
        else:
            negative = check_prompts(negative_prompt, "negative_prompt")
        if _count(negative) not in (1, texts, count):
            given = f"`negative_prompt` has {_count(negative)} texts for {count} pictures"
            raise ValueError(f"{given}: give one, or one for each prompt")
        return negative

    def _encoded(self, text, count):
        """A list of prompts or a `Conditioning` as one of `count` rows."""
        if isinstance(text, list):
            network = self.config.diffusion_model
            text = conditioning.as_conditioning(self.encode_text(text), network, "prompt")
        return conditioning.repeat(text, count // _count(text))

    def _picture_size(self, options, image):
        height, width, note = options.img_height, options.img_width, ""
        if image is not None and height is None and width is None:
            first = image[0] if isinstance(image, (list, tuple)) and image else image
            height, width = images.size_of(first)
            note = f"; the picture is {width}x{height}, and another size can be given"
        height = self.img_height if height is None else height
        width = self.img_width if width is None else width
        self.check_size(height, width, note)
        return height, width


def _count(text):
    """How many texts a list of prompts or a `Conditioning` holds."""
    return len(text.context if isinstance(text, Conditioning) else text)
