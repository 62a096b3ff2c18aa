"""The settings of the fine stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from fiber_backbone.ranges import Ranged, ranged
from fiber_data import PromptConfig
from fiber_heads import DetectionSettings, GroundingConfig
from fiber_heads.grounding.config import Merging

from fiber_train.config import LARGEST, TaskSettings


@dataclass
class BoxFiles:
    """Which annotation files of `data.root` boxes come from."""

    detection: bool = False
    """Boxes by category: COCO, LVIS, Objects365, ODinW; measured by COCO's AP, of LVIS by its fixed AP."""
    captions: list[str] = field(default_factory=list)
    """Names of MDETR's files of captions, `final_<name>_<split>.json`, such as mixed; measured by recall of phrases."""
    expressions: list[str] = field(default_factory=list)
    """Names of its files of expressions, `finetune_<name>_<split>.json`, such as refcoco+; measured by accuracy."""


@dataclass
class TestTime(Ranged):
    """Several views of each image in evaluations, whose boxes are merged."""

    __test__ = False  # for pytest

    shorter: list[int] = ranged([], least=2, most=LARGEST)
    """Pixels of the shorter side, a view for each; without any `shorter_in_evaluation`. `longest` goes with it."""
    mirrored: bool = False
    """Whether each view is also shown to the model mirrored, but where words name a side."""
    merging: str = "nms"
    """How boxes of several views become one: "nms", the best of each thing, or "vote", their mean by score."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.merging not in get_args(Merging):
            raise ValueError(f"merging must be 'nms' or 'vote', is {self.merging!r:.80}")


@dataclass
class GroundingSettings(TaskSettings):
    """Grounding and detection, the fine stage."""

    train: BoxFiles = field(default_factory=BoxFiles)
    evaluate: BoxFiles = field(default_factory=BoxFiles)
    model: GroundingConfig = field(default_factory=GroundingConfig)
    """The head; the run fills in its strides and the length of texts."""
    original: bool = False
    """Whether the head computes as the original does, which the original's own detectors need."""
    prompts: PromptConfig = field(default_factory=PromptConfig)
    """How categories are put into prompts for training."""
    wording: dict[str, str] = field(default_factory=dict)
    """Other words for a category, its name in braces: `{pothole: "there are {holes} in the road"}`."""
    chunk_size: int | None = ranged(None, least=1)
    """Categories that an evaluation asks for at once; as many as fit by default."""
    detection: DetectionSettings = field(default_factory=DetectionSettings)
    """How evaluations of categories and phrases choose boxes, with several prompts those of each prompt.

    Expressions take the best box anyway."""
    shots: int | None = ranged(None, least=1)
    """Few-shot: learn from so many images of each category; which ones, `trainer.seed` decides."""
    copies: int | None = ranged(None, least=1)
    """Few-shot: how often an epoch passes those images; by default 8, 4, 2 and 1 times with 1, 3, 5 and 10 shots."""
    entities: str | None = None
    """Flickr30k Entities' own folder (Annotations, Sentences): recall then comes by types of phrases too."""
    shorter: list[int] = ranged([480, 560, 640, 720, 800], least=2, most=LARGEST)
    """Pixels of a training image's shorter side, of which one is drawn."""
    longest: int = ranged(1333, least=2, most=LARGEST)
    """Bound of the longer side."""
    shorter_in_evaluation: int = ranged(800, least=2, most=LARGEST)
    test_time: TestTime = field(default_factory=TestTime)
    """Multi-scale and mirrored evaluation; by default one view."""
    evaluation_batch_size: int = ranged(8, least=1)
    """Images evaluated together in evaluations, in each process."""
    flip: float = ranged(0.5, least=0, most=1)
    """Chance of a mirrored image; never where the text names a side."""
    empty_expressions: bool = False
    """Whether an evaluation also asks with empty expressions: what is right without reading."""
