"""Several views of each image, at other sizes and mirrored: what evaluations find in each, as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from fiber_data import mentions_side
from fiber_heads.grounding.config import DetectionSettings, Merging
from fiber_heads.grounding.postprocess import merge_views, mirror_boxes

from fiber_train.tasks.grounding.settings import GroundingSettings


@dataclass(frozen=True)
class View:
    """How an image is shown to the model.

    Attributes:
        shorter: Pixels of its shorter side.
        longest: Bound of the longer one.
        mirrored: Whether it is flipped from left to right.
    """

    shorter: int
    longest: int
    mirrored: bool = False


Batches = Callable[[Callable[..., Any], View], Iterable[dict[str, Any]]]
Find = Callable[[dict[str, Any]], list[dict[str, Any]]]


def views_of(settings: GroundingSettings, shorter: int, longest: int) -> list[View]:
    """The views that settings ask for.

    Args:
        settings: See `TestTime`.
        shorter: Of the one view without them; `longest` grows with other sizes.
        longest: As there.
    """
    asked = settings.test_time
    plain = [View(side, round(longest * side / shorter)) for side in asked.shorter or [shorter]]
    return [*plain, *(View(view.shorter, view.longest, True) for view in plain if asked.mirrored)]


@dataclass
class Looker:
    """Asks a model about images in all their views.

    Attributes:
        batches: Gives the evaluation batches of the data set that is made with the options of a view, as keywords.
        views: One at least, the first as images are.
        merging: See `TestTime`.
    """

    batches: Batches
    views: list[View]
    merging: str = "nms"

    def __call__(
        self,
        make: Callable[..., Any],
        find: Find,
        settings: DetectionSettings,
        *,
        words: str | None = None,
        limit_together: bool = True,
    ) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Batches of images, those of the first view, with what was found of each.

        Args:
            make: Makes the data set, with a transform and the options of images.
            find: Gives what a model finds in a batch: boxes in pixels of the images as they came.
            settings: By which boxes of several views are merged.
            words: What is asked of all images, where it is not their own text.
            limit_together: Whether the most detections hold for all views, and prompts, together.
        """
        first, *others = self.views
        most = settings.max_detections if limit_together else None
        seen: dict[tuple[View, Any], dict[str, Any]] = {}  # a sample that fills up a batch too counts once
        for view in others:
            for batch in self.batches(make, view):
                own = self._back(find(batch), batch, view, words)
                seen |= {(view, name): each for name, each in zip(batch["ids"], own, strict=True) if each}
        for batch in self.batches(make, first):
            results = find(batch)
            if others:
                of_images = [
                    [result, *(seen[view, name] for view in others if (view, name) in seen)]
                    for name, result in zip(batch["ids"], results, strict=True)
                ]
                merging = cast(Merging, self.merging)
                results = [merge_views(each, settings, merging, most) for each in of_images]
            yield batch, results

    def _back(
        self, results: list[dict[str, Any]], batch: Mapping[str, Any], view: View, words: str | None
    ) -> list[dict[str, Any] | None]:
        """Results of a view on the images as they came; None where a side was asked for in a mirrored one."""
        if not view.mirrored:
            return list(results)
        texts = batch["texts"] if words is None else [words] * len(results)
        widths = batch["original_sizes"][:, 1].tolist()
        return [
            None if mentions_side(text) else {**result, "boxes": mirror_boxes(result["boxes"], width)}
            for result, text, width in zip(results, texts, widths, strict=True)
        ]
