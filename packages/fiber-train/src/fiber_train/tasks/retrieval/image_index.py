"""Features of images that were encoded once, kept in a folder and searched by texts in milliseconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from fiber_data.urls import is_url
from fiber_heads import Match, Results
from fiber_heads.search import SearchModel
from torch import Tensor

from fiber_train.inputs import encode_inputs
from fiber_train.tasks.retrieval.folder import as_files, rank_images
from fiber_train.writing import replace_folder

FEATURES_FILE, INDEX_FILE = "features.npy", "index.json"


@dataclass
class ImageIndex:
    """Images by name with their features.

    Attributes:
        names: Paths and addresses (N).
        stamps: Size in bytes and time in nanoseconds of each file as it was; None for addresses.
        features: (N, D) float32, unit vectors.
        model: Which weights the features are of, see `fingerprint`.
    """

    names: list[str]
    stamps: list[tuple[int, int] | None]
    features: Tensor
    model: str

    def save(self, folder: Path) -> None:
        """Writes or replaces a folder.

        Raises:
            FileExistsError: There is a folder of somebody else's.
            WriteError: It cannot be written.
        """
        content = {"model": self.model, "names": self.names, "stamps": self.stamps}

        def write(target: Path) -> None:
            np.save(target / FEATURES_FILE, self.features.numpy())
            (target / INDEX_FILE).write_text(json.dumps(content), encoding="utf-8")

        replace_folder(folder, write, "index")

    @classmethod
    def load(cls, folder: Path) -> ImageIndex:
        """What `save` wrote.

        Raises:
            FileNotFoundError: There is no index.
            ValueError: It is damaged.
        """
        path = folder / INDEX_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is no index of images; make one with fiber index PHOTOS --out {folder}")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            stamps = [None if each is None else (each[0], each[1]) for each in content["stamps"]]
            features = torch.from_numpy(np.load(folder / FEATURES_FILE, allow_pickle=False))
            made = cls(content["names"], stamps, features, content["model"])
            if features.shape[0] != len(made.names) or len(stamps) != len(made.names):
                raise ValueError(f"{len(made.names)} names for {features.shape[0]} features")
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{folder} is damaged ({error}); make the index again") from error
        return made

    @cached_property
    def images(self) -> list[str | Path]:
        """Paths, and addresses as text."""
        return as_files(self.names)

    def search(
        self, model: SearchModel, query: str, *, top: int = 5, rerank: int = 0, batch_size: int = 32
    ) -> Results[Match]:
        """The images that fit a text best; see `rank_images`. Only what is re-ranked is read again.

        Raises:
            ValueError: The query is empty, or the features are of other weights.
        """
        if (own := fingerprint(model)) != self.model:
            raise ValueError(
                f"the index is of another model ({self.model}, not {own}); make it again with this one, or give the "
                "checkpoint that it was made with"
            )
        return rank_images(model, self.images, self.features, query, top=top, rerank=rerank, batch_size=batch_size)


def make_index(
    model: SearchModel, names: Sequence[str], old: ImageIndex | None = None, batch_size: int = 32
) -> ImageIndex:
    """An index of images; those of an old one that are as they were are not encoded again.

    Args:
        model: With a contrastive head.
        names: Paths and addresses; what cannot be read is named on standard error and left out.
        old: An earlier index; without effect if it is of other weights.
        batch_size: Images encoded at a time.

    Raises:
        ValueError: No image can be read.
    """
    own = fingerprint(model)
    rows: dict[str, int] = {}
    if old is not None and old.model == own:
        stamps = {name: (row, old.stamps[row]) for row, name in enumerate(old.names) if old.stamps[row]}
        rows = {name: stamps[name][0] for name in names if name in stamps and stamps[name][1] == _stamp(name)}
    kept = [name for name in names if name in rows]
    fresh = [name for name in names if name not in rows]
    found, features = encode_inputs(model, fresh, batch_size) if fresh else ([], None)
    parts = [] if features is None else [features]
    if kept and old is not None:
        parts.insert(0, old.features[[rows[name] for name in kept]])
    found = [*kept, *found]
    return ImageIndex(found, [_stamp(name) for name in found], torch.cat(parts), own)


def fingerprint(model: SearchModel) -> str:
    """Short name of a model's weights: the checksum of those that make features out of states.

    Raises:
        ValueError: The model has no such weights.
    """
    if model.contrastive_head is None:
        raise ValueError("this model was built without the 'itc' objective; it has no features to search by")
    digest = hashlib.sha256()
    for name, tensor in sorted(model.contrastive_head.state_dict().items()):
        if tensor.is_floating_point() and "queue" not in name:
            digest.update(name.encode() + tensor.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _stamp(name: str) -> tuple[int, int] | None:
    if is_url(name):
        return None
    about = Path(name).stat()
    return about.st_size, about.st_mtime_ns
