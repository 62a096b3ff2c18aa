"""The README's Python snippets run, one after another as a reader would type them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


def test_snippets_run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    snippets = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert snippets, f"{readme} shows no ```python snippet"
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for snippet in snippets:
        first_line = text.count("\n", 0, snippet.start(1))
        exec(compile("\n" * first_line + snippet[1], readme, "exec"), names)  # a traceback names the README's line
