"""Mutations of bytes: what disks, transfers and editors do to a file, whatever it holds."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from random import Random
from typing import Literal

_SHARE_OF_SPLICES = 0.1


def mutate_content(
    content: bytes, draw: Random, *, is_text: bool = True, others: Sequence[bytes] = ()
) -> tuple[bytes, str]:
    """The content of a file with one mutation of its bytes, and what happened to it, in words.

    Args:
        content: Of the file.
        draw: Decides.
        is_text: Whether it is a text; of another file numbers are set and bits flipped more often.
        others: Contents of other files, whose ends it may get.
    """
    if others and draw.random() < _SHARE_OF_SPLICES:
        return _splice(content, draw.choice(others), draw)
    kinds = _KINDS if is_text else _KINDS_OF_BINARY
    name = draw.choice(list(kinds))
    found = kinds[name](content, draw)
    changed, words = found if isinstance(found, tuple) else (found, "")
    return changed, f"the file {name}{words}"


def _position(content: bytes, draw: Random) -> int:
    return draw.randrange(len(content) + 1)


def _truncate(content: bytes, draw: Random) -> tuple[bytes, str]:
    end = _position(content, draw)
    return content[:end], f" {end} of {len(content)}"


def _flip(content: bytes, draw: Random) -> tuple[bytes, str]:
    changed = bytearray(content or b"\0")
    positions = [draw.randrange(len(changed)) for _ in range(draw.choice((1, 1, 2, 8)))]
    for position in positions:
        changed[position] ^= 1 << draw.randrange(8)
    return bytes(changed), f" at {', '.join(map(str, positions))}"


def _splice(content: bytes, other: bytes, draw: Random) -> tuple[bytes, str]:
    end, start = _position(content, draw), _position(other, draw)
    return content[:end] + other[start:], f"the file ends from {end} on as another one does from {start} on"


def _set_number(content: bytes, draw: Random) -> tuple[bytes, str]:
    """A count, size or offset of a header is another number."""
    width = draw.choice((1, 2, 4, 8))
    start = draw.randrange(max(1, min(len(content), draw.choice((8, 64, len(content)))) - width + 1))
    number = draw.choice((0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**60, 2**63, 2**64 - 1)) % 2 ** (
        8 * width
    )
    order: Literal["little", "big"] = draw.choice(("little", "big"))
    changed = content[:start] + number.to_bytes(width, order) + content[start + width :]
    return changed, f" {number} at {start}, {width} bytes, {order}"


def _cut_out(content: bytes, draw: Random) -> tuple[bytes, str]:
    start = _position(content, draw)
    end = start + draw.choice((1, 2, 16, 200))
    return content[:start] + content[end:], f" {start} to {end}"


def _insert(content: bytes, draw: Random) -> tuple[bytes, str]:
    start = _position(content, draw)
    noise = draw.choice([draw.randbytes(draw.choice((1, 4, 64))), b"\0", b"\xff", b"\t", b"\n", b'"', b",", b"{", b"]"])
    return content[:start] + noise + content[start:], f" {noise[:8]!r} at {start}"


def _repeat(content: bytes, draw: Random) -> tuple[bytes, str]:
    start = _position(content, draw)
    end = start + draw.choice((1, 2, 16, 200))
    return content[:end] + content[start:], f" {start} to {end}"


def _zero(content: bytes, draw: Random) -> tuple[bytes, str]:
    start = _position(content, draw)
    piece = content[start : start + draw.choice((1, 16, 512))]
    return content[:start] + b"\0" * len(piece) + content[start + len(piece) :], f" {start} to {start + len(piece)}"


def _drop_line(content: bytes, draw: Random) -> tuple[bytes, str]:
    lines = content.splitlines(keepends=True)
    number = draw.randrange(len(lines)) if lines else 0
    return b"".join(lines[:number] + lines[number + 1 :]), f" {number + 1}"


def _repeat_line(content: bytes, draw: Random) -> tuple[bytes, str]:
    lines = content.splitlines(keepends=True)
    number = draw.randrange(len(lines)) if lines else 0
    return b"".join(lines[: number + 1] + lines[number:]), f" {number + 1}"


def _indent_line(content: bytes, draw: Random) -> tuple[bytes, str]:
    lines = content.splitlines(keepends=True) or [b""]
    number = draw.randrange(len(lines))
    mark = draw.choice((b"\t", b"  ", b"# ", b"- ", b"---\n", b"? "))
    lines[number] = mark + lines[number]
    return b"".join(lines), f" {number + 1} with {mark!r}"


def _recode(encoding: str) -> Callable[[bytes, Random], bytes]:
    return lambda content, draw: content.decode("utf-8", "replace").encode(encoding, "replace")


_KINDS: dict[str, Callable[[bytes, Random], bytes | tuple[bytes, str]]] = {
    "kept only bytes up to": _truncate,
    "has flipped bits": _flip,
    "lost bytes": _cut_out,
    "got bytes": _insert,
    "has twice the bytes": _repeat,
    "has zeros for bytes": _zero,
    "lost line": _drop_line,
    "has twice the line": _repeat_line,
    "begins line": _indent_line,
    "is empty": lambda content, draw: b"",
    "is white space": lambda content, draw: b" \r\n\t\n",
    "is noise": lambda content, draw: draw.randbytes(draw.choice((1, 100, 2000))),
    "begins with a byte-order mark": lambda content, draw: b"\xef\xbb\xbf" + content,
    "is in UTF-16": _recode("utf-16"),
    "is in UTF-16 without mark": _recode("utf-16-le"),
    "is in UTF-32": _recode("utf-32"),
    "is in Latin-1": _recode("latin-1"),
    "is in cp1252": _recode("cp1252"),
    "is in EBCDIC": _recode("cp037"),
    "has the line ends of Windows": lambda content, draw: content.replace(b"\n", b"\r\n"),
    "has the line ends of old Macs": lambda content, draw: content.replace(b"\n", b"\r"),
    "is packed": lambda content, draw: gzip.compress(content, mtime=0),
    "holds itself twice": lambda content, draw: content * 2,
    "ends with a zero": lambda content, draw: content + b"\0",
    "ends with a comma": lambda content, draw: content.rstrip() + b",",
    "ends with a blank line": lambda content, draw: content + b"\n\n",
}
_KINDS_OF_BINARY: dict[str, Callable[[bytes, Random], bytes | tuple[bytes, str]]] = {
    **{
        name: kind
        for name, kind in _KINDS.items()
        if not name.startswith(("is in ", "begins", "lost l", "has twice the l"))
    },
    "has the number": _set_number,
    "has as a number": _set_number,
    "has, as a number,": _set_number,
    "has bits flipped": _flip,
    "with bits flipped": _flip,
}
