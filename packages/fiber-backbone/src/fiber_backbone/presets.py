"""Backbones of named sizes."""

from __future__ import annotations

from typing import Any

from fiber_backbone.backbone import FiberBackbone
from fiber_backbone.config import FiberConfig


def fiber_base(**overrides: Any) -> FiberBackbone:
    """FIBER-Base: Swin-B with windows of 12 at 384 px, RoBERTa-base, 6 fused pairs. Overrides are config fields."""
    return FiberBackbone.from_config(FiberConfig.from_preset("fiber_base", **overrides))


def fiber_small(**overrides: Any) -> FiberBackbone:
    """Swin-T with windows of 7 at 224 px, 6 RoBERTa layers, 4 fused pairs. Overrides are fields of the config."""
    return FiberBackbone.from_config(FiberConfig.from_preset("fiber_small", **overrides))


def fiber_tiny(**overrides: Any) -> FiberBackbone:
    """A model of a few million parameters at 64 px, for tests and CPUs. Overrides are fields of the config."""
    return FiberBackbone.from_config(FiberConfig.from_preset("fiber_tiny", **overrides))
