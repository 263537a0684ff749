"""Runs a sampler's table in NumPy, as the compiled loop does, on a small made-up network."""

import numpy as np

from kerasdiff.samplers import COLUMNS

AT = {name: index for index, name in enumerate(COLUMNS)}


def network(x, timestep):
    """A nonlinear stand-in for the UNet that feels the timestep and mixes neighbours."""
    wave = np.sin(timestep / 150.0)
    mixed = 1.3 * x + 0.4 * np.roll(x, 1, axis=-1)
    return (0.7 + 0.2 * wave) * np.tanh(mixed) + 0.15 * np.sin(x + timestep / 90.0)


def run_table(table, x, noise, predict=network, edit=None):
    """x after the table's last row.

    Args:
        x: starting latents, any shape.
        noise: the draws, by slot.
        predict: (scaled x, timestep) -> network output.
        edit: (x, signal, noise) -> x after each row, as inpainting does.
    """
    past_x, past_d, raw = [x * 0] * 3, [x * 0] * 3, x
    for row in table.rows:
        value = {name: row[index] for name, index in AT.items()}
        d = value["c_skip"] * x + value["c_out"] * predict(value["c_in"] * x, value["timestep"])
        after = sum(value[f"x{age}"] * old for age, old in enumerate([x, *past_x]))
        after = after + sum(value[f"d{age}"] * old for age, old in enumerate([d, *past_d]))
        after = after + value["raw"] * raw
        if value["noise_weight"]:
            after = after + value["noise_weight"] * noise[int(value["noise_slot"])]
        past_x, past_d = [x, *past_x[:2]], [d, *past_d[:2]]
        x = raw = after
        if edit:
            x = edit(raw, value["signal"], value["noise"])
    return x
