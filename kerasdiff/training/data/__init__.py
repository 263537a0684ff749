"""Pictures with captions, and batches of them that are pure functions of seed and step."""
