"""Official vision-language metrics as torchmetrics, scored from features or result files."""

from importlib.metadata import version

__version__ = version("fiber-eval")
