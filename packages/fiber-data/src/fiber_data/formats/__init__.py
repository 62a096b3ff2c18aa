"""Readers of the formats that people hold, each to a list of samples; and what a reader of your own is made of."""

from fiber_data.formats.caption_folder import read_caption_folder
from fiber_data.formats.coco_captions import read_coco_captions
from fiber_data.formats.detection import DetectionData, DetectionSample, read_detection
from fiber_data.formats.faults import Fault, Faults, Samples, faults_of
from fiber_data.formats.files import SplitFile, find_missing, keep_on_disk
from fiber_data.formats.grounding import GroundingSample, read_grounding
from fiber_data.formats.held_out import hold_out
from fiber_data.formats.ids import read_id
from fiber_data.formats.karpathy import read_karpathy
from fiber_data.formats.layout import (
    read_boxes,
    read_captions,
    read_expressions,
    read_phrases,
    read_questions,
    read_statements,
)
from fiber_data.formats.nlvr2 import ReasoningSample, read_nlvr2
from fiber_data.formats.plain_boxes import read_plain_boxes, read_plain_expressions, read_plain_phrases
from fiber_data.formats.plain_form import has_plain, read_plain_questions, read_plain_statements
from fiber_data.formats.samples import CaptionSample, SplitNotFoundError, read_json_lines, require
from fiber_data.formats.shard_index import ShardImage
from fiber_data.formats.sources import note_file
from fiber_data.formats.streams import collect, iterated_by
from fiber_data.formats.tar_shards import ShardSamples, read_tar_shards, shard_blocks
from fiber_data.formats.vqav2 import QuestionSample, read_vqav2

__all__ = [
    "CaptionSample",
    "DetectionData",
    "DetectionSample",
    "Fault",
    "Faults",
    "GroundingSample",
    "QuestionSample",
    "ReasoningSample",
    "Samples",
    "ShardImage",
    "ShardSamples",
    "SplitFile",
    "SplitNotFoundError",
    "collect",
    "faults_of",
    "find_missing",
    "has_plain",
    "hold_out",
    "iterated_by",
    "keep_on_disk",
    "note_file",
    "read_boxes",
    "read_caption_folder",
    "read_captions",
    "read_coco_captions",
    "read_detection",
    "read_expressions",
    "read_grounding",
    "read_id",
    "read_json_lines",
    "read_karpathy",
    "read_nlvr2",
    "read_phrases",
    "read_plain_boxes",
    "read_plain_expressions",
    "read_plain_phrases",
    "read_plain_questions",
    "read_plain_statements",
    "read_questions",
    "read_statements",
    "read_tar_shards",
    "read_vqav2",
    "require",
    "shard_blocks",
]
