"""Images with captions in tar shards, read where they lie: WebDataset's layout, as img2dataset and others write it.

The files of a sample follow each other and have one name up to the first dot: ``00012.jpg``, ``00012.json``,
``00012.txt``. Captions are those of the JSON object (``captions`` with several, or ``caption`` or ``text`` with one),
else the text of the ``.txt``. A sample without an image, as img2dataset leaves of a dead link, is left out and counted.

Shards of a split lie in its own folder (``train/*.tar``) or are called by it (``train-00000.tar``). Where none is, a
share of the images is held out as ``val``, by a rule that depends on their ids alone. Nothing is unpacked: a sample's
image is a `ShardImage`, which is read from its place in the shard when it is asked for.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import SplitFile, check_folder
from fiber_data.formats.held_out import USUAL_SHARE, held_out_ids
from fiber_data.formats.ids import Id, read_id
from fiber_data.formats.samples import CaptionSample, SplitNotFoundError, keep_captions, list_some, parse_line
from fiber_data.formats.sources import glob, note_file
from fiber_data.formats.streams import Spool, collect, iterated_by

_CAPTION_KEYS = ("captions", "caption", "text")
_SPLIT = re.compile(r"(?P<split>[^\W\d_]\w*?)-\d+\.tar")
_MOST_TEXT = 2**24  # bytes of a sample's JSON or text
_TRAIN, _VAL = "train", "val"
_PATTERNS = ("*.tar", "*/*.tar")


@dataclass(frozen=True)
class ShardImage:
    """An image file inside of a tar shard; `fiber_data.load_image` takes it as a file object.

    Attributes:
        shard: The tar file.
        member: Name of the image in it.
        offset: Where its bytes begin.
        size: How many they are.
    """

    shard: Path
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.shard}: {self.member}"

    def read(self, _size: int = -1, /) -> bytes:
        """The whole file.

        Raises:
            OSError: The shard is gone, or has become shorter.
        """
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) != self.size:
            raise OSError(f"{self.shard} ends inside of {self.member}; copy the shard again")
        return content


def iterate_tar_shards(
    root: str | Path,
    split: str | None,
    faults: Faults,
    *,
    check_images: bool = True,
    hold_out: float | None = None,
) -> Iterator[CaptionSample]:
    """The samples of `read_tar_shards` one by one, see `fiber_data.formats.streams`."""
    folder = faults.source = Path(root)
    shards, is_shared = _find_shards(folder, split)
    samples = _read_shards(folder, shards, faults, check_images)
    if is_shared and split is not None and (share := USUAL_SHARE if hold_out is None else hold_out) > 0:
        samples = _take_share(samples, share, split == _VAL, faults)
    yield from samples


@iterated_by(iterate_tar_shards)
def read_tar_shards(
    root: str | Path,
    split: str | None = None,
    *,
    check_images: bool = True,
    bad_entries: BadEntries = None,
    hold_out: float | None = None,
) -> Samples[CaptionSample]:
    """Reads the samples of all shards of a split.

    Args:
        root: Folder of the shards, or of folders of them by split.
        split: ``"train"``, ``"val"`` or what the shards are called by; None is all shards.
        check_images: Whether to leave out, counted, samples without an image or caption.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        hold_out: About which share of the images is ``"val"`` where no shard has a split, by default a tenth.

    Returns:
        A sample for each image, in the order of the shards and of their files; ``id`` is that of its JSON, else
        ``shard/name``.

    Raises:
        FileNotFoundError: There is no such folder, or none of the samples has an image.
        SplitNotFoundError: There are no shards, or none of the split.
        ValueError: A shard is cut off or no tar, a JSON is none, a caption is no text, or an id occurs twice.
    """
    faults = Faults(Path(root), bad_entries is None)
    return collect(iterate_tar_shards(root, split, faults, check_images=check_images, hold_out=hold_out), faults)


def find_tar_shards(root: Path) -> list[SplitFile]:
    """The splits of shards that a folder holds; each is read together."""
    splits = sorted(_by_split(root))
    if not splits:
        return [SplitFile(root, None)] if has_tar_shards(root) else []
    return [SplitFile(root, split) for split in splits]


def has_tar_shards(root: Path) -> bool:
    """Whether a folder, or one in it, holds a tar."""
    return any(True for pattern in _PATTERNS for _ in glob(root, pattern))


def _read_shards(folder: Path, shards: list[Path], faults: Faults, check: bool) -> Iterator[CaptionSample]:
    seen: set[Id] = set()
    for shard in shards:
        with faults:
            for key, members in groupby(_members(shard), key=lambda member: member.name.partition(".")[0]):
                found: list[CaptionSample] = []
                with faults:
                    found = _read_sample(shard, key, list(members), seen, faults, check)
                yield from found
    if check and not seen and not faults.refused:
        raise FileNotFoundError(f"{folder}: none of the samples of its {len(shards)} shards has image and caption")


def _take_share(samples: Iterator[CaptionSample], share: float, held: bool, faults: Faults) -> Iterator[CaptionSample]:
    """Those that are held out, or all others."""
    kept: Spool[CaptionSample] = Spool()
    ids = []
    for sample in samples:
        kept.append(sample)
        ids.append(sample["id"])
    chosen = held_out_ids(ids, share)
    what = f"are held out as {_VAL!r}, by a rule that depends on ids alone, for no shard has a split"
    faults.note(f"{len(ids)} images", what, count=len(chosen))
    return (sample for sample in kept if (sample["id"] in chosen) == held)


def _find_shards(root: Path, split: str | None) -> tuple[list[Path], bool]:
    """The shards of a split, and whether they are those of all splits together."""
    check_folder(root)
    splits = _by_split(root)
    if split in splits:
        return splits[split], False
    shards = glob(root, "*.tar" if split is not None else "**/*.tar")
    if not shards or (splits and split is not None) or split not in (None, _TRAIN, _VAL):
        there = f"shards of {list_some(splits)}" if splits else f"{len(shards)} shards without a split in their names"
        raise SplitNotFoundError(
            f"{root}: no shards of split {split!r}; expected {split}/*.tar or {split}-00000.tar and so on; there are "
            f"{there}"
        )
    return shards, True


def _by_split(root: Path) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    for path in glob(root, _PATTERNS[0]):
        if named := _SPLIT.fullmatch(path.name):
            splits.setdefault(named["split"], []).append(path)
    for path in glob(root, _PATTERNS[1]):
        splits.setdefault(path.parent.name, []).append(path)
    return splits


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
    """The files of a shard, without their contents."""
    note_file(shard)
    end = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all that went by
                if member.isreg():
                    if member.offset_data + member.size > end:
                        raise ValueError(f"{shard}: ends inside of {member.name}; copy the shard again")
                    yield member
            with shard.open("rb") as file:  # at a damaged header tarfile only stops
                file.seek(tar.offset)
                if any(file.read(tarfile.BLOCKSIZE)):
                    raise ValueError(f"{shard}: damaged at byte {tar.offset:,}; copy the shard again")
    except tarfile.TarError as error:
        raise ValueError(f"{shard}: expected a tar without compression, found a damaged one ({error})") from error


def _read_sample(
    shard: Path, key: str, members: list[tarfile.TarInfo], seen: set[Id], faults: Faults, check: bool
) -> list[CaptionSample]:
    """The sample of files of one name, if it is whole."""
    from fiber_data.suffixes import image_suffixes

    where = f"{shard}: {key}"
    by_ending = {f".{member.name.rpartition('.')[2].lower()}": member for member in members}
    record = _record(shard, where, by_ending)
    found = next((by_ending[ending] for ending in by_ending if ending in image_suffixes()), None)
    if found is None:
        faults.note("the samples", "have no image", where, outcome="these are left out")
        return []
    given: Any = next((record[name] for name in _CAPTION_KEYS if record.get(name) is not None), [])
    captions = keep_captions([(where, text) for text in (given if isinstance(given, list) else [given])], faults)
    if check and not captions:
        faults.note("the samples", "have no caption", where, outcome="these are left out")
        return []
    own = record.get("id")
    number = read_id(f"{shard.stem}/{key}" if own is None else own, "id", where, seen)
    seen.add(number)
    image = ShardImage(shard, found.name, found.offset_data, found.size)
    return [{"image": image, "captions": captions, "id": number}]


def _record(shard: Path, where: str, by_ending: dict[str, tarfile.TarInfo]) -> dict[str, Any]:
    """The JSON object of a sample, with the text beside it where it has no caption."""
    texts = {}
    for ending in (".json", ".txt"):
        if (member := by_ending.get(ending)) is not None:
            if member.size > _MOST_TEXT:
                raise ValueError(f"{where}: {member.name} has {member.size:,} bytes; expected at most {_MOST_TEXT:,}")
            content = ShardImage(shard, member.name, member.offset_data, member.size).read()
            try:
                texts[ending] = content.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: expected {member.name} in UTF-8 ({error.reason})") from error
    record = parse_line(texts[".json"], where) if ".json" in texts else {}
    if ".txt" in texts and all(record.get(name) is None for name in _CAPTION_KEYS):
        record["caption"] = texts[".txt"]
    return record


def to_json(sample: CaptionSample) -> str:
    """What a shard holds of a sample beside its image."""
    return json.dumps({"id": sample["id"], "captions": sample["captions"]}, ensure_ascii=False)
