"""Pictures with captions, and shards of them as others would write them."""

import io

import tensorflow as tf
from picture_cases import pixels
from PIL import Image


def items(count):
    """Pictures of two sizes; the captions are their numbers."""
    return [(pixels(8 + 4 * (i % 2), 12, i), f"picture {i} ⛰") for i in range(count)]


def example(picture=None, kind="JPEG", caption="theirs", size=None, **options):
    """An Example as others would write it, as bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels(16, 16) if picture is None else picture).save(file, kind, **options)
    features = {"image/encoded": file.getvalue()}
    if caption is not None:
        features["caption"] = caption if isinstance(caption, bytes) else caption.encode()
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in features.items()
    }
    for name, value in zip(("image/height", "image/width"), size or (), strict=False):
        features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    features["score"] = tf.train.Feature(float_list=tf.train.FloatList(value=[0.5, 1.5]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def put(path, *examples):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for each in examples:
            writer.write(each)
    return path
