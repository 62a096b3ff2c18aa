"""Each task in at most five lines of Python, as the READMEs show it: from a folder and an image to what is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from stand_ins import make_quickstart

MOST = 5  # lines of code
FOLDERS = [".", "packages/fiber-heads", "packages/fiber-train"]
ASKED = {"retrieve", "answer", "judge", "caption", "ground", "refer", "detect"}


def read_tasks(readme: Path) -> dict[str, str]:
    """By method the block that shows it on the models of a quickstart."""
    found = re.findall(r"^```py\n(.*?)^```", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    blocks = [block for block in found if '"quickstart/' in block]
    asked = [set(re.findall(r"model\.(\w+)\(", block)) & ASKED for block in blocks]
    assert sorted(map(tuple, asked)) == sorted((name,) for name in ASKED), f"{readme}: each task has a block of its own"
    return {name: block for (name,), block in zip(asked, blocks, strict=True)}


def test_each_task_takes_five_lines(root: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    shown = {
        f"{place}: {name}": block for place in FOLDERS for name, block in read_tasks(root / place / "README.md").items()
    }
    make_quickstart(tmp_path / "quickstart")
    monkeypatch.chdir(tmp_path)
    ran = set()
    for place, block in shown.items():
        lines = [line for line in block.splitlines() if line.strip() and not line.startswith("#")]
        assert len(lines) <= MOST, place
        if block in ran:
            continue
        ran.add(block)
        exec(compile(block, place, "exec", dont_inherit=True), {})
        printed = capsys.readouterr().out
        assert printed.strip(), place
        assert not re.search(r"tensor\(|\w+\(\w+=", printed), f"{place} prints for machines: {printed}"
