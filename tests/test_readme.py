"""The READMEs' Python snippets run, one after another as a reader would type them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

# Those of a package run again in its own session, with nothing beside what it declares.
FOLDERS = [".", *(f"packages/fiber-{name}" for name in ("backbone", "heads", "data", "eval", "train"))]


@pytest.mark.parametrize("folder", FOLDERS)
def test_snippets_run(folder: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = root / folder / "README.md"
    text = readme.read_text(encoding="utf-8")
    snippets = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert snippets, f"{readme} shows no ```python snippet"
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for snippet in snippets:
        first_line = text.count("\n", 0, snippet.start(1))
        exec(
            compile("\n" * first_line + snippet[1], readme, "exec", dont_inherit=True), names
        )  # a traceback names the README's line


def test_the_readme_names_the_commands_that_exist(root: Path) -> None:
    """Recipes, nox sessions and files that the README names are there."""
    text = (root / "README.md").read_text(encoding="utf-8")
    recipes = set(re.findall(r"fiber train (\w+)", text))
    assert recipes
    found = {path.stem for path in (root / "packages/fiber-train/src").rglob("recipes/*.yaml")}
    assert recipes <= found
    noxfile = (root / "noxfile.py").read_text(encoding="utf-8")
    assert all(f"def {name}(" in noxfile for name in re.findall(r"nox -s (\w+)", text))
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert len(links) >= 10
    assert not [link for link in links if not (root / link).exists()]
