"""Runs signatures with TensorFlow alone: python saved_model_alone.py FOLDER CALLS OUT.

CALLS is an .npz of arrays named "number/signature/input"; OUT becomes one of "number/output".
"""

import importlib.util
import sys

BANNED = ("kerasdiff", "keras")


def is_banned(name):
    return name.partition(".")[0] in BANNED


class Refuse:
    """As if they were not installed."""

    def find_spec(self, name, path=None, target=None):
        if is_banned(name):
            raise ModuleNotFoundError(f"{name} is not here")


def refuse():
    """Takes kerasdiff and Keras away from this process."""
    sys.meta_path.insert(0, Refuse())
    look = importlib.util.find_spec  # TensorFlow asks it where Keras lies
    importlib.util.find_spec = lambda name, *more: None if is_banned(name) else look(name, *more)


def main():
    refuse()
    import numpy as np
    import tensorflow as tf

    folder, calls, out = sys.argv[1:]
    loaded, given, results = tf.saved_model.load(folder), {}, {}
    for key, array in np.load(calls).items():
        number, signature, name = key.split("/")
        given.setdefault((number, signature), {})[name] = tf.constant(array)
    for (number, signature), inputs in given.items():
        try:
            outputs = loaded.signatures[signature](**inputs)
            results |= {f"{number}/{name}": value.numpy() for name, value in outputs.items()}
        except tf.errors.InvalidArgumentError as error:
            results[f"{number}/error"] = np.array(str(error))
    assert not any(map(is_banned, sys.modules))
    np.savez(out, **results)


if __name__ == "__main__":
    main()
