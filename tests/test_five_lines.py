"""Each task in at most five lines of Python, as the READMEs show it: from a folder and an image to what is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from stand_ins import make_quickstart

MOST = 5  # lines of code
FOLDERS = [".", "packages/fiber-heads", "packages/fiber-train"]
ASKED = {"retrieve", "answer", "judge", "caption", "ground", "refer", "detect"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `quickstart/` is."""
    return make_quickstart(tmp_path_factory.mktemp("models") / "quickstart").parent


@pytest.mark.parametrize("place", FOLDERS)
def test_each_task_takes_five_lines(place: str, root: Path, folder: Path, monkeypatch, capsys) -> None:
    text = (root / place / "README.md").read_text(encoding="utf-8")
    blocks = [each[1] for each in re.finditer(r"^```py\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]
    blocks = [block for block in blocks if '"quickstart/' in block]
    asked = [set(re.findall(r"model\.(\w+)\(", block)) & ASKED for block in blocks]
    assert sorted(map(tuple, asked)) == sorted((name,) for name in ASKED)
    monkeypatch.chdir(folder)
    for block, (name,) in zip(blocks, asked, strict=True):
        lines = [line for line in block.splitlines() if line.strip() and not line.startswith("#")]
        assert len(lines) <= MOST, f"{name}: {block}"
        exec(compile(block, f"{place}/README.md, {name}", "exec", dont_inherit=True), {})
        printed = capsys.readouterr().out
        assert printed.strip(), name
        assert not re.search(r"tensor\(|\w+\(\w+=", printed), f"{name}: printed for machines: {printed}"
