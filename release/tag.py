"""Whether a tag says what the repository holds: versions, and a dated section of the changelog for each.

A tag is `v0.2.0` for all packages, or `fiber-data/0.2.1` for one. `python release/tag.py v0.2.0` prints the packages.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def check_tag(tag: str, root: Path = ROOT) -> list[str]:
    """The packages that a tag releases.

    Args:
        tag: `v` and a version, or a package, a slash and a version.
        root: Of the repository.

    Raises:
        ValueError: A line for each thing that does not fit, with how to mend it.
    """
    known = sorted(path.parent.name for path in root.glob("packages/*/pyproject.toml"))
    package, slash, version = tag.rpartition("/")
    if not slash and tag.startswith("v"):
        names, version = known, tag.removeprefix("v")
    elif package in known:
        names = [package]
    else:
        raise ValueError(f"{tag!r:.80} is no tag of a release; give v0.2.0, or PACKAGE/0.2.0 of {', '.join(known)}")
    if faults := [fault for name in names for fault in _faults(root / "packages" / name, version)]:
        raise ValueError("\n".join(faults))
    return names


def _faults(folder: Path, version: str) -> list[str]:
    """What of a package does not fit a version."""
    with (folder / "pyproject.toml").open("rb") as file:
        own = tomllib.load(file)["project"]["version"]
    faults = [] if own == version else [f"{folder.name}: pyproject.toml: version: expected {version}, found {own}"]
    text = (folder / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", text, flags=re.MULTILINE))
    where = f"{folder.name}: CHANGELOG.md"
    if sections.get("[Unreleased]", "").strip():
        faults.append(f"{where}: [Unreleased] is not empty; move its lines to the section of {version}")
    dated = next(
        (name for name in sections if re.fullmatch(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", name)), ""
    )
    if not dated:
        faults.append(f"{where}: expected a section '## [{version}] - YYYY-MM-DD', found none; add it")
    elif not sections[dated].strip():
        faults.append(f"{where}: the section of {version} is empty; say what changed")
    return faults


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python release/tag.py TAG")
    try:
        sys.stdout.write("\n".join([*check_tag(sys.argv[1]), ""]))
    except ValueError as error:
        sys.exit(str(error))
