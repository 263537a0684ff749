"""Tables of a TOML file into frozen dataclasses, with errors that name the key.

A field's type is one of int, float, bool, str, dict, a tuple of str, another dataclass, or one of
them or None; its metadata may hold `at_least`, `at_most` and `one_of`.
"""

import difflib
import types
from dataclasses import MISSING, field, fields, is_dataclass
from typing import get_args, get_origin, get_type_hints

_NAMES = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a string",
    dict: "a table", tuple: "a list of strings",
}  # fmt: skip


def at_least(low, default):
    """A field whose numbers have a lower bound."""
    return field(default=default, metadata={"at_least": low})


def share(default):
    """A field of a number from 0 to 1."""
    return field(default=default, metadata={"at_least": 0, "at_most": 1})


def one_of(choices, default):
    """A field with a few allowed words."""
    return field(default=default, metadata={"one_of": choices})


def need(condition, message):
    """Raises ValueError unless the condition holds."""
    if not condition:
        raise ValueError(message)


def merged(below, above):
    """Two tables as one; where both have a key the second's goes before, tables key by key."""
    both = {
        key: merged(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], dict) and isinstance(above[key], dict)
    }
    return {**below, **above, **both}


def fill(cls, table, prefix=""):
    """An instance of a dataclass with the values of a table; its method `check`, if any, is called.

    Args:
        cls: the dataclass.
        table: dict of the fields' names.
        prefix: of keys in errors, such as "data.".

    Raises:
        ValueError: on an unknown or missing key, a wrong type or a number out of range.
    """
    hints, known = get_type_hints(cls), {each.name: each for each in fields(cls)}
    for key in table:
        near = difflib.get_close_matches(key, known, 1)
        need(
            key in known,
            f"unknown key `{prefix}{key}`"
            + (f"; did you mean `{prefix}{near[0]}`?" if near else "")
            + f" (allowed: {', '.join(known)})",
        )
    for name, each in known.items():
        required = each.default is MISSING and each.default_factory is MISSING
        need(name in table or not required, f"the key `{prefix}{name}` is missing")
    # In the order of the class; sections that are not there are filled too, so as to be checked.
    values = {
        name: _value(hints[name], table.get(name, {}), f"{prefix}{name}", each.metadata)
        for name, each in known.items()
        if name in table or is_dataclass(hints[name])
    }
    made = cls(**values)
    if hasattr(made, "check"):
        try:
            made.check()
        except ValueError as error:
            where = f"{prefix.removesuffix('.')}: " if prefix else ""
            raise ValueError(f"{where}{error}") from None
    return made


def _value(hint, value, key, rules):
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = next(kind for kind in kinds if kind is not types.NoneType)
    if is_dataclass(kind):
        need(isinstance(value, dict), f"`{key}` must be a table, not {value!r}")
        return fill(kind, value, f"{key}.")
    kind = get_origin(kind) or kind
    if kind is tuple:
        good = isinstance(value, list) and all(isinstance(each, str) for each in value)
    elif kind is float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
    else:
        good = type(value) is kind
    need(good, f"`{key}` must be {_NAMES[kind]}, not {value!r}")
    value = {tuple: tuple, float: float}.get(kind, lambda same: same)(value)
    _check_rules(value, key, rules)
    return value


def _check_rules(value, key, rules):
    for each in value if isinstance(value, tuple) else (value,):
        if "one_of" in rules:
            allowed = ", ".join(rules["one_of"])
            need(each in rules["one_of"], f"`{key}` must be one of {allowed}, not {each!r}")
        low, high = rules.get("at_least"), rules.get("at_most")
        # not (a >= b), which NaN fails too
        need(low is None or each >= low, f"`{key}` must be at least {low}, not {each!r}")
        need(high is None or each <= high, f"`{key}` must be at most {high}, not {each!r}")
        need(
            not isinstance(each, float) or abs(each) < float("inf"),
            f"`{key}` must be finite, not {each!r}",
        )
