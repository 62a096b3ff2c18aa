"""The settings of the grounding head, of its losses and habits, and of what becomes a detection."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from fiber_backbone.ranges import Ranged, ranged

Aggregation = Literal["mean", "max", "power"]
DeformablePath = Literal["auto", "operator", "plain"]
Merging = Literal["nms", "vote"]


@dataclass
class GroundingConfig(Ranged):
    """Settings of `GroundingHead`, its losses and its assignment; the defaults are those of FIBER-Base, mended.

    Args:
        channels: Width of the pyramid and of the dynamic head (C).
        num_blocks: Blocks of the dynamic head.
        norm_groups: Groups of its group norms; divides `channels`.
        strides: Pixels per cell of each level, fine to coarse; each doubles the one before.
        anchor_scale: Side of a level's square anchor over its stride.
        max_tokens: Most tokens of a text (positive maps are at most this wide).
        flat_offsets: Whether the branch of the next coarser level reads the offsets' memory as if it had the coarser
            map's size, as the original's kernel does. Weights trained with it need it: loading the original's switches
            it on. False takes every second row and column, which are the cells that a convolution of stride 2 is
            centered on.
        inclusive_boxes: Whether boxes are the original's, whose last pixel belongs to them, so that they are `x2 - x1 +
            1` wide. Boxes given and found are half-open under either; under this setting the network is taught the
            original's (`Scaling`), measures the box loss and centerness from the center of the first to that of the
            last pixel, and makes boxes beyond the image its outermost pixels. Loading the original's detectors switches
            it on.
        padding_aware: Whether an image's results are kept apart from the padding of its batch. False counts padding
            in every average, as the original does.
        no_object_column: Whether the token loss asks anchors without a box for a 1 in column `max_tokens - 1`, as the
            original does. It matters only where a text fills all positions.
        deformable: How deformable convolutions are computed: `"operator"` is torchvision's, `"plain"` is equal and made
            of ordinary PyTorch, `"auto"` takes the faster: the operator on CUDA, the plain path elsewhere.
        prompt_vectors: Whether every position of a text has a learned vector, zero at first, that is added to the fused
            text: GLIP's prompt tuning, for which all else is frozen.
        drop_block: Share of the cells that DropBlock drops from the inputs of the two finest levels, in training.
        drop_block_size: Side of a dropped block in cells, odd.
        prior: Probability of a token at a fresh model's anchors.
        log_scale: What a fresh model divides the product of a location and a token by, as a logarithm (it is learned).
            The products of a narrow head are small; from about -2 it learns tokens far sooner.
        token_loss_weight: Weight of the token loss.
        box_loss_weight: Weight of the box loss.
        centerness_loss_weight: Weight of the centerness loss.
        focal_alpha: Weight of the positives in the focal loss, in [0, 1].
        focal_gamma: Focus of the focal loss.
        top_k: Anchors per level and box that the assignment considers.

    Raises:
        ValueError: If two settings do not fit together; the sentence names both.
    """

    channels: int = ranged(256, least=1)
    num_blocks: int = ranged(6, least=1)
    norm_groups: int = ranged(16, least=1)
    strides: tuple[int, ...] = ranged((8, 16, 32, 64, 128), least=1)
    anchor_scale: float = ranged(8.0, above=0, most=1e6)
    max_tokens: int = ranged(256, least=1)
    flat_offsets: bool = False
    inclusive_boxes: bool = False
    padding_aware: bool = True
    no_object_column: bool = False
    deformable: DeformablePath = "auto"
    prompt_vectors: bool = False
    drop_block: float = ranged(0.3, least=0, below=1)
    drop_block_size: int = ranged(3, least=1)
    prior: float = ranged(0.01, above=0, below=1)
    log_scale: float = ranged(0.0, least=-100, most=100)
    token_loss_weight: float = ranged(1.0, least=0, most=1e6)
    box_loss_weight: float = ranged(2.0, least=0, most=1e6)
    centerness_loss_weight: float = ranged(1.0, least=0, most=1e6)
    focal_alpha: float = ranged(0.25, least=0, most=1)
    focal_gamma: float = ranged(2.0, least=0, most=100)
    top_k: int = ranged(9, least=1)

    def __post_init__(self) -> None:
        self.strides = tuple(self.strides)  # lists, as JSON gives them
        super().__post_init__()
        if self.channels % self.norm_groups:
            raise ValueError(f"norm_groups ({self.norm_groups}) must divide channels ({self.channels})")
        if len(self.strides) != 5 or any(2 * a != b for a, b in zip(self.strides, self.strides[1:], strict=False)):
            raise ValueError(f"strides must be five numbers that double each time, got {self.strides}")
        if self.deformable not in get_args(DeformablePath):
            raise ValueError(f"deformable must be one of {get_args(DeformablePath)}, got {self.deformable!r}")
        if self.drop_block_size % 2 == 0:
            raise ValueError(f"drop_block_size must be odd, is {self.drop_block_size}")

    @classmethod
    def as_original(cls, **overrides: Any) -> GroundingConfig:
        """The settings under which original weights give the original's numbers.

        Args:
            **overrides: Fields that differ.

        Raises:
            ValueError: If there is no field of such a name.
        """
        unknown = overrides.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"GroundingConfig has no field {sorted(unknown)[0]!r}")
        habits = {"flat_offsets": True, "inclusive_boxes": True, "padding_aware": False, "no_object_column": True}
        return cls(**{**habits, **overrides})


@dataclass(frozen=True)
class DetectionSettings(Ranged):
    """How candidates become detections; the defaults are those of object detection.

    Attributes:
        score_threshold: A class must be more probable than this, before centerness, to be a candidate, in [0, 1].
        candidates_per_level: The most candidates, pairs of an anchor and a class, that a level passes on.
        max_iou: Of two boxes of a class with more overlap than this the better one stays.
        max_detections: The most detections of an image; more only where scores tie with the last one.
        min_size: Narrower or lower boxes are dropped, in pixels; empty ones always.
        aggregation: A class's probability from those of its tokens: `mean`, `max`, or `power`, the geometric mean.

    Raises:
        ValueError: If the aggregation is unknown or a count is not positive.
    """

    score_threshold: float = ranged(0.05, least=0, most=1)
    candidates_per_level: int = ranged(1000, least=1)
    max_iou: float = ranged(0.6, least=0, most=1)
    max_detections: int = ranged(100, least=1)
    min_size: float = ranged(0.0, least=0, most=1e9)
    aggregation: Aggregation = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aggregation not in ("mean", "max", "power"):
            raise ValueError(f"aggregation must be 'mean', 'max' or 'power', is {self.aggregation!r}")
