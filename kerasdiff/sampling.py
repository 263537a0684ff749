"""One row of a sampler's table, and the loop over rows, as pure functions of tensors.

The table, the first and the last row, the noise and the state carried from row to row all come in
as tensors: one compiled program serves every sampler, number of steps and strength, and a run can
be cut after any row and continued elsewhere, bit for bit.
"""

from typing import NamedTuple

import numpy as np
from keras import ops

from kerasdiff.backend import next_index
from kerasdiff.deep_cache import Keeping, Reusing
from kerasdiff.denoiser import denoise
from kerasdiff.samplers import COLUMNS

MAX_ROWS = 2048
"""Tables are padded with zero rows to this length, so that all have one shape."""

NOISE_BUCKET = 64
"""Noise is padded to a multiple of this many slots, at least one time: a shape for most runs."""

_AT = {name: index for index, name in enumerate(COLUMNS)}


class Carry(NamedTuple):
    """What goes from row to row; each array float32.

    Attributes:
        x: the current noisy latents, (B, h, w, C).
        raw: the same as the sampler left them, before inpainting blended in the known part.
        past_x: the three x before, newest first, (3, B, h, w, C).
        past_d: the three denoised latents before, newest first, (3, B, h, w, C); the first is the
            latest estimate of the picture.
    """

    x: object
    raw: object
    past_x: object
    past_d: object


class Pass(NamedTuple):
    """How the network is called in a row.

    Attributes:
        mode: guidance mode of `denoiser.denoise`.
        deep: None for the whole network, `"keep"` to note its deep features too, `"reuse"` to take
            those of the row that noted them last; see `deep_cache`.
    """

    mode: str
    deep: str | None = None


def plan_passes(table, mode, guidance_interval=None, cache_interval=1):
    """A `Pass` for each row of a table.

    Args:
        mode: guidance mode where there is guidance.
        guidance_interval: (lowest, highest) sigma with guidance (arXiv 2404.07724); None for all.
        cache_interval: the whole network is called in every n-th row.
    """
    passes, age = [], 0
    low, high = guidance_interval or (0.0, np.inf)
    for sigma in table.sigmas:
        outside = mode != "off" and not low <= sigma <= high
        now = "positive" if outside else mode
        # Features of another guidance mode have other rows.
        age = 0 if not passes or passes[-1].mode != now else (age + 1) % cache_interval
        deep = None if cache_interval == 1 else "reuse" if age else "keep"
        passes.append(Pass(now, deep))
    return passes


def new_carry(x):
    """The carry before the first row, from starting latents (B, h, w, C)."""
    x = ops.convert_to_tensor(x, "float32")
    past = ops.zeros((3, *ops.shape(x)), "float32")
    return Carry(x, x, past, past)


def pad_rows(table, guidance_scale):
    """A table's rows as (MAX_ROWS, columns) float32 with the guidance scale filled in."""
    count = len(table.rows)
    if count > MAX_ROWS:
        raise ValueError(f"the sampler's table has {count} rows; at most {MAX_ROWS} are supported")
    rows = np.zeros((MAX_ROWS, len(COLUMNS)), "float32")
    rows[:count] = table.rows
    rows[:count, _AT["guidance"]] = guidance_scale
    return rows


