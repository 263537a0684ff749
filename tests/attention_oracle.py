"""Attention in plain NumPy with hand-written gradients, and the same checks run on JAX."""

import numpy as np


def naive_attention(query, key, value, mask=None, scale=None):
    """(B, Tq, H, Dv) from (B, T, H, D) and a full boolean mask (B, H, Tq, Tk)."""
    return np.einsum("bhqk,bkhd->bqhd", _probabilities(query, key, mask, scale), value)


def naive_gradients(query, key, value, mask, upstream, scale=None):
    """Gradients of query, key and value of sum(output * upstream)."""
    p = _probabilities(query, key, mask, scale)
    dp = np.einsum("bqhd,bkhd->bhqk", upstream, value)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * _scale(query, scale)
    return (
        np.einsum("bhqk,bkhd->bqhd", ds, key),
        np.einsum("bhqk,bqhd->bkhd", ds, query),
        np.einsum("bhqk,bqhd->bkhd", p, upstream),
    )


def _scale(query, scale):
    return query.shape[-1] ** -0.5 if scale is None else scale


def _probabilities(query, key, mask, scale):
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) * _scale(query, scale)
    allowed = np.ones(scores.shape, bool) if mask is None else mask
    highest = np.max(scores, -1, keepdims=True, where=allowed, initial=-1e300)
    weights = np.exp(np.where(allowed, scores - highest, -np.inf))
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total == 0, 1, total)


def problem(batch, queries, keys, heads, size, value_size, seed=0):
    """Random query, key, value, mask (its first row all False) and upstream gradient."""
    rng = np.random.default_rng(seed)
    shapes = ((queries, heads, size), (keys, heads, size), (keys, heads, value_size))
    arrays = [rng.normal(size=(batch, *shape)).astype("float32") for shape in shapes]
    mask = rng.random((batch, heads, queries, keys)) > 0.4
    mask[0, 0, 0] = False
    upstream = rng.normal(size=(batch, queries, heads, value_size)).astype("float32")
    return *arrays, mask, upstream


def check_on_jax():
    """Output and gradients, compiled and not, masked and not, in one and in more key chunks."""
    import jax
    import keras

    from kerasdiff.attention import attention

    *arrays, all_mask, upstream = problem(2, 31, 37, 2, 4, 5)
    checked = 0
    for mask in (None, all_mask):
        for key_chunk in (16, 64):

            def run(*arrays, mask=mask, key_chunk=key_chunk):
                options = {"query_chunk_size": 8, "key_chunk_size": key_chunk}
                output, pull = jax.vjp(lambda *each: attention(*each, mask, **options), *arrays)
                return output, *pull(upstream)

            wanted = naive_attention(*arrays, mask), *naive_gradients(*arrays, mask, upstream)
            for way in (run, jax.jit(run)):
                for one, other in zip(way(*arrays), wanted, strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
                checked += 1
    print(keras.backend.backend(), checked)
