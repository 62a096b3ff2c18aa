"""The doors for other people's parts, and names that are imported only when they are used."""

import ast
import inspect
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import fiber_data
import pytest
from fiber_data.seams import available, name_of, resolve

FORMATS = {"captions", "coco_captions", "karpathy", "caption_folder", "vqav2", "nlvr2", "detection", "grounding"}


def test_our_own_parts_come_in_by_the_same_door():
    assert available("fiber.formats").keys() >= FORMATS
    assert list(available("fiber.formats")) == sorted(available("fiber.formats"))
    assert available("fiber.processors").keys() >= {"FiberProcessor", "GroundingProcessor"}
    assert available("fiber.nothing") == {}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_readers_have_one_signature(name, tmp_path):
    read = resolve(name, "fiber.formats")
    assert read is getattr(fiber_data, read.__name__)
    root, split, *others = inspect.signature(read).parameters.values()
    assert (root.name, split.name) == ("root", "split")
    assert {each.kind for each in others} == {inspect.Parameter.KEYWORD_ONLY}
    options = {each.name: each.default for each in others}
    assert options.pop("check_images") is True and set(options.values()) <= {None}
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder; expected the root of a data set"):
        read(tmp_path / "nowhere", "train")


def test_a_name_of_ones_own_may_be_an_import_path():
    assert resolve("fiber_data.seams:available", "fiber.formats") is available
    with pytest.raises(
        ValueError, match=r"fiber\.formats has no 'vqav3', only .*vqav2.*import path package\.module:Na"
    ):
        resolve("vqav3", "fiber.formats")
    for path in ("fiber_data.nowhere:read", "fiber_data.seams:nothing"):
        with pytest.raises(ValueError, match=rf"'{path}' cannot be imported .* write it as package\.module:Name"):
            resolve(path, "fiber.formats")


def test_a_name_from_elsewhere_may_not_unless_it_is_repeated():
    path = "fiber_data.seams:available"
    assert resolve("vqav2", "fiber.formats", trusted=()) is fiber_data.read_vqav2
    with pytest.raises(ValueError, match=rf"a file from elsewhere names '{path}'.*\(trusted=\['{path}'\], or --trust"):
        resolve(path, "fiber.formats", trusted=())
    assert resolve(path, "fiber.formats", trusted=[path]) is available


def test_a_strangers_distribution_declares_a_part(tmp_path, monkeypatch):
    (tmp_path / "birds.py").write_text("def read_birds(root, split, **options):\n    return [root, split]\n")
    folder = tmp_path / "birds-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: birds\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[fiber.formats]\nbirds = birds:read_birds\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert available("fiber.formats")["birds"] == EntryPoint("birds", "birds:read_birds", "fiber.formats")
    assert "birds" not in sys.modules
    assert resolve("birds", "fiber.formats", trusted=())("a", "b") == ["a", "b"]


def test_a_class_is_named_by_its_entry_point_or_its_path():
    assert name_of(fiber_data.FiberProcessor, "fiber.processors") == "FiberProcessor"
    assert name_of(fiber_data.Processor, "fiber.processors") == "fiber_data.processor:Processor"


# Names that are imported when they are used


def test_the_package_and_its_readers_need_no_torch():
    script = (
        "import sys, fiber_data\n"
        "assert not {'torch', 'numpy', 'transformers'} & sys.modules.keys()\n"
        "fiber_data.read_captions, fiber_data.read_vqav2, fiber_data.read_grounding\n"
        "assert 'torch' not in sys.modules\n"
        "fiber_data.derive_seed\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_type_checkers_see_is_what_there_is():
    tree = ast.parse(Path(fiber_data.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert {name: f"fiber_data.{home}" for name, home in fiber_data._HOME_OF.items()} == seen
    assert set(fiber_data.__all__) == seen.keys() <= set(dir(fiber_data))
    assert all(getattr(fiber_data, name) is not None for name in fiber_data.__all__)
    with pytest.raises(AttributeError, match="module 'fiber_data' has no attribute 'nothing'"):
        _ = fiber_data.nothing
