"""Where the shards of a split are: in a folder, below a URL that can be listed, or one by one behind URLs."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from fiber_data import remote
from fiber_data.formats.files import check_folder
from fiber_data.formats.samples import SplitNotFoundError, list_some
from fiber_data.formats.shard_index import Shard, file_name, index_beside
from fiber_data.formats.sources import glob, note_file

MANIFEST = ".manifest.json"
TRAIN, VAL = "train", "val"
CONNECTIONS = 16
"""Files of a server that are asked for at once."""
_NEAR = ("*.tar", "*/*.tar")
_SPLIT = re.compile(r"(?P<split>[^\W\d_]\w*?)-\d+\.tar")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 10**6

Result = TypeVar("Result")


@dataclass(frozen=True)
class Shards:
    """The shards that are read together.

    Attributes:
        shards: In order.
        is_shared: Whether they are those of all splits.
        manifest: What `fiber_data.pack` wrote of them, if that is there.
        manifest_place: Where that is, or would be.
    """

    shards: list[Shard]
    is_shared: bool
    manifest: Mapping[str, Any] | None
    manifest_place: str


def find_shards(root: str | Path, split: str | None) -> Shards:
    """The shards of a split, or of several joined by ``+``.

    Args:
        root: A folder; a URL of a store that can be listed; one of a web server where a manifest lies; or shards by
            name, as path or URL, such as ``https://host/shard-{00000..00012}.tar``.
        split: Its name; None is all.

    Raises:
        FileNotFoundError: There is no such folder.
        SplitNotFoundError: There are no shards, or none of the split.
        OSError: As of `fiber_data.remote.read_range`.
        ValueError: A manifest is none, or names with braces are no names of shards.
    """
    url = remote.as_url(root)
    base = url or str(root)
    if names_shards(base):
        named = _named(base)
        splits = _by_split({file_name(str(shard.place)): shard for shard in named})
        own = [shard for shard in named if split is not None and shard in splits.get(split, ())]
        if not own and split not in (None, TRAIN, VAL):
            raise _no_shards(base, split, splits, len(named))
        return Shards(_stat(_told_apart(own or named)), not own, None, "")
    place = f"{base.rstrip('/')}/{split}{MANIFEST}"
    if url is not None and remote.scheme_of(url) in ("http", "https"):
        return _of_manifest(url, split, place)
    there = _local(Path(root), deep=split is None) if url is None else _listed(url)
    shards, is_shared = _choose(base, there, split)
    return Shards(shards, is_shared, None if split is None else _read_manifest(place), place)


def is_elsewhere(root: str | Path) -> bool:
    """Whether a root is no folder, but a URL or names of shards."""
    return remote.as_url(root) is not None or names_shards(str(root))


def names_shards(root: str) -> bool:
    """Whether a root names shards one by one."""
    return re.split(r"[?#]", root, maxsplit=1)[0].endswith(".tar")


def has_tar_shards(root: Path) -> bool:
    """Whether a folder, or one in it, holds a tar."""
    return any(True for pattern in _NEAR for _ in glob(root, pattern))


def local_splits(root: Path) -> list[str]:
    """The splits of shards that a folder holds, sorted."""
    return sorted(_by_split(_local(root)))


def _choose(root: str, there: Mapping[str, Shard], split: str | None) -> tuple[list[Shard], bool]:
    """The shards of a split, and whether they are those of all splits together."""
    splits = _by_split(there)
    wanted = [] if split is None else [split] if split in splits else split.split("+")
    if wanted and all(each in splits for each in wanted):
        return _told_apart([shard for each in wanted for shard in splits[each]]), False
    shards = [shard for name, shard in there.items() if split is None or "/" not in name]
    if not shards or (splits and split is not None) or split not in (None, TRAIN, VAL):
        raise _no_shards(root, split, splits, len(shards))
    return _told_apart(shards), True


def _no_shards(root: str, split: str | None, splits: Mapping[str, Any], count: int) -> SplitNotFoundError:
    there = f"there are {count} shards without a split in their names" if count else "there is no tar"
    there = f"there are shards of {list_some(splits)}" if splits else there
    return SplitNotFoundError(
        f"{root}: no shards of split {split!r}; expected {split}/*.tar or {split}-00000.tar and so on; {there}"
    )


def _told_apart(shards: list[Shard]) -> list[Shard]:
    """The shards; names of folders count where they are of several."""
    return [replace(shard, folder="") for shard in shards] if len({shard.folder for shard in shards}) == 1 else shards


def _by_split(there: Mapping[str, Shard]) -> dict[str, list[Shard]]:
    """The shards of each split, by their names below the root."""
    splits: dict[str, list[Shard]] = {}
    for name, shard in there.items():
        if "/" not in name and (named := _SPLIT.fullmatch(name)):
            splits.setdefault(named["split"], []).append(shard)
    for name, shard in there.items():
        if name.count("/") == 1:
            splits.setdefault(name.partition("/")[0], []).append(shard)
    return splits


def _local(root: Path, *, deep: bool = False) -> dict[str, Shard]:
    check_folder(root)
    paths = glob(root, "**/*.tar") if deep else [path for near in _NEAR for path in glob(root, near)]
    return {path.relative_to(root).as_posix(): _on_disk(path, root) for path in paths}


def _on_disk(path: Path, root: Path) -> Shard:
    note_file(path)
    about = path.stat()
    beside = index_beside(path)
    assert isinstance(beside, Path), "that of a path"
    folder = path.parent.relative_to(root).as_posix()
    return Shard(path, about.st_size, str(about.st_mtime_ns), folder.removeprefix("."), beside.is_file())


def _listed(url: str) -> dict[str, Shard]:
    base = url.rstrip("/") + "/"
    files = {file.url.removeprefix(base): file for file in remote.list_files(base, depth=2)}
    found = {}
    for name, file in files.items():
        if name.endswith(".tar"):
            has_index = str(index_beside(name)) in files
            found[name] = Shard(file.url, file.size, file.version, name.rpartition("/")[0], has_index)
    return found


def _named(root: str) -> list[Shard]:
    """The shards that braces stand for; nothing is asked of them yet."""
    parts = _RANGE.split(root)
    ranges = [_count(first, last, root) for first, last in zip(parts[1::3], parts[2::3], strict=True)]
    if prod(map(len, ranges)) > _MOST_SHARDS:
        raise ValueError(f"{root}: stands for more than {_MOST_SHARDS:,} shards")
    named = []
    for numbers in product(*ranges):
        place = "".join(text for pair in zip(parts[::3], (*numbers, ""), strict=True) for text in pair)
        is_url = remote.as_url(place) is not None
        named.append(Shard(place if is_url else Path(place), 0, "", place.rpartition("/")[0].rpartition("/")[2]))
    return named


def _count(first: str, last: str, root: str) -> list[str]:
    if int(last) < int(first):
        raise ValueError(f"{root}: expected a range that counts up, found {{{first}..{last}}}")
    width = len(first) if first.startswith("0") else 0
    most = int(first) + _MOST_SHARDS
    return [str(number).zfill(width) for number in range(int(first), min(int(last), most) + 1)]


def _stat(shards: list[Shard]) -> list[Shard]:
    """Named shards with their sizes."""

    def ask(shard: Shard) -> Shard:
        if isinstance(shard.place, Path):
            if not shard.place.is_file():
                raise FileNotFoundError(f"{shard.place}: no such shard")
            return replace(_on_disk(shard.place, shard.place.parent), folder=shard.folder)
        file = remote.stat(shard.place)
        may_have_index = "?" not in shard.place  # an address that is signed is so for one file
        return replace(shard, size=file.size, version=file.version, has_index=may_have_index)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(ask, shards))


def _of_manifest(url: str, split: str | None, place: str) -> Shards:
    """The shards that a manifest on a web server names."""
    manifest = None if split is None else _read_manifest(place)
    if manifest is None:
        raise SplitNotFoundError(
            f"{url}: a web server does not list its files, and {place} is not there; name the shards, such as "
            f"{url.rstrip('/')}/shard-{{00000..00012}}.tar, or put the manifest of `fiber-data pack` beside them"
        )
    try:
        rows = [(each["name"], int(each["num_bytes"]), each["sha256"][:16]) for each in manifest["shards"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{place}: expected what `fiber-data pack` writes ({type(error).__name__}: {error})"
        ) from error
    base = url.rstrip("/")
    if rows:
        remote.stat(f"{base}/{rows[0][0]}")  # whether it sends parts of files, before the first image is asked for
    return Shards([Shard(f"{base}/{name}", size, sha, "", True) for name, size, sha in rows], False, manifest, place)


def _read_manifest(place: str) -> Mapping[str, Any] | None:
    try:
        if remote.as_url(place) is None:
            note_file(Path(place))
        content = remote.read_all(place) if remote.as_url(place) else Path(place).read_bytes()
        found = json.loads(content)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: expected what `fiber-data pack` writes ({error})") from error
    return found if isinstance(found, dict) else None


def in_order(shards: list[Shard], read: Callable[[Shard], Result]) -> Iterator[Result]:
    """What a function gives for each shard, those of servers some at a time ahead."""
    if not shards or isinstance(shards[0].place, Path):
        yield from map(read, shards)
        return
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        waiting = deque(pool.submit(read, shard) for shard in shards[:CONNECTIONS])
        try:
            for following in [*shards[CONNECTIONS:], *[None] * min(len(shards), CONNECTIONS)]:
                yield waiting.popleft().result()
                if following is not None:
                    waiting.append(pool.submit(read, following))
        finally:
            for each in waiting:
                each.cancel()
