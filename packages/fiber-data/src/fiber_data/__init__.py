"""Readers, transforms, tokenization, sampling and the generated scenes data set of FIBER."""

from importlib.metadata import version

__version__ = version("fiber-data")
