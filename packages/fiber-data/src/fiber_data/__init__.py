"""Readers, transforms, tokenization, sampling and the generated scenes data set of FIBER."""

from importlib.metadata import version

from fiber_data.answers import AnswerVocabulary, normalise_answer, soft_scores
from fiber_data.collate import ImageTextCollator, pad_images
from fiber_data.dataset import BrokenSample, CaptionDataset
from fiber_data.formats import (
    CaptionSample,
    QuestionSample,
    ReasoningSample,
    SplitNotFoundError,
    find_missing,
    read_caption_folder,
    read_captions,
    read_coco_captions,
    read_karpathy,
    read_nlvr2,
    read_vqav2,
)
from fiber_data.images import BrokenImageError, load_image
from fiber_data.inspection import Inspection, find_shared, inspect_samples
from fiber_data.packed import PackedRecords
from fiber_data.processor import FiberProcessor
from fiber_data.sampling import EpochIndex, EpochSampler
from fiber_data.seeding import derive_seed
from fiber_data.text import load_tokenizer, mask_tokens, train_tokenizer
from fiber_data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    FlipUnlessSided,
    RandAugment,
    build_evaluation_transform,
    build_training_transform,
    mentions_side,
)
from fiber_data.understanding import QuestionDataset, ReasoningDataset

__version__ = version("fiber-data")

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "AnswerVocabulary",
    "BrokenImageError",
    "BrokenSample",
    "CaptionDataset",
    "CaptionSample",
    "EpochIndex",
    "EpochSampler",
    "FiberProcessor",
    "FlipUnlessSided",
    "ImageTextCollator",
    "Inspection",
    "PackedRecords",
    "QuestionDataset",
    "QuestionSample",
    "RandAugment",
    "ReasoningDataset",
    "ReasoningSample",
    "SplitNotFoundError",
    "build_evaluation_transform",
    "build_training_transform",
    "derive_seed",
    "find_missing",
    "find_shared",
    "inspect_samples",
    "load_image",
    "load_tokenizer",
    "mask_tokens",
    "mentions_side",
    "normalise_answer",
    "pad_images",
    "read_caption_folder",
    "read_captions",
    "read_coco_captions",
    "read_karpathy",
    "read_nlvr2",
    "read_vqav2",
    "soft_scores",
    "train_tokenizer",
]
