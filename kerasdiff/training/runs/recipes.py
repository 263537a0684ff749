"""Published recipes, as tables of settings that other keys go before."""

SD1 = {
    "kind": "diffusion",
    "fresh": ["unet"],
    "train": ["unet"],
    "batch_size": 32 * 8 * 4,  # workers of 8 devices, and 4 pictures each ...
    "steps": 237_000 + 194_000 + 515_000 + 225_000,  # v1-1, v1-2 and v1-4, one after the other
    "data": {"size": 512, "caption_dropout": 0.1},
    "optimizer": {
        "name": "adamw",
        "rate": 1e-4,
        "warmup": 10_000,
        "schedule": "constant",
        "accumulate": 2,  # ... twice a step: 2048
        "clip": 0.0,
        "ema": 0.9999,
        "weight_decay": 0.01,
    },
}
"""Stable Diffusion 1.x (its model card): the UNet from nothing, with autoencoder and text encoder
as they are. The first 237,000 steps were at 256 pixels, and only the last 225,000 left captions
out: runs of their own, by `data.size` and `data.caption_dropout`. The momentum of the average is
Latent Diffusion's (arXiv 2112.10752, its code), smaller at first as there (see
`averages.warmed_up`), the decay PyTorch's default."""

RECIPES = {"sd1": SD1}
