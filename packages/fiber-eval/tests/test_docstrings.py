"""The examples in the docstrings run, and everything public has one."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import fiber_eval
import pytest
from fiber_eval import benchmarks, captioning
from fiber_eval.captioning.meteor._data import find_meteor
from fiber_eval.captioning.spice._parser import MODELS

MODULES = [each.name for each in pkgutil.walk_packages(fiber_eval.__path__, "fiber_eval.")]
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name) for module in (fiber_eval, captioning) for name in module.__all__
}
PUBLIC |= {
    f"{each.module}.{each.attr}": each.load()
    for each in benchmarks.available().values()
    if each.dist.name == "fiber-eval"
}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str):
    if name.endswith(".spice.metric"):
        spacy = pytest.importorskip("spacy")
        if not any(map(spacy.util.is_package, MODELS)):
            pytest.skip("no English pipeline of spaCy is installed")
    if name.endswith(".meteor.metric"):
        try:
            find_meteor()
        except FileNotFoundError as error:
            pytest.skip(str(error))
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if callable(thing)])
def test_everything_public_shows_one(name: str):
    [own] = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name)
    assert own.examples
