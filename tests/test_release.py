"""What a release consists of: tags that say what is there, a wheel of weights, a citation."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_data import FiberProcessor, GroundingProcessor, train_tokenizer
from fiber_heads import AutoFiber, FiberForGrounding, FiberForPretraining, GroundingConfig
from fiber_train.checkpoint import load_model

SIZES = {"embed_dim": 8, "image_num_heads": (1, 2, 4), "hidden_size": 32, "intermediate_size": 64}
SIZES |= {"num_hidden_layers": 3, "num_attention_heads": 2}
TASKS = {"coarse": "pretraining", "fine": "grounding"}


def script(root: Path, name: str):
    spec = importlib.util.spec_from_file_location(name, root / "release" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def quickstart(tmp_path: Path) -> Path:
    """A finished quickstart as far as its models go."""
    config = FiberConfig.from_preset("fiber_tiny", **SIZES)
    tokenizer = train_tokenizer(["a red circle", "two squares"], 300)
    coarse = FiberForPretraining(FiberBackbone.from_config(config))
    coarse.processor = FiberProcessor(tokenizer, 64, 20)
    heads = GroundingConfig(channels=16, num_blocks=1, norm_groups=8, strides=(4, 8, 16, 32, 64))
    fine = FiberForGrounding(FiberBackbone.from_config(config.fine_stage()), heads)
    fine.processor = GroundingProcessor(tokenizer, 64, 128, 20)
    for name, model in {"coarse": coarse, "fine": fine}.items():
        model.save_pretrained(tmp_path / "quickstart" / name / "model")
        (tmp_path / "quickstart" / name / "model" / "task.yaml").write_text(f"task: {{name: {TASKS[name]}}}\n")
        (tmp_path / "quickstart" / name / "evaluation.json").write_text("{}")
    return tmp_path / "quickstart"


def test_a_wheel_of_weights_is_loaded_in_float32(
    quickstart: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    sources = script(root, "scenes").fill(quickstart, tmp_path / "sources")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=sources, check=True)
    (wheel,) = (sources / "dist").glob("fiber_scenes-*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    scenes = importlib.import_module("fiber_scenes")
    for stage in scenes.STAGES:
        folder = scenes.model_folder(stage)
        small, large = ((each / "model.safetensors").stat().st_size for each in (folder, quickstart / stage / "model"))
        assert small < 0.6 * large, "in half the bytes"
        assert TASKS[stage] in (folder / "task.yaml").read_text()
        assert "bfloat16" in (folder / "README.md").read_text()
        original = AutoFiber.from_pretrained(quickstart / stage / "model")
        for model in (AutoFiber.from_pretrained(folder), load_model(folder)[0]):
            assert model.processor is not None
            assert {each.dtype for each in model.parameters()} == {torch.float32}
            for found, wanted in zip(model.cpu().parameters(), original.parameters(), strict=True):
                torch.testing.assert_close(found, wanted.bfloat16().float(), rtol=0, atol=0)
    assert not [each for each in recwarn if "dtype" in str(each.message)]
    with pytest.raises(ValueError, match="stage must be coarse or fine, is 'middle'"):
        scenes.model_folder("middle")


def test_stages_that_are_not_finished_are_named(tmp_path: Path, root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="coarse holds no finished run"):
        script(root, "scenes").fill(tmp_path, tmp_path / "sources")


def write_package(root: Path, name: str, version: str, log: str) -> None:
    folder = root / "packages" / name
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\nversion = "{version}"\n')
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n{log}")


LOG = "## [Unreleased]\n\n## [0.3.0] - 2026-12-01\n\n### Added\n\n- A thing.\n\n## [0.2.0] - 2026-11-27\n\n- Others.\n"


def test_a_tag_says_what_is_there(tmp_path: Path, root: Path) -> None:
    check_tag = script(root, "tag").check_tag
    write_package(tmp_path, "one", "0.3.0", LOG)
    write_package(tmp_path, "two", "0.3.0", LOG)
    assert check_tag("v0.3.0", tmp_path) == ["one", "two"]
    assert check_tag("two/0.3.0", tmp_path) == ["two"]


@pytest.mark.parametrize(
    ("tag", "version", "log", "said"),
    [
        ("v0.4.0", "0.3.0", LOG, "one: pyproject.toml: version: expected 0.4.0, found 0.3.0"),
        ("v0.3.0", "0.3.0", LOG.replace(" - 2026-12-01", ""), "expected a section '## \\[0.3.0\\] - YYYY-MM-DD'"),
        ("v0.3.0", "0.3.0", LOG.replace("]\n\n", "]\n\n- Mine.\n", 1), "\\[Unreleased\\] is not empty"),
        ("v0.3.0", "0.3.0", LOG.replace("### Added\n\n- A thing.\n", ""), "the section of 0.3.0 is empty"),
        ("three/0.3.0", "0.3.0", LOG, "'three/0.3.0' is no tag of a release"),
        ("0.3.0", "0.3.0", LOG, "'0.3.0' is no tag of a release"),
    ],
)
def test_a_tag_that_does_not_fit_is_refused(
    tmp_path: Path, root: Path, tag: str, version: str, log: str, said: str
) -> None:
    write_package(tmp_path, "one", version, log)
    with pytest.raises(ValueError, match=said):
        script(root, "tag").check_tag(tag, tmp_path)


def test_the_citation_is_of_the_newest_release(root: Path) -> None:
    cited = yaml.safe_load((root / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version", "date-released"} <= cited.keys()
    log = (root / "packages" / "fiber-train" / "CHANGELOG.md").read_text()
    assert f"## [{cited['version']}] - {cited['date-released']}" in log


def test_the_template_follows_the_packages(root: Path) -> None:
    import tomllib

    own, train = (
        tomllib.loads((root / path / "pyproject.toml").read_text())["project"]
        for path in ("release/scenes", "packages/fiber-train")
    )
    assert own["version"] == train["version"]
    ranges = {line for line in train["dependencies"] if line.startswith("fiber-")}
    assert set(own["dependencies"]) <= ranges
    assert json.dumps(own["classifiers"]).count("::") > 5
