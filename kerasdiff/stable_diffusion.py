"""The orchestrator: prompt -> conditioning -> table -> loop -> picture.

It holds a checkpoint's models and compiled programs and no maths of its own. Latent Diffusion is
arXiv 2112.10752; image to image starts part-way along the schedule (SDEdit, arXiv 2108.01073);
inpainting with a plain checkpoint blends the known part in, re-noised, after each row (as RePaint,
arXiv 2201.09865, without resampling), and with a 9-channel checkpoint hands it to the network.
"""

import numpy as np

from kerasdiff import conditioning, images, start
from kerasdiff.compiled_models import CompiledModels
from kerasdiff.conditioning import Conditioning
from kerasdiff.noise import TorchStream
from kerasdiff.options import (
    Options,
    check_batch_size,
    check_given,
    check_prompts,
    check_size,
    check_strength,
)
from kerasdiff.samplers import make_table


class StableDiffusion(CompiledModels):
    """Text to image, image to image and inpainting with one checkpoint.

    Args:
        img_height, img_width: default picture size in pixels, multiples of the autoencoder's
            factor (8); None takes the checkpoint's.
        jit_compile: True (XLA), False, or "auto": what was measured to be faster for this kind of
            device and dtype.
        checkpoint: a preset's name, a file or a folder (see `from_preset`), or a
            `StableDiffusionConfig`, whose networks then start untrained.
        dtype: of the networks: "float32", "bfloat16" or "float16". Latents, guidance and the
            sampler stay in float32.
        **files: further arguments of `checkpoints.checkpoint.open_checkpoint`, such as `vae`,
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
        **files,
    ):
        super().__init__(checkpoint, dtype, jit_compile, **files)
        height, width = self.config.image_size
        self.img_height = height if img_height is None else img_height
        self.img_width = width if img_width is None else img_width
        check_size(self.img_height, self.img_width, self.config.autoencoder.factor)

    @classmethod
    def from_preset(cls, preset, **arguments):
        """Opens a checkpoint.

        Args:
            preset: a name in `weights/manifest.json` ("sd-v1-5": downloaded once, checked), a
                single file (.safetensors, .ckpt) or a diffusers folder.
            **arguments: as of the class, such as `dtype` or `vae`.
        """
        return cls(checkpoint=preset, **arguments)

    def text_to_image(
        self,
        prompt,
        negative_prompt=None,
        batch_size=1,
        num_steps=50,
        unconditional_guidance_scale=7.5,
        seed=None,
        **options,
    ):
        """Pictures of a text.

        Args:
            prompt: a string, or a list of them.
            negative_prompt: what to steer away from; a string, or one for each prompt.
            batch_size: pictures of each prompt.
            num_steps, unconditional_guidance_scale, seed, **options: see `Options`.

        Returns:
            uint8 array (B, img_height, img_width, 3).
        """
        return self.generate_image(
            self.encode_text(prompt),
            negative_prompt,
            batch_size,
            num_steps,
            unconditional_guidance_scale,
            seed=seed,
            **options,
        )

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
        options = Options(**options)
        encoded = self.encode_text(prompt)
        return self._generate(encoded, negative_prompt, batch_size, options, image, None, strength)

    def inpaint(
        self, prompt, image, mask, strength=1.0, negative_prompt=None, batch_size=1, **options
    ):
        """Pictures of a text where the mask is white; elsewhere the picture stays.

        Args:
            mask: greyscale PIL image, path or array: black keeps, white paints anew.
            image, strength, prompt, negative_prompt, batch_size, **options: as in
                `image_to_image`.

        Returns:
            uint8 array (B, img_height, img_width, 3). Kept parts have gone through the
            autoencoder once.
        """
        check_given("image", image)
        check_given("mask", mask)
        options = Options(**options)
        encoded = self.encode_text(prompt)
        return self._generate(encoded, negative_prompt, batch_size, options, image, mask, strength)

    def generate_image(
        self,
        encoded_text,
        negative_prompt=None,
        batch_size=1,
        num_steps=50,
        unconditional_guidance_scale=7.5,
        diffusion_noise=None,
        seed=None,
        **options,
    ):
        """Pictures of an encoded text, for instance of a mixture of two.

        Args:
            encoded_text: from `encode_text`, or an array (77, D) or (B, 77, D).
            negative_prompt: text, list of texts, or encoded text.
            diffusion_noise: (h, w, C) or (B, h, w, C), standard normal, instead of a seed.

        Returns:
            uint8 array (B, img_height, img_width, 3).
        """
        options = Options(num_steps, unconditional_guidance_scale, seed, diffusion_noise, **options)
        return self._generate(encoded_text, negative_prompt, batch_size, options)

    def _generate(
        self,
        encoded_text,
        negative_prompt,
        batch_size,
        options,
        image=None,
        mask=None,
        strength=1.0,
    ):
        check_batch_size(batch_size)
        check_strength(strength)
        height, width = self._picture_size(options, image)
        network = self.config.diffusion_model
        positive = conditioning.as_conditioning(encoded_text, network, "encoded_text")
        positive = conditioning.repeat(positive, batch_size)
        count = len(positive.context)
        guided = self.asks_twice(options)
        negative = self._negative(negative_prompt, positive) if guided else None
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
        scale = options.unconditional_guidance_scale
        inputs = conditioning.network_inputs(network, positive, negative, scale, height, width)
        return self.decode(self.denoise(table, begin, inputs, options))

    def _start(self, table, options, count, height, width, image, mask):
        factor, channels = self.config.autoencoder.factor, self.config.autoencoder.latent_channels
        shape = (height // factor, width // factor, channels)
        streams = [TorchStream(seed) for seed in options.seeds(count)]
        noise = start.broadcast_noise(options.diffusion_noise, count, shape)
        paints = self.config.diffusion_model.in_channels != channels
        if image is None:
            if paints:
                raise ValueError("this checkpoint is for inpainting: call `inpaint`")
            return start.prepare(table, streams, shape, noise)
        image = images.to_float(image, height, width)
        if len(image) not in (1, count):
            raise ValueError(f"`image` holds {len(image)} pictures for {count} results")
        if mask is not None:
            mask = images.to_mask(mask, height, width)
            return start.prepare_inpainting(
                table, streams, shape, self.encode_pictures, image, mask, paints, noise
            )
        if paints:
            raise ValueError("this checkpoint is for inpainting: call `inpaint` with a mask")
        return start.prepare_from_image(table, streams, shape, self.encode_pictures, image, noise)

    def _negative(self, negative_prompt, positive):
        if negative_prompt is None and self.config.zero_empty_negative:
            return conditioning.zeros_like(positive)
        if not isinstance(negative_prompt, (np.ndarray, Conditioning)):
            texts = "" if negative_prompt is None else negative_prompt
            negative_prompt = self.encode_text(check_prompts(texts, "negative_prompt"))
        network = self.config.diffusion_model
        negative = conditioning.as_conditioning(negative_prompt, network, "negative_prompt")
        if negative.context.shape[1:] != positive.context.shape[1:]:
            raise ValueError(
                f"`negative_prompt` has {negative.context.shape[1]} tokens, the encoded text "
                f"{positive.context.shape[1]}"
            )
        count, given = len(positive.context), len(negative.context)
        if count % given:
            raise ValueError(f"`negative_prompt` has {given} texts for {count} pictures")
        return conditioning.repeat(negative, count // given)

    def _picture_size(self, options, image):
        height, width, note = options.img_height, options.img_width, ""
        if image is not None and height is None and width is None:
            first = image[0] if isinstance(image, (list, tuple)) and image else image
            height, width = images.size_of(first)
            note = f"; the picture is {width}x{height}, and another size can be given"
        height = self.img_height if height is None else height
        width = self.img_width if width is None else width
        check_size(height, width, self.config.autoencoder.factor, note)
        return height, width
