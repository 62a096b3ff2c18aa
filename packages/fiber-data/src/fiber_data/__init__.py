"""Readers, transforms, tokenization, sampling and the generated scenes data set of FIBER.

Names are imported when they are first used, so that `import fiber_data` and the readers need no torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fiber_data.answers import AnswerVocabulary, normalize_answer, soft_scores
    from fiber_data.collate import ImageTextCollator, pad_images
    from fiber_data.dataset import BrokenSample, CaptionDataset, SeededDataset, Transform
    from fiber_data.few_shot import take_shots
    from fiber_data.formats import (
        CaptionSample,
        DetectionData,
        DetectionSample,
        GroundingSample,
        QuestionSample,
        ReasoningSample,
        SplitNotFoundError,
        find_missing,
        read_caption_folder,
        read_captions,
        read_coco_captions,
        read_detection,
        read_grounding,
        read_karpathy,
        read_nlvr2,
        read_tar_shards,
        read_vqav2,
    )
    from fiber_data.grounding import DetectionDataset, GroundingDataset
    from fiber_data.grounding_processor import GroundingProcessor
    from fiber_data.images import BrokenImageError, ImageSource, load_image
    from fiber_data.index import open_samples
    from fiber_data.inspection import Inspection, find_shared, inspect_samples
    from fiber_data.mapped import MappedSamples, glance, take
    from fiber_data.mixture import Mixture, MixtureDataset, share_out
    from fiber_data.orders import Blocks, Order
    from fiber_data.packed import PackedRecords
    from fiber_data.permutation import Permutation
    from fiber_data.phrases import find_phrases, noun_phrases
    from fiber_data.processor import FiberProcessor, Processor, load_processor
    from fiber_data.prompt_config import PromptConfig
    from fiber_data.prompts import (
        Prompt,
        PromptSampler,
        Wording,
        chunk_categories,
        clean_name,
        encode_prompts,
        make_prompt,
    )
    from fiber_data.randaugment import RandAugment
    from fiber_data.replacing import ReplacingCollator, ReplacingDataset
    from fiber_data.sampling import EpochIndex, EpochSampler
    from fiber_data.seeding import derive_seed
    from fiber_data.suffixes import image_suffixes
    from fiber_data.text import load_tokenizer, mask_tokens, positive_map, train_tokenizer
    from fiber_data.transforms import (
        IMAGENET_MEAN,
        IMAGENET_STD,
        FlipUnlessSided,
        ResizeShorterSide,
        build_detection_evaluation_transform,
        build_detection_training_transform,
        build_evaluation_transform,
        build_training_transform,
        fit_size,
        mentions_side,
        normalize_images,
    )
    from fiber_data.understanding import QuestionDataset, ReasoningDataset

__version__ = version("fiber-data")

_HOMES = {
    "answers": ("AnswerVocabulary", "normalize_answer", "soft_scores"),
    "collate": ("ImageTextCollator", "pad_images"),
    "dataset": ("BrokenSample", "CaptionDataset", "SeededDataset", "Transform"),
    "few_shot": ("take_shots",),
    "formats": (
        "CaptionSample",
        "DetectionData",
        "DetectionSample",
        "GroundingSample",
        "QuestionSample",
        "ReasoningSample",
        "SplitNotFoundError",
        "find_missing",
        "read_caption_folder",
        "read_captions",
        "read_coco_captions",
        "read_detection",
        "read_grounding",
        "read_karpathy",
        "read_nlvr2",
        "read_tar_shards",
        "read_vqav2",
    ),
    "grounding": ("DetectionDataset", "GroundingDataset"),
    "grounding_processor": ("GroundingProcessor",),
    "images": ("BrokenImageError", "ImageSource", "load_image"),
    "index": ("open_samples",),
    "inspection": ("Inspection", "find_shared", "inspect_samples"),
    "mapped": ("MappedSamples", "glance", "take"),
    "packed": ("PackedRecords",),
    "phrases": ("find_phrases", "noun_phrases"),
    "processor": ("FiberProcessor", "Processor", "load_processor"),
    "prompt_config": ("PromptConfig",),
    "prompts": (
        "Prompt",
        "PromptSampler",
        "Wording",
        "chunk_categories",
        "clean_name",
        "encode_prompts",
        "make_prompt",
    ),
    "randaugment": ("RandAugment",),
    "replacing": ("ReplacingCollator", "ReplacingDataset"),
    "mixture": ("Mixture", "MixtureDataset", "share_out"),
    "orders": ("Blocks", "Order"),
    "permutation": ("Permutation",),
    "sampling": ("EpochIndex", "EpochSampler"),
    "seeding": ("derive_seed",),
    "suffixes": ("image_suffixes",),
    "text": ("load_tokenizer", "mask_tokens", "positive_map", "train_tokenizer"),
    "transforms": (
        "IMAGENET_MEAN",
        "IMAGENET_STD",
        "FlipUnlessSided",
        "ResizeShorterSide",
        "build_detection_evaluation_transform",
        "build_detection_training_transform",
        "build_evaluation_transform",
        "build_training_transform",
        "fit_size",
        "mentions_side",
        "normalize_images",
    ),
    "understanding": ("QuestionDataset", "ReasoningDataset"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "AnswerVocabulary",
    "Blocks",
    "BrokenImageError",
    "BrokenSample",
    "CaptionDataset",
    "CaptionSample",
    "DetectionData",
    "DetectionDataset",
    "DetectionSample",
    "EpochIndex",
    "EpochSampler",
    "FiberProcessor",
    "FlipUnlessSided",
    "GroundingDataset",
    "GroundingProcessor",
    "GroundingSample",
    "ImageSource",
    "ImageTextCollator",
    "Inspection",
    "MappedSamples",
    "Mixture",
    "MixtureDataset",
    "Order",
    "PackedRecords",
    "Permutation",
    "Processor",
    "Prompt",
    "PromptConfig",
    "PromptSampler",
    "QuestionDataset",
    "QuestionSample",
    "RandAugment",
    "ReasoningDataset",
    "ReasoningSample",
    "ReplacingCollator",
    "ReplacingDataset",
    "ResizeShorterSide",
    "SeededDataset",
    "SplitNotFoundError",
    "Transform",
    "Wording",
    "build_detection_evaluation_transform",
    "build_detection_training_transform",
    "build_evaluation_transform",
    "build_training_transform",
    "chunk_categories",
    "clean_name",
    "derive_seed",
    "encode_prompts",
    "find_missing",
    "find_phrases",
    "find_shared",
    "fit_size",
    "glance",
    "image_suffixes",
    "inspect_samples",
    "load_image",
    "load_processor",
    "load_tokenizer",
    "make_prompt",
    "mask_tokens",
    "mentions_side",
    "normalize_answer",
    "normalize_images",
    "noun_phrases",
    "open_samples",
    "pad_images",
    "positive_map",
    "read_caption_folder",
    "read_captions",
    "read_coco_captions",
    "read_detection",
    "read_grounding",
    "read_karpathy",
    "read_nlvr2",
    "read_tar_shards",
    "read_vqav2",
    "share_out",
    "soft_scores",
    "take",
    "take_shots",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _HOME_OF.keys())
