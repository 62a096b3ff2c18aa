"""What was packed into the shards of a split: ``<split>.manifest.json``, with the SHA-256 of every shard."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PackedShard:
    """One shard of a manifest.

    Attributes:
        name: Its file.
        num_images: Images in it.
        num_samples: Samples in it.
        num_bytes: Its size.
        sha256: Of the whole file.
        left_out: What could not be decoded, each with the reason.
    """

    name: str
    num_images: int
    num_samples: int
    num_bytes: int
    sha256: str
    left_out: list[str] = field(default_factory=list)


def read_manifest(path: Path, settings: dict[str, Any] | None) -> dict[str, PackedShard]:
    """The shards by name; none without a file.

    Args:
        path: The manifest.
        settings: What it must have been packed with; None is anything.

    Raises:
        ValueError: It is no manifest, or one of other settings.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = dict(content["settings"])
        shards = {each["name"]: _shard(each) for each in content["shards"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected what `fiber-data pack` writes ({type(error).__name__}: {error})") from error
    if settings is not None and found != settings:
        differing = ", ".join(name for name in settings if found.get(name) != settings[name])
        raise ValueError(f"{path}: the folder holds shards of other {differing}; choose another folder, or delete them")
    return shards


def write_manifest(path: Path, settings: dict[str, Any], shards: dict[str, PackedShard]) -> None:
    """Writes it beside its name first."""
    content = {"settings": settings, "shards": [asdict(shards[name]) for name in sorted(shards)]}
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _shard(row: dict[str, Any]) -> PackedShard:
    """A row; those of the first format count captions, and have a sample for each image."""
    count = row.get("num_samples", row["num_images"])
    return PackedShard(
        row["name"], row["num_images"], count, row["num_bytes"], row["sha256"], row.get("left_out") or []
    )
