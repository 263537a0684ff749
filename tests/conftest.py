"""Quiet frameworks and a fixed backend for the whole suite."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("KERASDIFF_KEEP_PROGRAMS", "0")  # a test leaves nothing in the home folder
