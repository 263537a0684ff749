"""Reading a JSON config so that no field of it goes unheeded.

Each field is one of three things, and each kind of config says which in three tables: *honoured*
(with the default of the class that it configures), *fixed* (a feature that kerasdiff does not
build: only the values that leave it out are accepted) or *without effect* (with the reason). Any
other field is refused by name, so that a checkpoint which needs more never gives a wrong picture
silently. Sizes are bounded here, before anything is built from them.
"""

from kerasdiff.checkpoints.tensors import CheckpointError

MAX_WIDTH = 2**14
MAX_LAYERS = 256
MAX_VOCABULARY = 2**20

TRAINING = "acts in training only"
RECORD = "a record of how the file was made"
DIFFUSERS_RECORDS = dict.fromkeys("_diffusers_version _name_or_path".split(), RECORD)
AVERAGING = dict.fromkeys(  # of diffusers' EMAModel, which saves networks with its own state
    "decay min_decay optimization_step update_after_step use_ema_warmup inv_gamma power".split(),
    RECORD,
)
NETWORK_RECORDS = DIFFUSERS_RECORDS | AVERAGING


class Fields:
    """The fields of one JSON config.

    Args:
        part: what the config describes, such as `"unet"`, for errors.
        table: the parsed JSON, a dict.
        honoured: dict of each field that is read to its default.
        fixed: dict of a field to the values that are accepted, the default first.
        no_effect: dict of a field to the reason why any value of it does.

    Raises:
        CheckpointError: a field is unknown, or a fixed one has another value.
    """

    def __init__(self, part, table, honoured, fixed, no_effect):
        self.part = part
        if not isinstance(table, dict):
            raise CheckpointError(f"the config of {part} must be a table, not {table!r:.80}")
        for name, value in table.items():
            if name in fixed:
                if not any(_accepts(allowed, value) for allowed in fixed[name]):
                    self.refuse(name, value, " or ".join(map(repr, fixed[name])))
            elif name not in honoured and name not in no_effect:
                raise CheckpointError(f"`{name}` of {part}, {value!r:.80}, is not a known field")
        self._values = {name: table.get(name, default) for name, default in honoured.items()}

    def __getitem__(self, name):
        return self._values[name]

    def refuse(self, name, value, expected):
        """Raise the error that names the field, what it must be and what it is."""
        raise CheckpointError(f"`{name}` of {self.part} must be {expected}, not {value!r:.80}")

    def integer(self, name, low=1, high=MAX_WIDTH, optional=False):
        """An integer from `low` to `high`, or None where `optional`."""
        value = self[name]
        if not (optional and value is None) and not is_integer(value, low, high):
            self.refuse(name, value, f"an integer from {low} to {high}")
        return value

    def number(self, name, low, high, optional=False):
        """A finite float from `low` to `high`, or None where `optional`."""
        value = self[name]
        if optional and value is None:
            return None
        if not is_number(value, low, high):
            self.refuse(name, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, name):
        """True or False."""
        if not isinstance(self[name], bool):
            self.refuse(name, self[name], "true or false")
        return self[name]

    def choice(self, name, choices):
        """One of `choices`."""
        value = self[name]
        if not any(_same(value, choice) for choice in choices):
            self.refuse(name, value, f"one of {', '.join(map(repr, choices))}")
        return value

    def items(self, name, what, accepts, high=16):
        """A list of 1 to `high` items, as a tuple."""
        value = self[name]
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= high:
            self.refuse(name, value, f"a list of 1 to {high} {what}")
        if not all(accepts(item) for item in value):
            self.refuse(name, value, f"a list of {what}")
        return tuple(value)

    def levels(self, name, count, high=MAX_WIDTH):
        """An integer for each of `count` levels: a list, or one integer for all of them."""
        value = self[name]
        values = list(value) if isinstance(value, list | tuple) else [value] * count
        if len(values) != count or not all(is_integer(item, 1, high) for item in values):
            expected = f"an integer from 1 to {high}, or a list of {count} such"
            self.refuse(name, value, expected)
        return tuple(values)


def is_integer(value, low, high):
    """Whether a JSON value is an integer from `low` to `high`."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value, low, high):
    """Whether a JSON value is a finite number from `low` to `high`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and low <= value <= high  # which no NaN is


def channels_of(fields):
    """The `block_out_channels` of a network, each divisible by the groups of the normalisations."""
    channels = fields.items(
        "block_out_channels", "integers", lambda item: is_integer(item, 1, MAX_WIDTH)
    )
    groups = fields.integer("norm_num_groups")
    if any(width % groups for width in channels):
        fields.refuse("norm_num_groups", groups, f"a divisor of `block_out_channels` {channels}")
    return channels


def compact(values):
    """A level-by-level tuple as JSON configs have it: one value where all are the same."""
    return values[0] if len(set(values)) == 1 else list(values)


def _accepts(allowed, value):
    """Whether `value` is `allowed`, or a list that repeats it for each level."""
    repeats = isinstance(value, list) and value and not isinstance(allowed, list)
    return all(_same(item, allowed) for item in value) if repeats else _same(value, allowed)


def _same(value, other):
    """Equal, and not True for 1: in JSON those differ."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)
