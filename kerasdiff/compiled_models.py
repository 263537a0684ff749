"""A checkpoint's models as compiled functions: text in, pictures in, the loop, pictures out."""

from functools import partial

import numpy as np

from kerasdiff import conditioning, images, progress, sampling
from kerasdiff.added_tokens import add_token, expand
from kerasdiff.backend import (
    Program,
    compute_float32_in_full,
    for_few_calls,
    prepare_compiler,
    resolve_jit_compile,
    runs_one_by_one,
)
from kerasdiff.checkpoints.embeddings import read_embedding
from kerasdiff.checkpoints.models import open_models
from kerasdiff.configs import MEMORY, StableDiffusionConfig
from kerasdiff.held_models import HeldModels, in_turn
from kerasdiff.image_encoder import sample_moments
from kerasdiff.options import check_prompts, check_size, is_integer
from kerasdiff.tiles import count_tiles, in_tiles


def _check_memory(memory, checkpoint, int8=False, token_merging=0.0, **_):
    """ValueError unless networks can be kept as `memory` says."""
    if memory not in MEMORY:
        raise ValueError(f"`memory` must be one of {', '.join(MEMORY)}, not {memory!r}")
    if memory != "high" and isinstance(checkpoint, StableDiffusionConfig):
        raise ValueError(f"`memory` {memory!r} needs a checkpoint to read networks from anew")
    if memory == "low" and not runs_one_by_one():
        raise ValueError('on OpenVINO `memory` must be "high" or "medium", not "low"')
    if memory == "low" and (int8 or token_merging):
        raise ValueError('`int8` and `token_merging` do not go with `memory` "low"')


class NotFiniteError(ValueError):
    """A decoded picture holds NaN or infinity."""


