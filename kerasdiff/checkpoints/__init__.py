"""Checkpoints in and out: containers, names, strict loading, saving, known presets."""
