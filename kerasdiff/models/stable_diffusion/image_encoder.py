"""`keras_cv.models.stable_diffusion.image_encoder`."""

import keras

from kerasdiff import image_encoder
from kerasdiff.models.stable_diffusion.published import Published


@keras.saving.register_keras_serializable("kerasdiff.models")
class ImageEncoder(Published, image_encoder.ImageEncoder):
    """The autoencoder's encoder; `layers[-2].output` are the moments.

    Args:
        download_weights: whether to fetch the published weights, or else start untrained.

    Raises:
        CheckpointError: if they cannot be downloaded.
    """

    PART, OURS, H5 = "vae", image_encoder.ImageEncoder, "image_encoder"

    def __init__(self, download_weights=True):
        super().__init__(self.plan().autoencoder, None, download_weights)
