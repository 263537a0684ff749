"""Training the variational autoencoder (arXiv 2112.10752, section 3.1 and appendix G).

The trainer is a Keras model of one input, a batch; calling it gives the losses of the batch. All
randomness is in the batch, so a step is a pure function of weights and batch.
"""

import keras
from keras import ops

from kerasdiff.backend import loss_of_replica
from kerasdiff.image_encoder import LOG_VARIANCE
from kerasdiff.training.trainer import Trainer


class AutoencoderTrainer(Trainer):
    """Trains an image encoder and a decoder together with `compile` and `fit`.

    A batch is a dict: `pictures` (B, H, W, 3), uint8 or floats in [-1, 1], and `noise`
    (B, H/f, W/f, C), standard normal, for the sample from the posterior. The loss is a weighted sum
    of means: over pixels for reconstruction and gradients, over latents for the divergence.

    Args:
        image_encoder, decoder: models of the same `AutoencoderConfig`. One that is frozen stays as
            it is: a `DiffusionTrainer` leaves image encoders so.
        l1, mse: weights of the absolute and of the squared error of pixels.
        kl: weight of the Kullback-Leibler divergence from the standard normal, a latent; 0 where
            the image encoder is frozen, for it alone learns by it.
        gradient: weight of the absolute error of differences between neighbouring pixels.
        adversarial: weight of the discriminator's opinion (hinge loss), where there is one.
        discriminator: a model of pictures to a map of opinions, such as `patch_discriminator()`.

    Raises:
        ValueError: if the halves differ in their config, or the weight of a missing discriminator
            is not 0; if the image encoder is frozen and `kl` is not 0.
    """

    def __init__(
        self, image_encoder, decoder, *, l1=1.0, mse=0.0, kl=1e-6, gradient=0.0,
        adversarial=0.0, discriminator=None, name="autoencoder_trainer",
    ):  # fmt: skip
        super().__init__(name=name)
        if image_encoder.config != decoder.config:
            raise ValueError("`image_encoder` and `decoder` must have the same config")
        if bool(adversarial) != (discriminator is not None):
            raise ValueError("`adversarial` and `discriminator` need one another")
        if kl and not any(layer.trainable for layer in image_encoder.moments.layers):
            raise ValueError(
                "`image_encoder` is frozen, perhaps by a trainer before: set its `trainable = True`"
                ", or `kl=0.0` to train the decoder alone"
            )
        # The moments share the image encoder's variables, and are what is trained.
        self.image_encoder, self.moments = image_encoder, image_encoder.moments
        self.decoder, self.discriminator = decoder, discriminator
        self.weights_of_losses = {
            "l1": l1, "mse": mse, "kl": kl, "gradient": gradient, "adversarial": adversarial
        }  # fmt: skip
        self.built = True

    def call(self, batch, training=None):
        """The weighted sum of the losses, a number."""
        losses = self.losses_of(batch)
        return sum(
            weight * losses[name] for name, weight in self.weights_of_losses.items() if weight
        )

    def losses_of(self, batch):
        """Each loss by name, unweighted, float32 numbers."""
        pictures = to_floats(batch["pictures"])
        mean, log_variance = ops.split(ops.cast(self.moments(pictures), "float32"), 2, axis=-1)
        log_variance = ops.clip(log_variance, *LOG_VARIANCE)
        config = self.decoder.config
        sample = mean + ops.exp(0.5 * log_variance) * batch["noise"]
        latents = (sample - config.shift_factor) * config.scaling_factor
        painted = ops.cast(self.decoder(latents), "float32")
        error = painted - pictures
        losses = {
            "l1": ops.mean(ops.abs(error)),
            "mse": ops.mean(ops.square(error)),
            # arXiv 1312.6114, appendix B
            "kl": 0.5 * ops.mean(mean**2 + ops.exp(log_variance) - 1.0 - log_variance),
            "gradient": _difference(error, 1) + _difference(error, 2),
        }
        if self.discriminator is not None:
            losses["adversarial"] = self._hinge(pictures, painted)
        return losses

    def _hinge(self, pictures, painted):
        """One loss that trains both sides.

        The discriminator sees detached pictures and learns the hinge loss. The last term is zero
        in value, and its gradients for the discriminator's weights cancel; what is left is the
        gradient for the decoder, towards better opinions.
        """
        ratio = self.weights_of_losses["adversarial"]
        real = self.discriminator(pictures)
        seen = self.discriminator(ops.stop_gradient(painted))
        hoped = self.discriminator(painted)
        judge = ops.mean(ops.relu(1.0 - real)) + ops.mean(ops.relu(1.0 + seen))
        # The discriminator learns at full weight, whatever weight its opinion has.
        return judge / ratio - (ops.mean(hoped) - ops.mean(seen))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """`fit` minimises what `call` returns."""
        return loss_of_replica(y_pred)


def patch_discriminator(channels=(32, 64, 128), name="discriminator"):
    """A convolutional network that judges patches (arXiv 1611.07004, section 3.2.2).

    Args:
        channels: of its levels, each halving the size.

    Returns:
        A Keras model: pictures (B, H, W, 3) to opinions (B, h, w, 1).
    """
    picture = keras.Input((None, None, 3))
    x = picture
    for width in channels:
        x = keras.layers.Conv2D(width, 4, 2, "same")(x)
        x = keras.layers.LeakyReLU(0.2)(x)
    return keras.Model(picture, keras.layers.Conv2D(1, 4, padding="same")(x), name=name)


def to_floats(pictures):
    """uint8 pictures to floats in [-1, 1]; floats as float32."""
    if keras.backend.standardize_dtype(pictures.dtype) == "uint8":
        return ops.cast(pictures, "float32") / 127.5 - 1.0
    return ops.cast(pictures, "float32")


def _difference(error, axis):
    """The mean absolute difference of neighbours along height (1) or width (2)."""
    return ops.mean(ops.abs(ops.diff(error, axis=axis)))
