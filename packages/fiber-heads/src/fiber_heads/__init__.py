"""Heads and task models on the FIBER backbone: contrastive, matching, masked language modelling."""

from importlib.metadata import version

__version__ = version("fiber-heads")
