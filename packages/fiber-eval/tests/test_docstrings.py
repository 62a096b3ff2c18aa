"""The examples in the docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import fiber_eval
import pytest
from fiber_eval.captioning.spice_parser import MODELS

MODULES = [each.name for each in pkgutil.walk_packages(fiber_eval.__path__, "fiber_eval.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str):
    if name.endswith(".spice"):
        spacy = pytest.importorskip("spacy")
        if not any(map(spacy.util.is_package, MODELS)):
            pytest.skip("no English pipeline of spaCy is installed")
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


def test_every_metric_shows_one():
    finder = doctest.DocTestFinder()
    shown = sum(any(each.examples for each in finder.find(importlib.import_module(name))) for name in MODULES)
    assert shown >= 8
