"""`keras_cv.models.stable_diffusion.decoder`."""

import keras

from kerasdiff import decoder
from kerasdiff.models.stable_diffusion.published import Published
from kerasdiff.options import check_size


@keras.saving.register_keras_serializable("kerasdiff.models")
class Decoder(Published, decoder.Decoder):
    """The autoencoder's decoder.

    Args:
        img_height, img_width: checked to be multiples of 8; the model takes any.
        name: of the model.
        download_weights: whether to fetch the published weights, or else start untrained.

    Raises:
        CheckpointError: if they cannot be downloaded.
        ValueError: on other sizes.
    """

    PART, OURS, H5 = "vae", decoder.Decoder, "decoder"

    def __init__(self, img_height, img_width, name=None, download_weights=True):
        config = self.plan().autoencoder
        check_size(img_height, img_width, config.factor)
        super().__init__(config, name, download_weights)
