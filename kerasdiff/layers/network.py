"""A Keras functional model that is made from a config."""

from dataclasses import asdict

import keras
import numpy as np

DTYPES = ("float32", "bfloat16", "float16", "mixed_bfloat16", "mixed_float16")


def to_policy(dtype):
    """The dtype policy of a name or policy; None is float32, whatever the global policy is.

    Raises:
        ValueError: if it is none of float32, bfloat16, float16, mixed_bfloat16, mixed_float16.
    """
    if dtype is None:
        dtype = "float32"
    if isinstance(dtype, dict):
        dtype = keras.saving.deserialize_keras_object(dtype)
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", None)
    if name not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, not {dtype!r}")
    return keras.dtype_policies.DTypePolicy(name)


class Network(keras.Model):
    """Base class of the models.

    Calls take a list of inputs in the model's order, or a dict by their names; arrays, tensors or
    both.

    Args:
        config: the frozen dataclass that describes the network.
        inputs, outputs: the ends of its graph; several inputs in a list.
        dtype: policy of the layers.
        name: of the model.

    Attributes:
        CONFIG: the config's class.
    """

    CONFIG = None

    def __init__(self, config, inputs, outputs, dtype, name, trainable=True):
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.config = config
        self.dtype_policy = to_policy(dtype)
        self.trainable = trainable

    def __call__(self, inputs, *args, **kwargs):
        if isinstance(inputs, dict):
            inputs = self._in_order(inputs)
        # Keras itself refuses arrays and tensors side by side.
        inputs = keras.tree.map_structure(_to_tensor, inputs)
        return super().__call__(inputs, *args, **kwargs)

    def _in_order(self, inputs):
        """A dict of inputs as the graph wants them."""
        names = [tensor.name for tensor in self.inputs]
        if set(inputs) != set(names):
            raise ValueError(
                f"{self.name}: `inputs` must have the keys {', '.join(names)}, "
                f"not {', '.join(map(str, inputs))}"
            )
        ordered = [inputs[name] for name in names]
        return ordered if len(ordered) > 1 else ordered[0]

    def get_config(self):
        return {
            "config": asdict(self.config),
            "dtype": self.dtype_policy.name,
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        fields = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in config["config"].items()
        }
        return cls(**{**config, "config": cls.CONFIG(**fields)})


def _to_tensor(value):
    return keras.ops.convert_to_tensor(value) if isinstance(value, np.ndarray) else value
