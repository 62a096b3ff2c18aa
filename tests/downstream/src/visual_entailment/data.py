"""The files of visual entailment, and their samples as a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from fiber_data import SeededDataset
from fiber_data.formats import keep_on_disk, read_json_lines, require


class EntailmentSample(TypedDict):
    """A hypothesis about an image; `label` is missing where it is to be found out."""

    image: Path
    hypothesis: str
    id: str
    label: NotRequired[str]


def read_entailment(root: str | Path, split: str, *, check_images: bool = True) -> list[EntailmentSample]:
    """Reads one split of `entailment.jsonl`: an object {id, image, hypothesis, label, split} a line.

    Args:
        root: Folder of `entailment.jsonl`; images are named from here.
        split: Of these lines.
        check_images: Whether to leave out, with a warning, hypotheses without their image on disk.

    Raises:
        ValueError: No line is of this split.
    """
    path = Path(root) / "entailment.jsonl"
    samples: list[EntailmentSample] = []
    for where, row in read_json_lines(path):
        if require(row, "split", where) == split:
            image, hypothesis, name = (require(row, key, where) for key in ("image", "hypothesis", "id"))
            samples.append({"image": Path(root) / image, "hypothesis": hypothesis, "id": name})
            if "label" in row:
                samples[-1]["label"] = row["label"]
    if not samples:
        raise ValueError(f"{path} has no hypothesis of split {split!r}")
    return keep_on_disk(samples, "hypotheses", path) if check_images else samples


class EntailmentDataset(SeededDataset[EntailmentSample]):
    """Hypotheses as items: `pixel_values` (3, H, W) float32, `text`, and `entailment_labels` () int64 where labeled.

    Args:
        samples: Of `read_entailment`.
        transform: As of `SeededDataset`.
        labels: All labels, in the order of the model's logits.
        seed: Seed of everything random.
    """

    def __init__(self, samples: Any, transform: Any, labels: tuple[str, ...], seed: int = 0) -> None:
        super().__init__(samples, transform, seed)
        self.labels = labels

    def make_item(self, index: int) -> dict[str, Any]:
        """The item at `index`."""
        sample = self.samples[index]
        item = self.transformed(sample["image"], {"text": sample["hypothesis"], "text_id": index})
        if "label" in sample:
            item["entailment_labels"] = torch.tensor(self.labels.index(sample["label"]))
        return {**item, "id": sample["id"], "image_id": index}
