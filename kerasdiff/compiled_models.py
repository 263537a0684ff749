"""A checkpoint's models as compiled functions: text in, pictures in, the loop, pictures out.

Models are made when first used, programs when first run; both stay until they are replaced.
"""

import sys

import numpy as np
from tqdm import tqdm

from kerasdiff import conditioning, images, sampling
from kerasdiff.added_tokens import add_token, expand
from kerasdiff.backend import Program, resolve_jit_compile
from kerasdiff.checkpoints.embeddings import read_embedding
from kerasdiff.checkpoints.models import open_models
from kerasdiff.image_encoder import sample_moments
from kerasdiff.options import check_prompts


class _Part:
    """A model or tokenizer that is made when first used and can be replaced by assignment."""

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, owner, cls=None):
        if owner is None:
            return self
        if self.name not in owner._parts:
            owner._parts[self.name] = owner._models.make(self.name)
        return owner._parts[self.name]

    def __set__(self, owner, value):
        owner._parts[self.name] = value


class CompiledModels:
    """Keras models of one checkpoint and the programs that run them.

    Args:
        checkpoint, dtype, **files: see `StableDiffusion`.
        jit_compile: True (XLA), False, or "auto".
    """

    text_encoder, text_encoder_2 = _Part(), _Part()
    tokenizer, tokenizer_2 = _Part(), _Part()
    image_encoder, decoder, diffusion_model = _Part(), _Part(), _Part()

    def __init__(self, checkpoint, dtype, jit_compile, **files):
        self._models = open_models(checkpoint, dtype, **files)
        self._parts, self._programs, self._added = {}, {}, {}
        resolve_jit_compile(jit_compile, dtype)  # refuses what it does not know
        self.jit_compile = jit_compile

    @property
    def config(self):
        """The checkpoint's `StableDiffusionConfig`."""
        return self._models.config

    def encode_text(self, prompt):
        """What a text, or a list of texts, becomes for the network.

        Returns:
            float32 array (B, 77, context_dim); for families with pooled text (SDXL) a
            `Conditioning` of context and pooled vectors.

        Raises:
            ValueError: more than 75 tokens.
        """
        suffixes = ("", "_2")[: len(self.config.text_encoders)]
        encoders = [
            self._program(f"text_encoder{suffix}", getattr(self, f"text_encoder{suffix}"))
            for suffix in suffixes
        ]
        tokenizers = [getattr(self, f"tokenizer{suffix}") for suffix in suffixes]
        prompts = [expand(text, self._added) for text in check_prompts(prompt)]
        encoded = conditioning.encode(encoders, tokenizers, prompts)
        return encoded if self.config.diffusion_model.added_embed_dim else encoded.context

    def load_textual_inversion(self, path, token=None):
        """Adds a learnt token, to be used in prompts by its name.

        Args:
            path: a file of diffusers (learned_embeds) or of a web UI; see
                `checkpoints.embeddings`.
            token: what to call it; None takes the file's word.

        Returns:
            The token.

        Raises:
            CheckpointError: if the file is damaged or no textual inversion.
            ValueError: if the token exists already or is not for these text encoders.
        """
        embedding = read_embedding(path, token)
        self._added[embedding.token] = add_token(self, embedding.token, embedding.vectors)
        return embedding.token

    def encode_pictures(self, pictures, noise):
        """Latents of pictures in [-1, 1] from their posterior and normal noise.

        Args:
            pictures: (B, H, W, 3), or (1, H, W, 3) for one that all of the noise is for.
            noise: (B, h, w, C).

        Returns:
            (B, h, w, C) float32.
        """
        encode = self._program("image_encoder", self.image_encoder.moments)
        moments = np.concatenate(
            [conditioning.to_numpy(encode(picture[None])) for picture in pictures]
        )
        if len(moments) == 1:
            moments = np.repeat(moments, len(noise), axis=0)
        return conditioning.to_numpy(sample_moments(moments, noise, self.config.autoencoder))

    def decode(self, latents):
        """Latents (B, h, w, C) as uint8 pictures (B, H, W, 3).

        Raises:
            ValueError: the picture is not finite, in float32 either.
        """
        # One by one: the decoder needs the most memory of all, and one size compiles once.
        decode = self._program("decoder", self.decoder, self.jit_compile)
        pictures = [conditioning.to_numpy(decode(latent[None])) for latent in np.asarray(latents)]
        if not np.isfinite(pictures).all() and self.decoder.compute_dtype != "float32":
            self.decoder = self._models.in_float32(self.decoder)
            return self.decode(latents)
        if not np.isfinite(pictures).all():
            raise ValueError(
                "the decoded picture is not finite: the latents or the weights hold NaN or "
                "infinite values; with dtype float16, try bfloat16 or float32"
            )
        return images.to_uint8(np.concatenate(pictures))

    def asks_twice(self, options):
        """Whether the network is also asked without the prompt.

        Distilled networks are not: they take the guidance scale as an input (arXiv 2210.03142).
        """
        return options.guided and not self.config.diffusion_model.time_cond_dim

    def denoise(self, table, begin, inputs, options):
        """Clean latents (B, h, w, C) from a run over a table; shows a bar and calls back."""
        mode = "off"
        if self.asks_twice(options):
            mode = "split" if options.split_guidance else "batched"
            inputs["guidance_rescale"] = np.float32(options.guidance_rescale)
        program = self._program(f"loop {mode}", self.diffusion_model, self.jit_compile, mode)
        scale = options.unconditional_guidance_scale
        visible = sys.stderr.isatty() if options.progress is None else options.progress
        if not visible and options.callback is None:
            return sampling.run(program, table, scale, begin, inputs)
        with tqdm(total=table.steps, disable=not visible, unit="step") as bar:

            def watch(step, denoised):
                bar.update(step - bar.n)
                if options.callback is not None:
                    options.callback(step, table.steps, lambda: self.decode(denoised))

            return sampling.run(program, table, scale, begin, inputs, watch)

    def _program(self, name, model, jit_compile=False, mode=None):
        """The program `name`, compiled once for each `model` that it runs."""
        made_for, program = self._programs.get(name, (None, None))
        if made_for is not model:

            def call(inputs):
                return model(inputs, training=False)

            def loop(*arguments):
                return sampling.loop(model, *arguments, mode)

            program = Program(call if mode is None else loop, model, jit_compile)
            self._programs[name] = (model, program)
        return program
