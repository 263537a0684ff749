"""`keras_cv.models.stable_diffusion.diffusion_model`."""

import keras

from kerasdiff import diffusion_model
from kerasdiff.models.stable_diffusion.published import Published
from kerasdiff.options import check_size


@keras.saving.register_keras_serializable("kerasdiff.models")
class DiffusionModel(Published, diffusion_model.DiffusionModel):
    """The UNet of Stable Diffusion 1.

    Args:
        img_height, img_width: checked to be multiples of 8; the model takes any.
        max_text_length: of contexts; the model takes any.
        name: of the model.
        download_weights: whether to fetch the published weights, or else start untrained.

    Raises:
        CheckpointError: if they cannot be downloaded.
        ValueError: on other sizes.
    """

    PART, OURS, H5 = "unet", diffusion_model.DiffusionModel, "diffusion_model"

    def __init__(self, img_height, img_width, max_text_length, name=None, download_weights=True):
        config = self.plan()
        check_size(img_height, img_width, config.autoencoder.factor)
        super().__init__(config.diffusion_model, name, download_weights)


@keras.saving.register_keras_serializable("kerasdiff.models")
class DiffusionModelV2(DiffusionModel):
    """The UNet of Stable Diffusion 2.1."""

    PRESET = "sd-v2-1-base"
