"""`kerasdiff.noise` inside a TensorFlow graph: PyTorch's normal numbers from a seed.

The Mersenne Twister (Matsumoto and Nishimura, 1998) fills 624 words at a time; each new word needs
one that lies 397 further, so that a block comes in three pieces, each of them one operation.
"""

import numpy as np
import tensorflow as tf

_WORDS, _AHEAD, _BLOCK = 624, 397, 16
FEWEST = _BLOCK
"""Numbers of an array: PyTorch draws smaller ones by another rule, which is not here."""
_UPPER, _LOWER, _TWIST = np.uint32(0x80000000), np.uint32(0x7FFFFFFF), np.uint32(0x9908B0DF)


def draws(seeds, count, shape):
    """Standard normal noise, the first numbers of each seed's stream.

    Args:
        seeds: (B,) int64; the low 32 bits tell.
        count: how many arrays of each stream.
        shape: (h, w, C) of an array, ints or scalar tensors, `FEWEST` numbers or more.

    Returns:
        (count, B, h, w, C) float32.
    """
    height, width, channels = shape
    size = height * width * channels
    ragged = size % _BLOCK
    # A ragged end is drawn again, together with what makes it a whole block.
    words_each = tf.where(ragged > 0, size + _BLOCK, size)
    words = _words(seeds, count * words_each)  # (count * words_each, B)
    words = tf.reshape(words, (count, words_each, -1))
    uniforms = tf.cast(words & np.uint32(0xFFFFFF), "float32") / np.float32(2**24)
    normals = _box_muller(uniforms[:, : size - ragged])
    end = _box_muller(uniforms[:, words_each - _BLOCK :])
    kept = tf.where(ragged > 0, size - _BLOCK, size)
    normals = tf.concat([normals[:, :kept], end[:, : size - kept]], 1)  # (count, size, B)
    normals = tf.reshape(normals, (count, channels, height, width, -1))
    return tf.transpose(normals, (0, 4, 2, 3, 1))  # (count, B, h, w, C)


def _words(seeds, count):
    """The first `count` words of each stream, (count, B) uint32."""
    blocks = -(-count // _WORDS)

    def fill(i, state, filled):
        state = _next_block(state)
        return i + 1, state, filled.write(i, _tempered(state))

    filled = tf.TensorArray("uint32", blocks, element_shape=(_WORDS, None))
    state = _first_block(tf.cast(seeds & np.int64(0xFFFFFFFF), "uint32"))
    _, _, filled = tf.while_loop(lambda i, *_: i < blocks, fill, (0, state, filled))
    return filled.concat()[:count]


def _first_block(seeds):
    """The state that a seed sets, (624, B)."""

    def fill(i, word, filled):
        filled = filled.write(i, word)
        word = np.uint32(1812433253) * (word ^ tf.bitwise.right_shift(word, np.uint32(30)))
        return i + 1, word + tf.cast(i + 1, "uint32"), filled

    filled = tf.TensorArray("uint32", _WORDS, element_shape=(None,))
    _, _, filled = tf.while_loop(lambda i, *_: i < _WORDS, fill, (0, seeds, filled))
    return filled.stack()


def _next_block(old):
    """The state after the next 624 words, (624, B)."""
    first = _twisted(old[:227], old[1:228]) ^ old[_AHEAD:]
    second = _twisted(old[227:454], old[228:455]) ^ first
    third = _twisted(old[454:623], old[455:]) ^ second[:169]
    last = _twisted(old[623:], first[:1]) ^ second[169:170]
    return tf.concat([first, second, third, last], 0)


def _twisted(words, following):
    mixed = (words & _UPPER) | (following & _LOWER)
    return tf.bitwise.right_shift(mixed, np.uint32(1)) ^ (mixed & np.uint32(1)) * _TWIST


def _tempered(words):
    shift_left, shift_right = tf.bitwise.left_shift, tf.bitwise.right_shift
    words ^= shift_right(words, np.uint32(11))
    words ^= shift_left(words, np.uint32(7)) & np.uint32(0x9D2C5680)
    words ^= shift_left(words, np.uint32(15)) & np.uint32(0xEFC60000)
    return words ^ shift_right(words, np.uint32(18))


def _box_muller(uniforms):
    """As `noise._box_muller`, along axis 1 of (count, size, B)."""
    shape = tf.shape(uniforms)
    blocks = tf.reshape(uniforms, (shape[0], -1, 2, _BLOCK // 2, shape[2]))
    radii = tf.sqrt(np.float32(-2.0) * tf.math.log(np.float32(1.0) - blocks[:, :, :1]))
    angles = np.float32(2.0 * np.pi) * blocks[:, :, 1:]
    normals = tf.concat([radii * tf.cos(angles), radii * tf.sin(angles)], 2)
    return tf.reshape(normals, shape)
