"""`keras_cv.models.stable_diffusion.text_encoder`."""

from dataclasses import replace

import keras

from kerasdiff import text_encoder
from kerasdiff.models.stable_diffusion.published import Published


@keras.saving.register_keras_serializable("kerasdiff.models")
class TextEncoder(Published, text_encoder.TextEncoder):
    """CLIP's text encoder of Stable Diffusion 1.

    Args:
        max_length: of prompts, in tokens: 77 in every published checkpoint.
        vocab_size: rows of the table of tokens; more than 49,408 for learnt ones.
        name: of the model.
        download_weights: whether to fetch the published weights, or else start untrained.

    Raises:
        CheckpointError: if they cannot be downloaded, or do not fit these sizes.
    """

    PART, OURS, H5 = "text_encoder", text_encoder.TextEncoder, "text_encoder"

    def __init__(self, max_length, vocab_size=49408, name=None, download_weights=True):
        config = self.plan().text_encoders[0]
        config = replace(config, max_length=max_length, vocab_size=vocab_size)
        super().__init__(config, name, download_weights)


@keras.saving.register_keras_serializable("kerasdiff.models")
class TextEncoderV2(TextEncoder):
    """OpenCLIP's text encoder of Stable Diffusion 2.1."""

    PRESET = "sd-v2-1-base"
