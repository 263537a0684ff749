"""Files as Keras 2 writes them."""

import h5py
import numpy as np


def write_h5(path, layers, top="", cut=None):
    """A file as Keras 2 writes it; each weight is filled with its number, and takes no room."""
    numbers = {}
    with h5py.File(path, "w") as file:
        group = file.create_group(top) if top else file
        group.attrs["layer_names"] = [b"input_1", *(layer.encode() for layer, _ in layers)]
        group.create_group("input_1").attrs["weight_names"] = np.array([], "S1")
        for layer, weights in layers:
            inner = group.create_group(layer)
            names = [name.encode() for name, _ in weights]
            for i in range(0, len(names), cut or len(names)):
                suffix = str(i // cut) if cut else ""
                inner.attrs[f"weight_names{suffix}"] = names[i : i + (cut or len(names))]
            for name, shape in weights:
                numbers[name] = len(numbers) + 1
                inner.create_dataset(name, shape, np.float16, fillvalue=numbers[name])
    return numbers
