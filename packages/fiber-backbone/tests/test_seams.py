"""Doors for other people's parts: what is listed is not imported, what is broken breaks nothing else."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from fiber_backbone import seams


def entry(value: str) -> EntryPoint:
    return EntryPoint("name", value, "fiber.verbs")


def test_docstrings_are_read_without_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outsider").mkdir()
    (tmp_path / "outsider" / "__init__.py").write_text("")
    (tmp_path / "outsider" / "verbs.py").write_text('raise RuntimeError\ndef greet(parser):\n    """Say hello."""\n')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("raise RuntimeError('of a stranger')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert seams.docstring(entry("outsider.verbs:greet")) == "Say hello."
    assert "outsider.verbs" not in sys.modules
    for value in ("outsider.verbs:nothing", "broken.verbs:greet", "nowhere.at.all:greet", "sys:path"):
        assert seams.docstring(entry(value)) == ""


def test_an_attribute_of_a_class_is_found_without_an_import_of_its_module(tmp_path, monkeypatch) -> None:
    (tmp_path / "plain.py").write_text("class Settings:\n    size = 3\n")
    (tmp_path / "heavy.py").write_text(
        "from plain import Settings as Own\nraise RuntimeError\n"
        "class Task:\n    name: str\n    settings_class = Own\nclass Other:\n    settings_class = Task\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert seams.stated(entry("heavy:Task"), "settings_class").size == 3
    assert "heavy" not in sys.modules
    for value, name in (("heavy:Task", "name"), ("heavy:Other", "settings_class"), ("nowhere:Task", "settings_class")):
        assert seams.stated(entry(value), name) is None


def test_our_parts_come_in_by_the_same_doors() -> None:
    from fiber_backbone import GatedFusion, SwinStream

    assert seams.resolve("swin", "fiber.streams") is SwinStream
    assert seams.name_of(SwinStream, "fiber.streams") == "swin"
    assert seams.resolve("fiber_backbone:GatedFusion", "fiber.fusions") is GatedFusion
    assert seams.name_of(GatedFusion, "fiber.streams") == "fiber_backbone.fusion.gated:GatedFusion"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: seams.load_object("nothing"), "'nothing' is not an import path; write it as package.module:Name"),
        (lambda: seams.load_object("torch.optim.Adan"), "'torch.optim.Adan' cannot be imported"),
        (lambda: seams.resolve("gatd", "fiber.fusions"), "fiber.fusions has no 'gatd', only .*did you mean 'gated'"),
        (lambda: seams.resolve("os:system", "fiber.fusions", trusted=()), "names 'os:system', which to load would run"),
    ],
)
def test_sentences(call: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()  # type: ignore[operator]


def test_the_package_waits_for_torch_until_it_is_needed() -> None:
    code = "import sys, fiber_backbone, fiber_backbone.seams; print('torch' in sys.modules, 'timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_every_public_name_is_there() -> None:
    import fiber_backbone

    assert all(getattr(fiber_backbone, name) is not None for name in fiber_backbone.__all__)
    assert set(fiber_backbone.__all__) == set(fiber_backbone._HOMES)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        fiber_backbone.nothing  # noqa: B018
