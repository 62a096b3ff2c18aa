"""The FIBER vision-language backbone: Swin and RoBERTa with gated cross-attention inside."""

from importlib.metadata import version

__version__ = version("fiber-backbone")
