"""Which model an original checkpoint is: class and settings, read off the names and shapes of its tensors.

What no tensor tells has the published models' value, and a sentence says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fiber_backbone import FiberBackbone, FiberConfig, check_original
from torch import Tensor

from fiber_heads.answering import AnsweringConfig, FiberForQuestionAnswering
from fiber_heads.captioning import FiberForCaptioning
from fiber_heads.config import CaptioningConfig, PretrainingConfig
from fiber_heads.grounding.config import GroundingConfig
from fiber_heads.grounding.model import FiberForGrounding
from fiber_heads.pretraining import FiberForPretraining
from fiber_heads.reasoning import FiberForVisualReasoning
from fiber_heads.retrieval import FiberForRetrieval
from fiber_heads.task import TaskModel

HEAD_CHANNELS = 64  # of each attention head of RoBERTa, of whatever size
_IMAGE, _TEXT = (
    r"(?:vit_model|fusion_backbone\.backbone\.body)",
    (r"(?:text_transformer|fusion_backbone\.language_backbone\.body\.model)"),
)
_QUEUE, _ANSWERS = "text_input_queue", "vqa_classifier.3.weight"


@dataclass(frozen=True)
class Recognized:
    """A model of ours that original weights fit.

    Attributes:
        kind: Its class.
        backbone: Sizes and switches.
        head: Settings of its heads, of `kind.config_class`; None if it has none, or if they are not in the tensors.
        title: What it is, for people.
        max_length: Most tokens of its texts.
        num_answers: Of a model that answers questions, whose answers no tensor holds.
        assumed: A sentence for everything that no tensor tells.
    """

    kind: type[TaskModel]
    backbone: FiberConfig
    head: Any
    title: str
    max_length: int
    num_answers: int | None = None
    assumed: list[str] = field(default_factory=list)

    def build(self, tensors: Mapping[str, Tensor], answers: Sequence[str] | None = None) -> TaskModel:
        """The model with the weights, in eval mode.

        Args:
            tensors: Those that it was recognized by.
            answers: Of a model that answers questions, in the order of its classes.

        Raises:
            ValueError: The answers are lacking or not as many as the classes; or the tensors do not fit.
        """
        head = self.head
        if self.num_answers is not None:
            if answers is None or len(answers) != self.num_answers:
                found = "none were given" if answers is None else f"{len(answers):,} were given"
                raise ValueError(
                    f"the model chooses among {self.num_answers:,} answers, whose texts its file does not hold; {found}"
                )
            head = AnsweringConfig(answers=tuple(answers))
        backbone = FiberBackbone.from_config(self.backbone)
        model = self.kind(backbone) if head is None else self.kind(backbone, head)
        model.load_original_checkpoint(tensors)
        return model.eval()


def recognize_original(tensors: Mapping[str, Tensor], origin: str = "the state dict", **known: Any) -> Recognized:
    """Which model the tensors of an original checkpoint are.

    Args:
        tensors: As of `fiber_backbone.read_original_state_dict`; their values are not read.
        origin: Where they are from, for messages.
        **known: Fields of `FiberConfig` that the caller knows better, such as `image_size` or `num_attention_heads`.

    Raises:
        ValueError: They are of another model, or of a part of one.
    """
    check_original(tensors, origin)
    try:
        backbone, assumed = _backbone(tensors, known)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f"{origin} is a checkpoint of which a part is lacking: no tensor tells {error}; give the whole file"
        ) from error
    detector = any(name.startswith("rpn.") for name in tensors)
    length = min(50, backbone.max_position_embeddings - backbone.pad_token_id - 1)
    if _QUEUE in tensors:
        length = tensors[_QUEUE].shape[1]
    elif not detector:
        assumed.append(f"texts have at most {length} tokens, as in the original's fine-tuning")
    if detector:
        return _detector(tensors, backbone, assumed)
    if _ANSWERS in tensors:
        count = len(tensors[_ANSWERS])
        title = f"question answering with {count:,} answers"
        return Recognized(FiberForQuestionAnswering, backbone, None, title, length, count, assumed)
    if "nlvr2_classifier.3.weight" in tensors:
        return Recognized(FiberForVisualReasoning, backbone, None, "reasoning about pairs", length, None, assumed)
    if any(name.startswith("cross_modal_att_layers.") for name in tensors) and "mlm_score.bias" in tensors:
        return _captioner(tensors, backbone, length, assumed)
    return _matcher(tensors, backbone, length, assumed, origin)


def _detector(tensors: Mapping[str, Tensor], backbone: FiberConfig, assumed: list[str]) -> Recognized:
    last = backbone.strides[-1]
    length = min(256, backbone.max_position_embeddings - backbone.pad_token_id - 1)
    head = GroundingConfig.as_original(
        channels=len(tensors["rpn.head.bbox_pred.weight"][0]),
        num_blocks=_count(tensors, r"^rpn\.head\.dyhead_tower\.(\d+)\."),
        strides=(last // 4, last // 2, last, 2 * last, 4 * last),
        max_tokens=length,
    )
    kind = "for expressions" if backbone.normalize_image_query else "for categories and phrases"
    assumed.append("images have a shorter side of 800 px and a longer one of at most 1,333 px; group norms 16 groups")
    return Recognized(FiberForGrounding, backbone, head, f"boxes {kind}", length, None, assumed)


def _captioner(tensors: Mapping[str, Tensor], backbone: FiberConfig, length: int, assumed: list[str]) -> Recognized:
    gold = any(name.startswith("copy_module.") for name in tensors)
    if not gold:
        assumed.append("its objective is the likelihood of captions (mle); it matters only to further training")
    head = CaptioningConfig(objective="gold" if gold else "mle")
    head = replace(head, generation=replace(head.generation, max_length=length - 1))
    return Recognized(FiberForCaptioning, backbone, head, "captions", length, None, assumed)


def _matcher(
    tensors: Mapping[str, Tensor], backbone: FiberConfig, length: int, assumed: list[str], origin: str
) -> Recognized:
    named = {"itc": "temp", "itm": "itm_score.fc.weight", "mlm": "mlm_score.bias"}
    objectives = tuple(name for name, tensor in named.items() if tensor in tensors)
    if not objectives:
        other = next((name for name in tensors if "_classifier." in name), None)
        raise ValueError(
            f"{origin} has the backbone of the original and no head that is known here"
            f"{f' (but {other!r:.120})' if other else ''}; start a run from it: model.checkpoint={origin}"
        )
    pooler = "cross_modal_image_pooler_itc.dense.weight" in tensors
    head = PretrainingConfig(objectives=objectives, itc_pooler=pooler, queue_size=0)
    kind = FiberForPretraining if "mlm" in objectives else FiberForRetrieval
    title = "the coarse stage" if "mlm" in objectives else f"retrieval by {' and '.join(objectives)}"
    return Recognized(kind, backbone, head, title, length, None, assumed)


def _backbone(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> tuple[FiberConfig, list[str]]:
    """The configuration of both streams, and what it takes for granted."""

    def find(pattern: str) -> Tensor:
        whole = re.compile(f"^{pattern}$")
        name = next((each for each in tensors if whole.match(each)), None)
        if name is None:
            raise KeyError(pattern.replace("\\", ""))
        return tensors[name]

    def block(stage: int, name: str) -> Tensor:
        return find(rf"{_IMAGE}\.layers\.{stage}\.blocks\.0\.{name}")

    depths = tuple(
        _count(tensors, rf"^{_IMAGE}\.layers\.{stage}\.blocks\.(\d+)\.")
        for stage in range(_count(tensors, rf"^{_IMAGE}\.layers\.(\d+)\."))
    )
    tables = [block(stage, r"attn\.relative_position_bias_table").shape for stage in range(len(depths))]
    patches, words = (
        find(rf"{_IMAGE}\.patch_embed\.proj\.weight"),
        find(rf"{_TEXT}\.embeddings\.word_embeddings\.weight"),
    )
    window, width = (math.isqrt(tables[0][0]) + 1) // 2, words.shape[1]
    stride = patches.shape[-1] * 2 ** (len(depths) - 1)
    detector = any(name.startswith("rpn.") for name in tensors)
    config = FiberConfig(
        image_size=window * stride,
        patch_size=patches.shape[-1],
        embed_dim=patches.shape[0],
        depths=depths,
        image_num_heads=tuple(heads for _, heads in tables),
        window_size=window,
        image_mlp_ratio=block(0, r"mlp\.fc1\.weight").shape[0] / patches.shape[0],
        vocab_size=words.shape[0],
        hidden_size=width,
        num_hidden_layers=_count(tensors, rf"^{_TEXT}\.encoder\.layer\.(\d+)\."),
        num_attention_heads=known.get("num_attention_heads", max(1, width // HEAD_CHANNELS)),
        intermediate_size=find(rf"{_TEXT}\.encoder\.layer\.0\.intermediate\.dense\.weight").shape[0],
        max_position_embeddings=find(rf"{_TEXT}\.embeddings\.position_embeddings\.weight").shape[0],
        type_vocab_size=find(rf"{_TEXT}\.embeddings\.token_type_embeddings\.weight").shape[0],
        num_fusion_blocks=sum(name.endswith(".alpha_i2t") for name in tensors if not name.startswith("copy_module.")),
        decoder_projections=any(name.startswith("cross_modal_att_layers.") for name in tensors),
    )
    normalized = any(name.endswith(".norm_i2t_i.weight") for name in tensors)
    config = config.fine_stage(normalized) if detector else replace(config, normalize_image_query=normalized)
    assumed = []
    if "num_attention_heads" not in known and width != FiberConfig.hidden_size:
        assumed.append(f"a text layer has {config.num_attention_heads} attention heads of {HEAD_CHANNELS} channels")
    return config.grown(**known), assumed


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest number at a place of the names."""
    find: Callable[[str], re.Match[str] | None] = re.compile(pattern).match
    numbers = [int(match[1]) for match in map(find, tensors) if match]
    if not numbers:
        raise KeyError(pattern.replace("\\", "").strip("^"))
    return max(numbers) + 1
