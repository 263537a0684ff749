"""Training and fine-tuning: trainers that are Keras models, their data, and exact resume."""
