"""Outlines of the shapes: corners (N, 2) as (x, y) around (0, 0), within a square of side 1."""

from __future__ import annotations

import numpy as np


def _circle(corners: int = 48) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1) / 2


def _star(points: int = 5) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 2 * points, endpoint=False) - np.pi / 2
    radius = np.where(np.arange(2 * points) % 2, 0.22, 0.5)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)


def _heart(corners: int = 32) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    y = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn))
    return np.stack([np.sin(turn) ** 3 * 16, y - 2.5], axis=1) / 32


def _crescent(corners: int = 16) -> np.ndarray:
    """A disc without a smaller one; the outer arc and the inner one meet where the two circles do."""
    outer = np.linspace(np.pi / 4, 2 * np.pi - np.pi / 4, corners)
    tip = np.sin(np.pi / 4) / 2
    center, radius = 0.30, np.hypot(tip, 0.30 - tip)
    start = np.arctan2(-tip, tip - center)
    inner = np.linspace(start, -2 * np.pi - start, corners)[1:-1]
    arcs = [np.stack([np.cos(outer), np.sin(outer)], axis=1) / 2, np.stack([np.cos(inner), np.sin(inner)], 1) * radius]
    arcs[1] += (center, 0)
    return np.concatenate(arcs) + np.array([0.07, 0])


_ARM = 0.17  # half the width of a cross's arm
OUTLINES = {
    "circle": _circle(),
    "square": np.array([[-0.44, -0.44], [0.44, -0.44], [0.44, 0.44], [-0.44, 0.44]]),
    "triangle": np.array([[0.0, -0.46], [0.5, 0.42], [-0.5, 0.42]]),
    "cross": np.array(
        [
            [-_ARM, -0.5],
            [_ARM, -0.5],
            [_ARM, -_ARM],
            [0.5, -_ARM],
            [0.5, _ARM],
            [_ARM, _ARM],
            [_ARM, 0.5],
            [-_ARM, 0.5],
            [-_ARM, _ARM],
            [-0.5, _ARM],
            [-0.5, -_ARM],
            [-_ARM, -_ARM],
        ]
    ),
    "star": _star(),
    "diamond": np.array([[0.0, -0.5], [0.36, 0.0], [0.0, 0.5], [-0.36, 0.0]]),
    "heart": _heart(),
    "crescent": _crescent(),
}
