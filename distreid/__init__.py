"""Trusted person re-identification features, on any number of processes."""

__version__ = "0.1.0"
