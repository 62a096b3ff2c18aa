"""Scenes: a generated data set of colored shapes, with every annotation that FIBER learns from."""

from fiber_data.scenes.audit import Finding, audit_scenes
from fiber_data.scenes.draw import draw_scene
from fiber_data.scenes.graph import Scene, SceneObject
from fiber_data.scenes.levels import LEVELS, UNSEEN, Level
from fiber_data.scenes.placing import sample_scene
from fiber_data.scenes.write import generate_scenes

__all__ = [
    "LEVELS",
    "UNSEEN",
    "Finding",
    "Level",
    "Scene",
    "SceneObject",
    "audit_scenes",
    "draw_scene",
    "generate_scenes",
    "sample_scene",
]
