"""From the network F to the denoiser D(x, t) -> clean latents.

D = c_skip * x + c_out * F(c_in * x, t): what F predicts (noise, velocity, the picture) differs in
the three scalings alone, as in EDM (arXiv 2206.00364, section 5). Guidance acts on F's output
(arXiv 2207.12598), and so does its rescaling (arXiv 2305.08891, section 3.4).
"""

from keras import ops

from kerasdiff.diffusion_model import timestep_embedding
from kerasdiff.layers import repeat_rows


def denoise(model, x, scalings, guidance, inputs, mode):
    """The clean latents that the network believes in.

    Args:
        model: a `DiffusionModel`.
        x: noisy latents, (B, h, w, C) float32.
        scalings: (c_in, c_skip, c_out, timestep), scalar tensors.
        guidance: classifier-free guidance scale, a scalar tensor.
        inputs: tensors by name: `context` and, where the network has them, `added_embedding`,
            `guidance_embedding` (all with 2B rows, negative first, unless `mode` is `"off"`),
            `extra_channels` (B, h, w, E) and `guidance_rescale` (scalar).
        mode: `"off"` for one call without guidance, `"batched"` for one call of 2B rows (of B until
            the text comes in, where the halves differ in it alone), `"split"` for two calls of B
            rows, which takes half the memory, `"positive"` for one call of B rows, with guidance
            left out.

    Returns:
        Denoised latents, (B, h, w, C) float32.
    """
    c_in, c_skip, c_out, timestep = scalings
    latent = x * c_in
    if "extra_channels" in inputs:
        latent = ops.concatenate([latent, inputs["extra_channels"]], axis=-1)
    halves = _predict(model, latent, timestep, inputs, mode)
    prediction = halves[-1]
    if len(halves) == 2:
        negative, positive = halves
        prediction = negative + guidance * (positive - negative)
        prediction = _rescale(prediction, positive, inputs["guidance_rescale"])
    return c_skip * x + c_out * prediction


def _predict(model, latent, timestep, inputs, mode):
    """F's raw output as float32, as a list: [negative, positive], or one entry unguided."""
    rows = {
        name: inputs[name]
        for name in ("context", "added_embedding", "guidance_embedding")
        if name in inputs
    }
    if mode in ("split", "positive"):
        halves = [{name: ops.split(value, 2)[i] for name, value in rows.items()} for i in (0, 1)]
        halves = halves[1:] if mode == "positive" else halves
        return [_call(model, latent, timestep, half) for half in halves]
    if mode == "batched":
        if not _differ_in_text_alone(latent, rows):
            latent = ops.concatenate([latent, latent], axis=0)
        found = _call(model, latent, timestep, rows)
        return ops.split(repeat_rows(found, rows["context"]), 2)  # B rows where no text comes in
    return [_call(model, latent, timestep, rows)]


def _differ_in_text_alone(latent, rows):
    known = None not in (latent.shape[0], rows["context"].shape[0])
    return known and set(rows) == {"context"}


def _call(model, latent, timestep, rows):
    config = model.config
    timesteps = ops.reshape(timestep, (1,))  # for all rows
    embedding = timestep_embedding(
        timesteps, config.channels[0], config.flip_sin_to_cos, config.freq_shift
    )
    outputs = model({"latent": latent, "timestep_embedding": embedding, **rows}, training=False)
    return ops.cast(outputs, "float32")


def _rescale(prediction, positive, amount):
    axes = (1, 2, 3)
    spread = ops.maximum(ops.std(prediction, axis=axes, keepdims=True), 1e-12)
    ratio = ops.std(positive, axis=axes, keepdims=True) / spread
    return prediction * (amount * ratio + (1.0 - amount))
