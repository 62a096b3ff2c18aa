"""The pages of the site: their blocks run, and none of what a reader looks for is left out."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blocks import TUTORIALS, read_blocks, run_blocks

if TYPE_CHECKING:
    from conftest import Package

DOCS = TUTORIALS.parent
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if page.parent != TUTORIALS and read_blocks(page)]


@pytest.mark.parametrize("page", [pytest.param(page, id=page.relative_to(DOCS).as_posix()) for page in PAGES])
def test_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(page)


def test_the_site_shows_every_page_and_every_public_name(package: Package) -> None:
    included = {
        (page.parent / target).resolve()
        for page in DOCS.rglob("*.md")
        for target in re.findall(r"^```\{include\} (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert not set(package.folder.glob("*.md")) - included, "include these in a page of docs/"
    modules = [name for name, path in package.modules().items() if says_what_is_public(path)]
    described = [page.stem for page in (DOCS / "api").glob("*.rst") if page.stem.split(".")[0] == package.module]
    public = {id(getattr(import_module(name), each)): f"{name}.{each}" for name in modules for each in all_of(name)}
    shown = {id(getattr(import_module(name), each)) for name in described for each in all_of(name)}
    assert not [name for value, name in public.items() if value not in shown], "give their modules a page in docs/api/"


def says_what_is_public(path: Path) -> bool:
    return path.name == "__init__.py" and "\n__all__ = [" in path.read_text(encoding="utf-8")


def all_of(module: str) -> list[str]:
    return import_module(module).__all__


def test_the_site_lists_every_page() -> None:
    """A page that no table of contents names is found by nobody."""
    listed = set()
    for page in DOCS.rglob("*.md"):
        for table in re.findall(
            r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            for line in filter(None, table.splitlines()):
                name = re.sub(r".*<(.*)>", r"\1", line)
                listed |= set(page.parent.glob(f"{name}.md")) | set(page.parent.glob(f"{name}.rst"))
    found = {path for kind in ("*.md", "*.rst") for path in DOCS.rglob(kind) if "_build" not in path.parts}
    assert found - {DOCS / "index.md"} == {path.resolve() for path in listed}
