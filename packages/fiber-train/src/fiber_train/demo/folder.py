"""The images that the page begins with, and that it searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fiber_data import BrokenImageError, load_image
from fiber_heads import Match, Results
from torch import Tensor

from fiber_train.examples import spread
from fiber_train.inputs import find_images
from fiber_train.stopping import say
from fiber_train.tasks.retrieval.folder import rank_images

_MOST = 1000  # images to search: at base size, begun, 1.1 GiB
_GENERATED = 24
_RERANKED = 16


@dataclass
class Folder:
    """Images, begun by each model that searches when it is first asked to.

    Attributes:
        paths: The files.
    """

    paths: list[Path]
    _searched: dict[int, tuple[Any, Tensor | None]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | None, scratch: Path) -> Folder:
        """The images of a folder that can be read; without a folder, generated scenes.

        Raises:
            FileNotFoundError: There is no such folder, or no image in it.
            ValueError: None of them can be read.
        """
        if folder is None:
            from fiber_data.scenes import generate_scenes

            made = generate_scenes(scratch / "scenes", {"val": _GENERATED}, progress=False)
            return cls(find_images(made / "images" / "val"))
        every = find_images(folder)
        # a link may lead anywhere, and whatever is found is shown
        found = [path for path in every if path.resolve().is_relative_to(folder.resolve())]
        good = []
        if len(found) < len(every):
            say(f"{folder}: {len(every) - len(found):,} links lead out of the folder; left out")
        if len(found) > _MOST:
            say(f"{folder} holds {len(found):,} images; the page searches {_MOST:,} of them, spread evenly")
        for path in spread(found, _MOST):
            try:
                load_image(path)
            except BrokenImageError as error:
                say(f"{error}; left out")
            else:
                good.append(path)
        if not good:
            raise ValueError(f"none of the {len(found)} images of {folder} can be read")
        return cls(good)

    def examples(self, number: int = 8) -> list[Path]:
        """A few, spread evenly."""
        return spread(self.paths, number)

    def search(self, model: Any, query: str, number: int = 6) -> Results[Match]:
        """The images that fit a text best, by all that a model has, with cosines or the matcher's logits."""
        begun, features = self._begun(model)
        rerank = 0 if model.matching_head is None else _RERANKED
        return rank_images(model, self.paths, features, query, top=number, rerank=rerank, begin=begun.__getitem__)

    def _begun(self, model: Any) -> tuple[Any, Tensor | None]:
        if id(model) not in self._searched:
            images: Sequence[Any] = [load_image(path) for path in self.paths]
            states = model.begin_images(images, keep_on="cpu")
            features = None if model.contrastive_head is None else model.image_features(states).float().cpu()
            self._searched[id(model)] = states, features
        return self._searched[id(model)]
