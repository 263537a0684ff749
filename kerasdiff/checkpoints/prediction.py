"""What a UNet predicts, which neither names nor shapes of a file show.

Decided in this order, and reported: the caller's word, a config with the file, marker tensors, a
hash of a known file, one step of the network itself, and the family's rule.
"""

import re
from dataclasses import replace

import numpy as np

from kerasdiff.checkpoints.presets import presets
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.configs import SD2

CONFIG_KEY = "kerasdiff.config"
NAMES = {
    "epsilon": "epsilon", "eps": "epsilon", "v_prediction": "v_prediction", "v": "v_prediction",
    "sample": "sample", "x0": "sample",
}  # fmt: skip
SAID_IN = ("prediction_type", "parameterization", "modelspec.prediction_type")
SCALINGS = {"EpsScaling": "epsilon", "VScaling": "v_prediction"}
MARKERS = ("v_pred", "ztsnr")
PROBE_THRESHOLD = 0.5

# Of files that are not presets but hold the same weights as one: SHA-256.
OTHER_HASHES = {
    "ad2a33c361c1f593c4a1fb32ea81afce2b5bb7d1983c6b94793a26a3b54b08a0": "v_prediction",  # 2.1 .ckpt
    "88ecb782561455673c4b78d05093494b9c539fc6bfc08f3a9a4a0dd7b0b10f36": "epsilon",  # 2.1 base .ckpt
}


def prediction_type(
    config, *, argument=None, sidecar=None, metadata=None, keys=(), sha256=None, probe=None
):
    """What the UNet of a single file predicts, and what decided it.

    Args:
        config: `detect`'s config of the file.
        argument: the caller's own word.
        sidecar: of the file beside it: a parsed JSON config (a dict), or the text of a YAML file
            as the original implementations write them.
        metadata: the file's own dict of strings.
        keys: names of the file's tensors, among which `v_pred` and `ztsnr` are markers.
        sha256: of the file, hexadecimal.
        probe: called last, and only for Stable Diffusion 2, whose two kinds were published with
            the same shapes: returns (output, noise) for `decide_from_probe`.

    Returns:
        (type, reason): "epsilon", "v_prediction" or "sample", and a few words. The type is None
        for Stable Diffusion 2 where nothing decided; a probe, or the caller, must.

    Raises:
        CheckpointError: a word that is none of the known ones, named with its place.
    """
    if argument is not None:
        return _named(argument, "the argument `prediction_type`"), "the argument"
    if metadata and CONFIG_KEY in metadata:
        return config.schedule.prediction_type, "the config in the file's metadata"
    for place, found in (("the config beside the file", sidecar), ("its metadata", metadata)):
        said = _said(found, place)
        if said is not None:
            return said, place
    for marker in MARKERS:
        if marker in keys:
            return "v_prediction", f"the marker {marker} in the file"
    known = _known_hashes().get(sha256.lower()) if sha256 else None
    if known is not None:
        return known, "the known hash of the file"
    if not config.family.startswith("sd2") or config.family.endswith("inpaint"):
        return "epsilon", f"the rule for {config.family}"
    if probe is None:
        return None, "undecided: shapes do not show it"
    kind, share = decide_from_probe(*probe())
    return kind, f"a step of the network, with {share:.2f} of the noise in its output"


def with_prediction_type(config, kind, keys=()):
    """The config with its prediction type decided.

    Args:
        config: `detect`'s config.
        kind: "epsilon", "v_prediction" or "sample".
        keys: names of the file's tensors; the marker `ztsnr` sets `zero_terminal_snr`, and ddim
            instead of plms, which knows no such schedule.

    A Stable Diffusion 2 with velocity prediction is the one for 768 x 768 pictures.

    Raises:
        ValueError: on another `kind`.
    """
    if kind not in NAMES.values():
        raise ValueError(
            f"the prediction type must be epsilon, v_prediction or sample, not {kind!r}: give it "
            "as `prediction_type`"
        )
    if config.family == "sd2-base" and kind == "v_prediction":
        config = replace(config, family="sd2", image_size=SD2.image_size)
        schedule = replace(config.schedule, sampler=SD2.schedule.sampler)
    else:
        schedule = config.schedule
    snr = schedule.zero_terminal_snr or "ztsnr" in keys
    if snr and schedule.sampler == "plms":
        schedule = replace(schedule, sampler="ddim")
    schedule = replace(schedule, prediction_type=kind, zero_terminal_snr=snr)
    return replace(config, schedule=schedule)


def markers_of(config):
    """Names of the empty tensors by which ComfyUI and others know SDXL with velocity prediction."""
    schedule = config.schedule
    if not config.family.startswith("sdxl") or schedule.prediction_type != "v_prediction":
        return ()
    return MARKERS if schedule.zero_terminal_snr else MARKERS[:1]


def decide_from_probe(output, noise):
    """The prediction type from one step on pure noise at the last timestep.

    What counts is the share of the noise in the output, <output, noise> / <noise, noise>. A
    network that predicts noise gives its input back there: the share is close to 1. Velocity is
    sqrt(abar) noise - sqrt(1 - abar) picture, with sqrt(abar) = 0.07 at the last timestep: the
    share is close to 0, however faint the picture. The threshold is halfway, 0.5.

    Args:
        output, noise: arrays of one shape.

    Returns:
        ("epsilon" or "v_prediction", the share).

    Raises:
        CheckpointError: the output is constant or not finite: the weights are no good.
    """
    output, noise = (np.asarray(array, "float64").ravel() for array in (output, noise))
    if output.shape != noise.shape:
        raise ValueError(f"`output` has {output.size} numbers and `noise` {noise.size}")
    if not np.isfinite(output).all() or not np.ptp(output):
        raise CheckpointError("a step of the network on noise gave no usable output")
    share = float(output @ noise / (noise @ noise))
    return ("epsilon" if share > PROBE_THRESHOLD else "v_prediction"), share


def _known_hashes():
    found = {preset.sha256: preset.prediction_type for preset in presets().values()}
    return OTHER_HASHES | {hash: kind for hash, kind in found.items() if hash and kind}


def _said(found, place):
    """The prediction type that a config says, or None."""
    if isinstance(found, str):
        return _said_in_yaml(found, place)
    for key in SAID_IN:
        if found and found.get(key) is not None:
            return _named(found[key], f"`{key}` of {place}")
    return None


def _said_in_yaml(text, place):
    """The same of a YAML text, of which only whole lines `key: value` are understood."""
    lines = re.findall(
        r"^[ \t-]*([\w.]+)[ \t]*:[ \t]*[\"']?([\w.]+)[\"']?[ \t]*(?:#.*)?$", text, re.M
    )
    for key, value in lines:
        if key in SAID_IN:
            return _named(value, f"`{key}` of {place}")
        scaling = value.rsplit(".", 1)[-1]
        if key == "target" and scaling in SCALINGS:
            return SCALINGS[scaling]
    # the original implementation's default, where the file is one of its configs
    return "epsilon" if dict(lines).get("linear_start") else None


def _named(value, where):
    if not isinstance(value, str) or value not in NAMES:
        raise CheckpointError(f"{where} must be one of {', '.join(NAMES)}, not {value!r:.80}")
    return NAMES[value]
