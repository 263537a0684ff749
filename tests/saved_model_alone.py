"""Runs signatures with TensorFlow alone: python saved_model_alone.py FOLDER CALLS OUT.

CALLS is an .npz of arrays named "number/signature/input"; OUT becomes one of "number/output".
"""

import sys

BANNED = ("kerasdiff", "keras")


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BANNED:
            raise ImportError(f"{name} is not here")


def main():
    import numpy as np
    import tensorflow as tf  # looks where Keras lies, and imports it only when asked to

    sys.meta_path.insert(0, Refuse())
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
    assert not any(name.partition(".")[0] in BANNED for name in sys.modules)
    np.savez(out, **results)


if __name__ == "__main__":
    main()
