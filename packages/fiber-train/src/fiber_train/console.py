"""The edge of the command: what a user caused is one sentence, a reader that went away is no error, bugs show where.

`fiber-data`, `fiber-eval` and `fiber` each have this module, as none of their packages imports another.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

TRACEBACK = "FIBER_TRACEBACK"  # set in the environment by those who look for the cause in the code
_LONGEST = 1000  # characters of a sentence, which names a path or two


def run_command(name: str, run: Callable[[], int]) -> int:
    """Runs a command.

    Args:
        name: What a sentence begins with.
        run: Gives the exit status.

    Returns:
        That; or 1 after an error that a user can cause, told on standard error, and, silently, when nobody reads the
        output any more. Other errors are ours and pass.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by who started it; what is printed goes nowhere
            setattr(sys, stream, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open to the end
    try:
        with _plain_warnings():
            status = _told(name, run)
        sys.stdout.flush()
    except BrokenPipeError:
        status = 1
    except OSError as error:  # of the flush
        sys.stderr.write(f"{name}: the output cannot be written: {error.strerror}\n")
        status = 1
    finally:
        _drop_output()
    return status


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings to users are sentences, each said once; those to programmers keep the place in the code."""
    before, told = warnings.formatwarning, set[str]()

    def formatted(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if category is not UserWarning or os.environ.get(TRACEBACK):
            return before(message, category, filename, lineno, line)
        text = f"warning: {message}\n"
        new = text not in told
        told.add(text)
        return text * new

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = before


def _told(name: str, run: Callable[[], int]) -> int:
    try:
        return run()
    except BrokenPipeError:
        raise
    except Exception as error:
        text = None if os.environ.get(TRACEBACK) else sentence(error)
        if text is None:
            raise
        sys.stderr.write(f"{name}: {text}\n")
        return 1


def sentence(error: Exception) -> str | None:
    """What is told of an error that a user can cause; None for those that only a mistake of ours can cause."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, KeyError):  # of readers; a bare key would tell nothing
        text = str(error.args[0]) if error.args else ""
        if " " not in text:
            return None
    elif isinstance(error, OSError | ValueError | ImportError | FloatingPointError):
        text = str(error)
    elif isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _is_of_memory(str(error))):
        text = "there is not enough memory; ask for less at a time, or for smaller sizes"
    else:
        return None
    text = " ".join(line.strip() for line in text.splitlines())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


def _is_of_memory(text: str) -> bool:
    """Whether torch says that it got no memory, of the host or of a device."""
    return "allocate memory" in text or "out of memory" in text


def _drop_output() -> None:
    """What is still to be printed, at the latest when Python ends, goes nowhere if it cannot be."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _close(stream)


def _close(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
