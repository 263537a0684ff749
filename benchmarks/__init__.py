"""Timings and memory: whatever the tests must not assert."""
