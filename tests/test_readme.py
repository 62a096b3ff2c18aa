"""The blocks of READMEs and of short tutorials run, one after another as a reader would type them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from blocks import TUTORIALS, is_long, read_blocks, run_blocks

# Those of a package run again in its own session, with nothing beside what it declares.
FOLDERS = [".", *(f"packages/fiber-{name}" for name in ("backbone", "heads", "data", "eval", "train"))]
PAGES = sorted(TUTORIALS.glob("*.md"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_snippets_run(folder: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = root / folder / "README.md"
    assert read_blocks(readme), f"{readme} shows no ```python snippet"
    monkeypatch.chdir(tmp_path)
    run_blocks(readme)  # a traceback names the README's line


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES if not is_long(page)])
def test_a_short_tutorial_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(page)


def test_what_fails_in_a_page_is_named_with_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n```python\nword = 'here'\n```\n\n```sh\nfalse\n```\n\n```bash\ntrue\nls nowhere\n```\n")
    with pytest.raises(AssertionError, match=rf"{page}:13: exit status 2\n(.*\n)*.*nowhere"):
        run_blocks(page)


def test_the_readme_names_the_commands_that_exist(root: Path) -> None:
    """Recipes, nox sessions and files that the README names are there."""
    from fiber_train.own_data import KINDS  # where that is installed

    text = (root / "README.md").read_text(encoding="utf-8")
    recipes = set(re.findall(r"fiber train (\w+)", text))
    assert recipes
    found = {path.stem for path in (root / "packages/fiber-train/src").rglob("recipes/*.yaml")}
    assert recipes <= found | KINDS.keys()
    noxfile = (root / "noxfile.py").read_text(encoding="utf-8")
    assert all(f"def {name}(" in noxfile for name in re.findall(r"nox -s (\w+)", text))
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert len(links) >= 10
    assert not [link for link in links if not (root / link).exists()]
