"""Links between files of the repository, relative as they are there: to the page that includes their target.

Which page shows which file is read from the pages' `{include}`. A link to a folder means its README; what no page
includes is offered as a download.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

INCLUDE = re.compile(r"^```\{include\} (\S+)\n(:)?", re.MULTILINE)  # with options it is a part of the file
LINK = re.compile(r"(?<=\]\()([^)\s#:]*)(#[^)\s]*)?(?=\))")
CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def find_pages(app: Sphinx, config: Config) -> None:
    """Note which page includes which file, of a file in several the one that has it whole."""
    pages: dict[Path, str] = {}
    for page in sorted(Path(app.srcdir).rglob("*.md")):
        for target, is_part in INCLUDE.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            if not is_part or path not in pages:
                pages[path] = "/" + page.relative_to(app.srcdir).as_posix()
    config.add("pages_of_files", pages, "env", dict)


def rewrite_included(app: Sphinx, relative_path: Path, parent_docname: str, content: list[str]) -> None:
    """Rewrite the links of an included file, which `content` holds."""
    rewrite_links(app, Path(app.srcdir, relative_path).resolve(), content)


def rewrite_page(app: Sphinx, docname: str, content: list[str]) -> None:
    """Rewrite the links of a page of ours, which may lead out of the folder of the pages, too."""
    rewrite_links(app, Path(app.env.doc2path(docname)).resolve(), content)


def rewrite_links(app: Sphinx, file: Path, content: list[str]) -> None:
    """Rewrite the links of a file's text; code stays as it is."""
    page = Path(app.env.doc2path(app.env.docname)).resolve()
    pages: dict[Path, str] = app.config.pages_of_files

    def rewrite(match: re.Match[str]) -> str:
        target = (file.parent / match[1]).resolve() if match[1] else file
        anchor = match[2] or ""
        if target == page:  # an anchor of the page itself, or of the API
            return anchor
        for path in (target, target / "README.md", target / "__init__.py"):
            if path in pages:
                return pages[path] + anchor
            if path.is_file():
                return Path(os.path.relpath(path, page.parent)).as_posix() + anchor
        logging.getLogger(__name__).warning("%s: link to %s, which is not there", file, match[1])
        return match[0]

    parts = CODE.split(content[0])  # code at odd places
    content[0] = "".join(part if place % 2 else LINK.sub(rewrite, part) for place, part in enumerate(parts))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the steps."""
    app.connect("config-inited", find_pages)
    app.connect("include-read", rewrite_included)
    app.connect("source-read", rewrite_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
