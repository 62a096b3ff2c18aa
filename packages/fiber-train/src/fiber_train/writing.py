"""Files and folders that are whole or absent: written beside their place, synced to the disk, then renamed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

from fiber_train.ownership import MARKER, check_free, mark, read_marker

Content = str | bytes | IO[bytes]  # of a file: text, bytes, or an open file, for what memory need not hold


class WriteError(OSError):
    """Something could not be written; the message names it and the reason."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Failures to write inside become a sentence.

    Raises:
        WriteError: There is no space, no permission, no such place, ...
    """
    try:
        yield
    except (WriteError, FileExistsError):  # the latter say what is there
        raise
    except BrokenPipeError:  # of somebody who no longer reads what we print
        raise
    except (OSError, SafetensorError) as error:
        told = error if isinstance(error, OSError) else as_os_error(error)
        reason = told.strerror or str(told)
        raise WriteError(
            f"{path} cannot be written: {reason}; what was there before stays; make room or choose another folder, and "
            "the same command goes on"
        ) from error


def as_os_error(error: SafetensorError) -> OSError:
    """The failure of the file system that safetensors tells of, by its number."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def write_file(path: Path, content: Content) -> None:
    """Writes a file, a text in UTF-8, so that it is never half there.

    Raises:
        WriteError: It cannot be written.
    """
    with explained(path):
        temporary = path.with_name(f".{path.name}.partial")
        if isinstance(content, str | bytes):
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            content.seek(0)
            with temporary.open("wb") as file:
                shutil.copyfileobj(content, file)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


def replace_folder(target: Path, write: Callable[[Path], None], kind: str = "model") -> None:
    """Lets `write` fill a folder beside `target` and then puts it in its place; a crash leaves the old one whole.

    Args:
        target: The folder, with the marker of ours afterwards, which lists its files; what somebody else put into the
            old one moves to the new one.
        write: Fills an empty folder.
        kind: What it is, for the marker.

    Raises:
        FileExistsError: There is a folder without our marker.
        WriteError: It cannot be written; the old one stays.
    """
    fresh, old = temporary(target), _old(target)
    restore(target)
    check_free(target)
    with explained(target):
        try:
            fresh.mkdir(parents=True)
            write(fresh)
            files = [path for path in fresh.rglob("*") if path.is_file() and path != fresh / MARKER]
            mark(fresh, kind, files)
            for path in (*files, fresh / MARKER, fresh):
                sync(path)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)  # the disk may be full
            raise
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        sync(target.parent)
    _clear(old, target)


def restore(target: Path) -> None:
    """Undoes what a crash left half done in `replace_folder`."""
    shutil.rmtree(temporary(target), ignore_errors=True)
    if _old(target).is_dir() and not target.exists():
        _old(target).rename(target)
    _clear(_old(target), target)


def _clear(old: Path, target: Path) -> None:
    """Removes what `replace_folder` replaced; files that its marker does not list go to the new one."""
    listed = {MARKER, *((read_marker(old) or {}).get("files", {}))}
    for path in [each for each in old.rglob("*") if each.is_file()] if old.is_dir() else []:
        name = path.relative_to(old)
        if name.as_posix() not in listed and not (target / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            path.rename(target / name)
    shutil.rmtree(old, ignore_errors=True)


def free_name(path: Path) -> Path:
    """The path, or if that exists the first of `NAME-2.SUFFIX`, `NAME-3.SUFFIX`, ... that does not."""
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return path if not path.exists() else next(name for name in names if not name.exists())


def sync(path: Path) -> None:
    """Waits until a file or the names in a folder are on the disk."""
    with suppress(OSError) if path.is_dir() else nullcontext():  # of folders, not every system can tell
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def temporary(target: Path) -> Path:
    """Where `replace_folder` lets a folder be filled."""
    return target.with_name(f".{target.name}.partial")


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")