class CompiledModels(HeldModels):
    """Keras models of one checkpoint and the programs that run them.

    Args:
        checkpoint, dtype, memory, tile, **options: see `StableDiffusion`.
        jit_compile: True (XLA), False, or "auto".
    """

    def __init__(self, checkpoint, dtype, jit_compile, memory="high", tile=None, **options):
        # First all that can be refused before a checkpoint is downloaded and looked into.
        _check_memory(memory, checkpoint, **options)
        if tile is not None and (not is_integer(tile) or tile < 1):
            raise ValueError(f"`tile` must be a positive whole number of pixels, not {tile!r}")
        prepare_compiler(memory, dtype, jit_compile)  # while there is no tensor yet
        resolve_jit_compile(jit_compile, dtype)  # refuses what it does not know
        if dtype == "float32":
            compute_float32_in_full()
        super().__init__(open_models(checkpoint, dtype, **options), memory)
        self.jit_compile, self.tile = jit_compile, tile
        factor = self.config.autoencoder.factor
        if tile is not None and tile % factor:
            raise ValueError(f"`tile` must be a multiple of {factor}, not {tile!r}")

    @property
    def config(self):
        """The checkpoint's `StableDiffusionConfig`."""
        return self._models.config

    @property
    def token_merging(self):
        """Share of the positions that the UNet's outermost self-attention merges."""
        return self._models.token_merging

    def check_size(self, height, width, note=""):
        """ValueError unless pictures can have this size, see `options.check_size`."""
        factor = self.config.autoencoder.factor
        check_size(height, width, factor, note)
        # Tokens are merged in cells of 2x2 positions, where there is attention first.
        depths = enumerate(self.config.diffusion_model.depth)
        halved = 2 ** next((level for level, depth in depths if depth), 0)
        odd = any(-(-side // factor // halved) % 2 for side in (height, width))
        if self.token_merging and odd:
            raise ValueError(
                f"`token_merging` is for sides that are multiples of {2 * factor * halved}, not "
                f"for {width}x{height}{note}"
            )

    @in_turn
    def encode_text(self, prompt):
        """What a text, or a list of texts, becomes for the network.

        Returns:
            float32 array (B, 77, context_dim); for families with pooled text (SDXL) a
            `Conditioning` of context and pooled vectors.

        Raises:
            ValueError: more than 75 tokens.
        """
        suffixes = self.config.text_suffixes
        encoders = [
            lambda inputs, name=f"text_encoder{suffix}": self._program(name)(inputs)
            for suffix in suffixes
        ]
        tokenizers = [getattr(self, f"tokenizer{suffix}") for suffix in suffixes]
        known = tokenizers[0].whole_tokens
        prompts = [expand(text, known) for text in check_prompts(prompt)]
        encoded = conditioning.encode(encoders, tokenizers, prompts)
        return encoded if self.config.diffusion_model.added_embed_dim else encoded.context

    @in_turn
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
        add_token(self, embedding.token, embedding.vectors)
        return embedding.token

    @in_turn
    def encode_pictures(self, pictures, noise):
        """Latents of pictures in [-1, 1] from their posterior and normal noise.

        Args:
            pictures: (B, H, W, 3), or (1, H, W, 3) for one that all of the noise is for.
            noise: (B, h, w, C).

        Returns:
            (B, h, w, C) float32.
        """
        factor, encode = self.config.autoencoder.factor, self._program("image_encoder")
        moments = np.stack([self._in_tiles(encode, picture, factor, 1) for picture in pictures])
        if len(moments) == 1:
            moments = np.repeat(moments, len(noise), axis=0)
        return conditioning.to_numpy(sample_moments(moments, noise, self.config.autoencoder))

    @in_turn
    def decode(self, latents, progress=False):
        """Latents (B, h, w, C) as uint8 pictures (B, H, W, 3).

        Args:
            progress: whether to show a bar of pictures or tiles; None shows one where somebody
                looks.

        Raises:
            ValueError: `latents` has other axes.
            NotFiniteError: the picture is not finite, in float32 either.
        """
        latents = np.asarray(latents)
        if latents.ndim != 4:
            raise ValueError(f"`latents` must be of shape (B, h, w, C), not {latents.shape}")
        pictures = self._decoded(latents, "decoder", progress)
        decoder = self._part("decoder")
        overflows = np.isfinite(latents).all() and not np.isfinite(pictures).all()
        if overflows and decoder.compute_dtype != "float32":
            with self._making:
                twin = self._models.in_float32(decoder, self._parts.get("float32_decoder"))
                self._put("float32_decoder", twin)
            pictures = self._decoded(latents, "float32_decoder", progress)
        if not np.isfinite(pictures).all():
            raise NotFiniteError(
                "the decoded picture is not finite: the latents or the weights hold NaN or "
                "infinite values; with dtype float16, try bfloat16 or float32"
            )
        return images.to_uint8(pictures)

    def _decoded(self, latents, name, shown):
        factor, (count, height, width, _) = self.config.autoencoder.factor, latents.shape
        tiles = count_tiles(height, width, self.tile // factor) if self.tile else 1
        unit = "picture" if tiles == 1 else "tile"
        with progress.bar(count * tiles, unit, shown, desc="decoding", leave=False) as bar:
            decode = self._program(name)

            def decode_one(latent):
                decoded = conditioning.to_numpy(decode(latent))
                bar.update()
                return decoded

            # One by one: the decoder needs the most memory of all, and one size compiles once.
            return np.stack([self._in_tiles(decode_one, latent, 1, factor) for latent in latents])

    def asks_twice(self, options):
        """Whether the network is also asked without the prompt.

        Distilled networks are not: they take the guidance scale as an input (arXiv 2210.03142).
        """
        return options.guided and not self.config.diffusion_model.time_cond_dim

    @in_turn
    def denoise(self, table, begin, inputs, options):
        """Clean latents (B, h, w, C) from a run over a table; shows a bar and calls back."""
        mode = "off"
        if self.asks_twice(options):
            splits = options.split_guidance or self.memory == "low"
            mode = "split" if splits else "batched"
            inputs["guidance_rescale"] = np.float32(options.guidance_rescale)
        streams = self.memory == "low" and "diffusion_model" not in self._kept
        name = "streamed_diffusion_model" if streams else "diffusion_model"
        economies = options.guidance_interval, options.cache_interval
        passes = sampling.plan_passes(table, mode, *economies)
        scale = options.unconditional_guidance_scale
        programs = partial(self._program, name)
        run = partial(sampling.run, programs, table, passes, scale, begin, inputs)
        visible = progress.is_watched() if options.progress is None else options.progress
        if not visible and options.callback is None:
            return run()
        ready = (name, passes[0]) in self._programs and name not in self._empty
        waiting = None if ready else "loading, compiling"
        with progress.bar(table.steps, "step", visible, desc=waiting) as bar, self._keeping(name):

            def watch(step, denoised):
                bar.set_description(refresh=False)
                bar.update(step - bar.n)
                if options.callback is not None:
                    options.callback(step, table.steps, lambda: self.decode(denoised))

            return run(watch)

    def _in_tiles(self, function, array, inward, outward):
        if self.tile is None:
            return conditioning.to_numpy(function(array[None]))[0]
        size = self.tile // self.config.autoencoder.factor
        return in_tiles(lambda tile: conditioning.to_numpy(function(tile)), array, size, inward,
                        outward)  # fmt: skip

    def _compiled(self, name, model, how):
        if name.endswith("diffusion_model"):
            streams = name.startswith("streamed")
            loop = sampling.loop_on_host if streams else sampling.loop
            loop = partial(sampling.keep if how.deep == "keep" else loop, model, mode=how.mode)
            return loop if streams else Program(loop, model, self.jit_compile)
        model = model.moments if name == "image_encoder" else model
        often = name.endswith("decoder")
        jit_compile = self.jit_compile if often else for_few_calls(self.jit_compile)
        spares = self.memory == "low" or self.tile is not None
        return Program(partial(model, training=False), model, jit_compile, spares=spares)
