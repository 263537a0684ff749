"""The UNet with one layer's weights in memory at a time, read from the file at every step."""

import keras
import numpy as np
from keras import ops

from kerasdiff.block_plan import unet_blocks
from kerasdiff.checkpoints.load import check_fit, state
from kerasdiff.diffusion_model import DiffusionModel, Walk
from kerasdiff.layers import tensor_name, to_torch_axes, without_memory


class StreamedDiffusionModel:
    """Computes what a `DiffusionModel` does, op by op, and is not compiled.

    The file should stay in the system's cache, or each step waits for the disk.

    Args:
        config: a `DiffusionModelConfig`.
        tensors: its weights under canonical names, such as a part of a `Checkpoint`.
        dtype: float32 (None), bfloat16, float16, mixed_bfloat16 or mixed_float16.

    Raises:
        MismatchError: if names or shapes do not fit one to one.
    """

    def __init__(self, config, tensors, dtype=None):
        self.config, self.tensors = config, tensors
        self.model = without_memory(lambda: DiffusionModel(config, dtype=dtype))
        check_fit(tensors, state(self.model).shapes, self.model.name)

    def __call__(self, inputs, training=False):
        """What F predicts, (B, h, w, out_channels), for a dict of inputs."""
        inputs = {name: ops.convert_to_tensor(value) for name, value in inputs.items()}
        return self.walk(inputs).through(unet_blocks(self.config))

    def walk(self, inputs):
        """A `Walk` along the plan that reads each layer's weights when it gets there."""
        return _Reader(self, inputs)

    def run(self, layer, inputs):
        """The output of one layer, with its weights read for this call."""
        values = [(variable, self._read(variable)) for variable in layer.variables]
        with keras.StatelessScope(values, initialize_variables=False):
            return layer(*inputs)

    def _read(self, variable):
        # The backend casts and transposes on all cores, NumPy on one.
        value = ops.convert_to_tensor(self.tensors[tensor_name(variable)])
        axes = np.argsort(to_torch_axes(variable)).tolist()
        return ops.transpose(ops.cast(value, variable.dtype), axes)  # OIHW -> HWIO, OI -> IO


class _Reader(Walk):
    """Goes along the plan with the layers of a model that streams."""

    def __init__(self, streamed, inputs):
        super().__init__(streamed.config, streamed.model.dtype_policy, inputs)
        self.streamed = streamed

    def make(self, kind, name, *args):
        layer = self.streamed.model.get_layer(name)
        return lambda *inputs: self.streamed.run(layer, inputs)
