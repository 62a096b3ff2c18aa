"""Training, evaluation and prediction for FIBER: the Fabric loop, the recipes and the fiber command."""

from importlib.metadata import version

__version__ = version("fiber-train")
