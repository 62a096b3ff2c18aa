"""Scenes: a generated data set of colored shapes, with every annotation that FIBER learns from."""

from fiber_data.scenes.audit import Finding, audit_scenes
from fiber_data.scenes.draw import draw_scene
from fiber_data.scenes.graph import Scene, SceneObject, sample_scene
from fiber_data.scenes.write import generate_scenes

__all__ = ["Finding", "Scene", "SceneObject", "audit_scenes", "draw_scene", "generate_scenes", "sample_scene"]
