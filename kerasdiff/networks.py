"""What the four networks share: a Keras functional graph made from a frozen config."""

from dataclasses import asdict, fields

import keras


class Network(keras.Model):
    """A functional model that is rebuilt from its config.

    Subclasses say `config_class` and build their graph in `__init__`.

    Attributes:
        config: the frozen dataclass that describes the network.
    """

    config_class = None

    def __init__(self, inputs, outputs, config, dtype, name):
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.config = config
        self.dtype_policy = dtype

    def get_config(self):
        """The config's fields, the dtype and the name; enough for `from_config`."""
        policy = self.dtype_policy.name
        return {"config": asdict(self.config), "dtype": policy, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The same network, freshly initialised."""
        names = {field.name for field in fields(cls.config_class)}
        values = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in config["config"].items()
            if name in names
        }
        return cls(cls.config_class(**values), dtype=config["dtype"], name=config["name"])


def dtype_of(policy):
    """The dtype in which a network of this policy takes its inputs, such as `"bfloat16"`."""
    return keras.dtype_policies.get(policy).compute_dtype
