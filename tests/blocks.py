"""The blocks of a page, run as a reader would type them: `python tests/blocks.py NAME ...` runs tutorials.

Blocks of Python (```` ```python ````) run one after another with the same names, those of the shell (```` ```bash ````)
by bash, all in the same folder. What is only shown has no language, or is of `py`, `sh`, `yaml` and so on. A page with
`<!-- long -->` in its first line takes minutes: `nox -s docs-check` runs it, tests do not.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

TUTORIALS = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
LONG = "<!-- long -->"
_BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block to run.

    Attributes:
        page: The file.
        line: The number of lines before its first.
        language: `python` or `bash`.
        code: What is to be run.
    """

    page: Path
    line: int
    language: str
    code: str

    @property
    def padded(self) -> str:
        """The code at its line, so that what is said of a line is said of the page's."""
        return "\n" * self.line + self.code


def read_blocks(page: Path) -> list[Block]:
    """The blocks of a page that are run."""
    text = page.read_text(encoding="utf-8")
    return [Block(page, text.count("\n", 0, found.start(2)), *found.groups()) for found in _BLOCK.finditer(text)]


def is_long(page: Path) -> bool:
    """Whether a page takes minutes."""
    return page.read_text(encoding="utf-8").startswith(LONG)


def run_blocks(page: Path) -> None:
    """Runs the blocks of a page here, in the working directory.

    Raises:
        AssertionError: A command failed; the message names file and line. A block of Python raises what it raises,
            with a traceback that does.
    """
    names: dict[str, object] = {"__name__": "page"}
    sys.path.insert(0, str(Path.cwd()))  # as Python does that is typed to
    try:
        for block in read_blocks(page):
            if block.language == "bash":
                _run_shell(block)
            else:
                exec(compile(block.padded, page, "exec", dont_inherit=True), names)
    finally:
        sys.path.remove(str(Path.cwd()))


def _run_shell(block: Block) -> None:
    """Each command as it is typed; the first one that fails ends it."""
    script = "trap 'echo \"at line $LINENO\" >&2' ERR; set -eEu -o pipefail" + block.padded
    own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env={**os.environ, **own}, capture_output=True, text=True)
    said = f"{done.stdout}\n{done.stderr}"
    lines = re.findall(r"^at line (\d+)$", done.stderr, re.MULTILINE)
    place = lines[0] if lines else block.line + 1
    assert done.returncode == 0, f"{block.page}:{place}: exit status {done.returncode}\n{said[-4000:]}"


def main() -> int:
    """Runs tutorials, each in an empty folder: all, or those that are named."""
    parser = argparse.ArgumentParser(description="Run the blocks of tutorials.")
    parser.add_argument("names", nargs="*", help="of tutorials, such as search")
    chosen = parser.parse_args().names
    pages = {page.stem: page for page in sorted(TUTORIALS.glob("*.md"))}
    if unknown := [name for name in chosen if name not in pages]:
        parser.error(f"there is no tutorial {unknown[0]!r}; there are {', '.join(pages)}")
    failed = []
    for name in chosen or pages:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            try:
                run_blocks(pages[name])
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                failed.append(name)
                sys.stdout.write(f"{_explained(pages[name], error)}\n")
        took = time.perf_counter() - start
        sys.stdout.write(f"{name}: {'FAILED' if name in failed else 'runs'}, {took:.0f} s\n")
        sys.stdout.flush()
    return bool(failed)


def _explained(page: Path, error: BaseException) -> str:
    """What went wrong, with file and line."""
    if isinstance(error, AssertionError) and str(error).startswith(f"{page}:"):
        return str(error)
    here, trace = None, error.__traceback__
    while trace is not None:
        here = trace.tb_lineno if trace.tb_frame.f_code.co_filename == str(page) else here
        trace = trace.tb_next
    line = getattr(error, "lineno", None) if here is None else here
    return f"{page}:{line}: {type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
