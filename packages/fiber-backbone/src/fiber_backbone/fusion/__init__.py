"""Ways for two streams to read each other: gated cross-attention inside the backbone, and what it is compared with."""

from fiber_backbone.fusion.base import Fusion, FusionCost
from fiber_backbone.fusion.gated import GatedCrossAttention, GatedFusion
from fiber_backbone.fusion.late import LateFusion
from fiber_backbone.fusion.merged import MergedFusion

__all__ = ["Fusion", "FusionCost", "GatedCrossAttention", "GatedFusion", "LateFusion", "MergedFusion"]
