"""Images with what is said of them in tar shards, read where they lie: WebDataset's layout.

The files of a sample follow each other and have one name up to the first dot: ``00012.jpg``, ``00012.json``,
``00012.txt``. Of tars that img2dataset and others wrote, captions are those of the JSON object (``captions`` with
several, or ``caption`` or ``text`` with one), else the text of the ``.txt``. Of those that `fiber_data.pack` wrote,
samples are what was packed: captions, questions, statements, boxes. A sample without an image, as img2dataset leaves of
a dead link, is left out and counted.

Shards of a split lie in its own folder (``train/*.tar``) or are called by it (``train-00000.tar``). Where none is, a
share of the images is held out as ``val``, by a rule that depends on their ids alone. Nothing is unpacked: a sample's
image is a `ShardImage`, which is read from its place in the shard when it is asked for. Roots may be URLs, see
`fiber_data.formats.shard_places`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fiber_data import remote
from fiber_data.formats.detection import DetectionData
from fiber_data.formats.faults import BadEntries, Fault, Faults, Samples
from fiber_data.formats.files import SplitFile
from fiber_data.formats.held_out import USUAL_SHARE, held_out_ids, image_id, note_held_out
from fiber_data.formats.ids import Id, read_id
from fiber_data.formats.samples import keep_captions
from fiber_data.formats.shard_index import CAPTION_KEYS, IMAGES, Entry, Shard, ShardImage, read_entries
from fiber_data.formats.shard_places import VAL, Shards, find_shards, has_tar_shards, in_order, local_splits
from fiber_data.formats.shard_records import from_record
from fiber_data.formats.streams import Spool

__all__ = [
    "ShardImage",
    "ShardSamples",
    "find_tar_shards",
    "has_tar_shards",
    "iterate_tar_shards",
    "read_tar_shards",
    "shard_blocks",
]
_PATIENCE = 5.0  # seconds before a bar is shown


class ShardSamples(Samples[Any]):
    """The samples of shards, in the order of these.

    Args:
        samples: The samples.
        faults: What is wrong with the shards.
    """

    def __init__(self, samples: Iterable[Any] = (), faults: Iterable[Fault] = ()) -> None:
        super().__init__(samples, faults)
        self.blocks = shard_blocks(self)
        """How many samples each shard has, in order."""
        self.is_remote = bool(self) and isinstance(_shard_of(self[0]), str)
        """Whether the shards are behind URLs."""


def read_tar_shards(
    root: str | Path,
    split: str | None = None,
    *,
    check_images: bool = True,
    bad_entries: BadEntries = None,
    hold_out: float | None = None,
) -> Any:
    """Reads the samples of all shards of a split.

    Args:
        root: Folder of the shards, or of folders of them by split; or a URL, see
            `fiber_data.formats.shard_places.find_shards`.
        split: ``"train"``, ``"val"`` or what the shards are called by, several joined by ``+``; None is all shards.
        check_images: Whether to leave out, counted, samples without an image or caption.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        hold_out: About which share of the images is ``"val"`` where no shard has a split, by default a tenth.

    Returns:
        `ShardSamples` in the order of the shards and of their files, as of the reader that they were packed from. Of
        images with captions ``id`` is that of their JSON, else ``shard/name``. Of boxes by category
        `fiber_data.DetectionData`, with such samples.

    Raises:
        FileNotFoundError: There is no such folder, or none of the samples has an image.
        SplitNotFoundError: There are no shards, or none of the split.
        OSError: A remote shard cannot be read, see `fiber_data.remote.read_range`.
        ValueError: A shard is cut off, compressed or no tar, a JSON is none, a caption is no text, an id occurs twice,
            or boxes have categories without a manifest that names them.
    """
    found = find_shards(root, split)
    faults = Faults(_source(root), bad_entries is None)
    samples = ShardSamples(_read(found, split, faults, check_images, hold_out), faults)
    faults.warn()
    return samples if not samples or "labels" not in samples[0] else _with_categories(samples, found)


def iterate_tar_shards(
    root: str | Path,
    split: str | None,
    faults: Faults,
    *,
    check_images: bool = True,
    hold_out: float | None = None,
) -> Iterator[Any]:
    """The samples that `read_tar_shards` gives, one after the other.

    Args:
        root: As there, like `split`, `check_images` and `hold_out`.
        split: As there.
        faults: Counts what is mended or left out, and says whether what is out of format ends the reading.
        check_images: As there.
        hold_out: As there; where it has to be done, all samples are read, to a file, before the first is given.

    Raises:
        OSError: As there, like ValueError.
    """
    faults.source = _source(root)
    yield from _read(find_shards(root, split), split, faults, check_images, hold_out)


def find_tar_shards(root: Path) -> list[SplitFile]:
    """The splits of shards that a folder holds; each is read together."""
    splits = local_splits(root)
    if not splits:
        return [SplitFile(root, None)] if has_tar_shards(root) else []
    return [SplitFile(root, split) for split in splits]


def shard_blocks(samples: Iterable[Mapping[str, Any]]) -> list[int]:
    """How many samples in a row have their image in one shard, for each such row.

    Args:
        samples: Of `read_tar_shards`, or some of them.
    """
    return [len(list(block)) for _, block in groupby(map(_shard_of, samples))]


def _shard_of(sample: Mapping[str, Any]) -> Any:
    image = sample["images"][0] if "images" in sample else sample["image"]
    return image.shard if isinstance(image, ShardImage) else None


def _source(root: str | Path) -> Any:
    """What messages call the shards: a path, or a URL as text."""
    return remote.as_url(root) or Path(root)


def _read(
    found: Shards, split: str | None, faults: Faults, check_images: bool, hold_out: float | None
) -> Iterator[dict[str, Any]]:
    """The samples of a split, which is a share of all where shards have none."""
    samples = _samples(found, faults, check_images)
    share = USUAL_SHARE if hold_out is None else hold_out
    is_share = found.is_shared and split is not None and share > 0
    number = 0
    for sample in _take_share(samples, share, split == VAL, faults) if is_share else samples:
        number += 1
        yield sample
    if check_images and not number and not faults.refused:
        raise FileNotFoundError(f"{faults.source}: none of the samples of its {len(found.shards)} shards has an image")


def _take_share(
    samples: Iterable[dict[str, Any]], share: float, held: bool, faults: Faults
) -> Iterator[dict[str, Any]]:
    """Those of the images that are held out, or of all others."""
    kept: Spool[dict[str, Any]] = Spool()
    images = []
    for sample in samples:
        kept.append(sample)
        images.append(image_id(sample))
    chosen = held_out_ids(images, share)
    note_held_out(faults, len(images), "samples", sum(each in chosen for each in images), "shard")
    return (sample for sample in kept if (image_id(sample) in chosen) == held)


def _with_categories(samples: ShardSamples, found: Shards) -> DetectionData:
    """Boxes with the categories that their manifest names."""
    settings = (found.manifest or {}).get("settings")
    given = settings.get("categories") if isinstance(settings, dict) else None
    try:
        categories = {int(number): str(name) for number, name in given.items()}  # type: ignore[union-attr]
        frequencies = {int(number): str(name) for number, name in (settings.get("frequencies") or {}).items()}  # type: ignore[union-attr]
    except (AttributeError, ValueError) as error:
        raise ValueError(
            f"{found.manifest_place or 'manifest'}: expected the names of the categories of the boxes, as `fiber-data "
            "pack` writes them; keep this file beside the shards, and name their folder"
        ) from error
    if unknown := {label for sample in samples for label in sample["labels"]} - categories.keys():
        raise ValueError(f"{found.manifest_place}: names no category {min(unknown)}, which boxes have; pack again")
    return DetectionData(samples, categories, frequencies, Path(found.manifest_place), samples.faults)


def _samples(found: Shards, faults: Faults, check: bool) -> Iterator[Any]:
    seen: set[Id] = set()
    shards = tqdm(
        in_order(found.shards, _load), total=len(found.shards), desc="opening shards", delay=_PATIENCE, disable=None
    )
    for shard, entries, error in shards:
        for entry in entries:
            with faults:
                yield from _read_entry(shard, entry, seen, faults, check)
        with faults:
            if error is not None:
                raise error


def _load(shard: Shard) -> tuple[Shard, list[Entry], ValueError | None]:
    """The entries of a shard, as far as it can be read."""
    entries: list[Entry] = []
    try:
        for entry in read_entries(shard):
            entries.append(entry)  # noqa: PERF402 - those before the fault are kept
    except ValueError as error:
        return shard, entries, error
    return shard, entries, None


def _read_entry(shard: Shard, entry: Entry, seen: set[Id], faults: Faults, check: bool) -> list[dict[str, Any]]:
    """The samples of one image, or of the same images, if all is there."""
    where = f"{shard.place}: {entry.key}"
    if entry.error:
        raise ValueError(f"{where}: {entry.error}")
    several = from_record(entry.record, where)
    images = _images(shard, entry, entry.record.get(IMAGES) if several else None)
    if images is None:
        faults.note("the samples", "have no image", where, outcome="these are left out")
        return []
    samples = several or _captioned(shard, entry, where, faults)
    if check and any(not sample.get("captions", True) for sample in samples):
        faults.note("the samples", "have no caption", where, outcome="these are left out")
        return []
    for sample in samples:
        sample["id"] = read_id(sample["id"], "id", where, seen)
        seen.add(sample["id"])
    return [{**images, **sample} for sample in samples]


def _captioned(shard: Shard, entry: Entry, where: str, faults: Faults) -> list[dict[str, Any]]:
    record = entry.record
    given: Any = next((record[name] for name in CAPTION_KEYS if record.get(name) is not None), [])
    captions = keep_captions([(where, text) for text in (given if isinstance(given, list) else [given])], faults)
    name = entry.key.rpartition("/")[2]
    sample = {"captions": captions, "id": record.get("id", f"{shard.stem}/{name}")}
    return [{**sample, "split": record["split"]}] if isinstance(record.get("split"), str) else [sample]


def _images(shard: Shard, entry: Entry, endings: Any) -> dict[str, Any] | None:
    """The image of a sample; or its images, in the order of the endings that a packed record names."""
    version = "" if isinstance(shard.place, Path) else shard.version
    by_ending = {
        name.removeprefix(f"{entry.key}."): ShardImage(shard.place, name, offset, size, version)
        for name, offset, size in entry.images
    }
    if endings is None:
        return {"image": next(iter(by_ending.values()))} if by_ending else None
    is_whole = isinstance(endings, list) and endings and all(str(each) in by_ending for each in endings)
    return {"images": tuple(by_ending[str(each)] for each in endings)} if is_whole else None
