"""A small model to try things with, offline."""
