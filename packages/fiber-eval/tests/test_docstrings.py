"""The examples in the docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import fiber_eval
import pytest

MODULES = [each.name for each in pkgutil.walk_packages(fiber_eval.__path__, "fiber_eval.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str):
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


def test_every_metric_shows_one():
    shown = sum(doctest.testmod(importlib.import_module(name)).attempted > 0 for name in MODULES)
    assert shown >= 8