def pad_noise(noise, shape):
    """Per-step noise, a list of (B, h, w, C), as one array (slots, B, h, w, C) float32."""
    slots = max(1, -(-len(noise) // NOISE_BUCKET)) * NOISE_BUCKET
    padded = np.zeros((slots, *shape), "float32")
    for slot, draw in enumerate(noise):
        padded[slot] = draw
    return padded


def step(model, row, carry, noise, inputs, mode):
    """One row of the table: a call of the network and a weighted sum.

    Args:
        model: a `DiffusionModel`.
        row: (columns,) float32, see `samplers.COLUMNS`.
        carry: a `Carry`.
        noise: (slots, B, h, w, C) float32.
        inputs: as `denoiser.denoise` takes them; for inpainting also `mask` (B, h, w, 1), 1 where
            the picture is new, `known` (clean latents) and `known_noise`, both (B, h, w, C); with
            `deep`, features that `keep` gave, only the network's outer blocks are computed.
        mode: guidance mode of `denoiser.denoise`.

    Returns:
        The next `Carry`. Differentiable, and so is a fixed-length Python loop over it.
    """
    value = {name: row[index] for name, index in _AT.items()}
    x = carry.x
    model = Reusing(model, inputs["deep"]) if "deep" in inputs else model
    scalings = (value["c_in"], value["c_skip"], value["c_out"], value["timestep"])
    d = denoise(model, x, scalings, value["guidance"], inputs, mode)

    fresh = ops.take(noise, ops.cast(value["noise_slot"], "int32"), axis=0)
    raw = value["x0"] * x + value["raw"] * carry.raw + value["d0"] * d
    raw = raw + value["noise_weight"] * fresh
    for age in (1, 2, 3):
        raw = raw + value[f"x{age}"] * carry.past_x[age - 1]
        raw = raw + value[f"d{age}"] * carry.past_d[age - 1]

    edited = raw
    if "mask" in inputs:
        known = value["signal"] * inputs["known"] + value["noise"] * inputs["known_noise"]
        edited = (1.0 - inputs["mask"]) * known + inputs["mask"] * raw
    return Carry(edited, raw, _push(x, carry.past_x), _push(d, carry.past_d))


def loop(model, rows, start, stop, carry, noise, inputs, mode):
    """Rows `start` to `stop` (int32 scalars) of the table, as one loop on the device."""
    names = sorted(inputs)

    def more(index, stop, *_):
        return index < stop

    # The body closes over no tensor: OpenVINO's loop hands over its loop variables alone.
    def body(index, stop, rows, noise, x, raw, past_x, past_d, *values):
        carry = Carry(x, raw, past_x, past_d)
        row = ops.take(rows, index, axis=0)
        carry = step(model, row, carry, noise, dict(zip(names, values, strict=True)), mode)
        return (next_index(index, carry), stop, rows, noise, *carry, *values)

    state = (start, stop, rows, noise, *carry, *(inputs[name] for name in names))
    return Carry(*ops.while_loop(more, body, state)[4:8])


def loop_on_host(model, rows, start, stop, carry, noise, inputs, mode):
    """As `loop`, for a model that is not compiled and may read files on the way."""
    for index in range(int(start), int(stop)):
        carry = step(model, rows[index], carry, noise, inputs, mode)
    return carry


def keep(model, rows, index, carry, noise, inputs, mode):
    """Row `index` alone; its `Carry` and the network's deep features, (rows of calls, h, w, C)."""
    keeping = Keeping(model)
    carry = step(keeping, ops.take(rows, index, axis=0), carry, noise, inputs, mode)
    return carry, ops.concatenate(keeping.features)


def run(programs, table, passes, guidance_scale, begin, inputs, watch=None):
    """A whole table from the host.

    Args:
        programs: a function from a `Pass` to a compiled `keep` (to keep) or `loop` (else).
        table: a sampler's `Table`.
        passes: one for each row, from `plan_passes`.
        guidance_scale: for each row.
        begin: a `start.Start`.
        inputs: tensors by name, besides those of `begin`.
        watch: `watch(step, denoised)` after each step, `denoised` (B, h, w, C); the same programs
            then run row by row, to the same result.

    Returns:
        Clean latents, (B, h, w, C) float32.
    """
    rows = pad_rows(table, guidance_scale)
    noise = ops.convert_to_tensor(pad_noise(begin.noise, begin.x.shape))  # once for all rows
    inputs = begin.inputs | inputs
    carry, total, done = new_carry(begin.x), len(table.rows), 0
    for stop in _stops(passes, bool(watch)):
        given, program = (carry, noise, inputs), programs(passes[done])
        if passes[done].deep == "keep":
            carry, deep = program(rows, np.int32(done), *given)
        else:
            if passes[done].deep == "reuse":
                given = (carry, noise, inputs | {"deep": deep})
            carry = program(rows, np.int32(done), np.int32(stop), *given)
        before, done = done * table.steps // total, stop
        # Samplers with two calls a step have more rows than steps.
        if watch and (step := stop * table.steps // total) > before:
            watch(step, np.asarray(ops.convert_to_numpy(carry.past_d[0])))
    return np.asarray(ops.convert_to_numpy(carry.x))


def _stops(passes, each):
    """Where runs of rows end that one call of a program serves."""
    for i, now in enumerate(passes):
        if each or now.deep == "keep" or i + 1 == len(passes) or passes[i + 1] != now:
            yield i + 1


def _push(newest, past):
    return ops.concatenate([newest[None], past[:2]], axis=0)  # (3, B, h, w, C)
