"""`tf.train.Example` messages as bytes, without TensorFlow: named lists of bytes or integers.

In the wire format of protocol buffers (protobuf.dev, "Encoding") a message is a row of fields; each
has a tag (number * 8 + wire type) and a value. What `tensorflow/core/example/*.proto` declare:

    Example   {1: Features}
    Features  {1: entry of a map, repeated}      entry {1: name, 2: Feature}
    Feature   {1: BytesList | 2: FloatList | 3: Int64List}
    BytesList {1: bytes, repeated}               Int64List {1: varints, packed or repeated}
"""

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
BYTES_LIST, INT64_LIST = 1, 3  # numbers of the fields of a Feature


def encode_example(features):
    """An Example as bytes.

    Args:
        features: dict of names to one value each: bytes or a non-negative int.
    """
    entries = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, _feature(value)))
        for name, value in sorted(features.items())
    )
    return _field(1, entries)


def decode_example(data, names):
    """Features of an Example.

    Args:
        data: bytes or a memoryview; of values that are bytes only views of it are made.
        names: of the features that are wanted; others are passed over.

    Returns:
        Dict of those names that are there to lists of memoryviews or of ints.

    Raises:
        ValueError: it is no such message.
    """
    features = {}
    for message in _messages(memoryview(data), 1):
        for entry in _messages(message, 1):
            name = str(b"".join(_messages(entry, 1)), "utf-8", "replace")
            if name in names:
                found = _messages(entry, 2)
                features[name] = [value for feature in found for value in _values(feature)]
    return features


def _feature(value):
    if isinstance(value, bytes):
        return _field(BYTES_LIST, _field(1, value))
    return _field(INT64_LIST, _field(1, _varint(value)))


def _field(number, value):
    return bytes([number << 3 | LENGTH]) + _varint(len(value)) + value


def _varint(value):
    """Seven bits a byte, lowest first; the eighth says that more follow."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def _values(feature):
    values = []
    for texts in _messages(feature, BYTES_LIST):
        values += _messages(texts, 1)
    for numbers in _messages(feature, INT64_LIST):
        for _, wire_type, item in _fields(numbers):
            values += map(_signed, [item] if wire_type == VARINT else _packed(item))
    return values


def _signed(value):
    return value - (1 << 64) if value >> 63 else value


def _packed(view):
    place, values = 0, []
    while place < len(view):
        value, place = _read_varint(view, place)
        values.append(value)
    return values


def _messages(view, number):
    """The values of all fields of a number, which must be bytes."""
    found = [(wire_type, value) for each, wire_type, value in _fields(view) if each == number]
    if any(wire_type != LENGTH for wire_type, _ in found):
        raise ValueError("not a tf.train.Example: a number where bytes belong")
    return [value for _, value in found]


def _fields(view):
    """(number, wire type, value) of each field: a memoryview or, of varints, an int."""
    place = 0
    while place < len(view):
        tag, place = _read_varint(view, place)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            value, place = _read_varint(view, place)
        else:
            if wire_type == LENGTH:
                length, place = _read_varint(view, place)
            elif wire_type in (FIXED64, FIXED32):
                length = 8 if wire_type == FIXED64 else 4
            else:
                raise ValueError(f"not a tf.train.Example: wire type {wire_type}")
            if place + length > len(view):
                raise ValueError(f"not a tf.train.Example: a field of {length} bytes is cut off")
            value, place = view[place : place + length], place + length
        yield number, wire_type, value


def _read_varint(view, place):
    value = 0
    for i in range(10):
        if place + i >= len(view):
            break
        value |= (view[place + i] & 127) << 7 * i
        if view[place + i] < 128:
            return value & (1 << 64) - 1, place + i + 1
    raise ValueError("not a tf.train.Example: a number is cut off or too long")
