"""Visual Genome (Krishna et al., IJCV 2017): descriptions of regions as captions, and its questions for VQA.

``region_descriptions.json`` is a list of ``{id, regions: [{phrase, ...}]}``, ``question_answers.json`` one of ``{id,
qas: [{qa_id, question, answer}]}``, ``image_data.json`` one of ``{image_id, coco_id, ...}``. Half of the images are
COCO's too; those by which COCO is measured can be left out. Images are ``<id>.jpg`` in ``VG_100K`` and ``VG_100K_2``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import FileOfSplitNotFoundError, ImageFinder, SplitFile, check_folder
from fiber_data.formats.ids import Id, read_id, shown
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.plain_records import annotated
from fiber_data.formats.records import stream_json
from fiber_data.formats.samples import CaptionSample, clean_text, keep_captions, require
from fiber_data.formats.splits import collected, of_split, on_disk
from fiber_data.formats.streams import iterated_by
from fiber_data.formats.vqav2 import QuestionSample

_REGIONS, _QUESTIONS, _IMAGES = "region_descriptions.json", "question_answers.json", "image_data.json"
_FOLDERS = ("", "annotations")
_IMAGE_FOLDERS = ("VG_100K", "VG_100K_2", "images/VG_100K", "images/VG_100K_2", "images", "")
_MEASURED = ("val", "test")


class VisualGenomeOptions(TypedDict, total=False):
    """What the readers of Visual Genome take beside root and split.

    - ``check_images``: whether to leave out, with a warning, what lacks an image on disk (True);
    - ``hold_out``: about which share of the images is ``"val"``, a tenth by default; 0 for none;
    - ``without_coco``: a Karpathy file of COCO; images that are COCO's val or test there are left out, counted. Needs
      ``image_data.json``;
    - ``annotation_file``: a file that lies elsewhere or has another name;
    - ``image_folder``: a folder with all images, or with ``VG_100K`` and ``VG_100K_2``.
    """

    check_images: bool
    hold_out: float | None
    without_coco: str | Path | None
    annotation_file: str | Path | None
    image_folder: str | Path | None


def iterate_visual_genome(
    root: str | Path, split: str | None, faults: Faults, **options: Unpack[VisualGenomeOptions]
) -> Iterator[CaptionSample]:
    """The samples of `read_visual_genome`, one by one; of the file one image is in memory at a time."""
    found = _iterate(_REGIONS, _captions, "images", root, split, faults, options)
    yield from cast(Iterator[CaptionSample], found)


@iterated_by(iterate_visual_genome)
def read_visual_genome(
    root: str | Path,
    split: str | None = None,
    *,
    bad_entries: BadEntries = None,
    **options: Unpack[VisualGenomeOptions],
) -> Samples[CaptionSample]:
    """Reads images with the descriptions of their regions as captions.

    Args:
        root: Folder of the data set, with ``region_descriptions.json`` in it or in ``annotations``, as it is or in
            gzip.
        split: ``"train"`` or ``"val"``, by a rule that depends on ids alone, for the data set has none; None is all.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        options: See `VisualGenomeOptions`.

    Returns:
        A sample for each image, in the order of the file, and what was wrong with it (``faults``); ``id`` is Visual
        Genome's own, which is not COCO's.

    Raises:
        FileNotFoundError: A folder or file is missing, or none of the images is on disk.
        KeyError: A key of the format is missing; the message names file and location.
        ValueError: The file is not JSON in UTF-8, cut off, or out of format, or an id occurs twice.
        SplitNotFoundError: The folder holds no such file, or `split` is another.
    """
    return collected(iterate_visual_genome, root, split, bad_entries, **options)


def find_visual_genome(root: Path) -> list[SplitFile]:
    """The file of regions that a folder holds."""
    return _find_all(root, _REGIONS)


def iterate_visual_genome_questions(
    root: str | Path, split: str | None, faults: Faults, **options: Unpack[VisualGenomeOptions]
) -> Iterator[QuestionSample]:
    """The samples of `read_visual_genome_questions`, one by one."""
    found = _iterate(_QUESTIONS, _questions, "questions", root, split, faults, options)
    yield from cast(Iterator[QuestionSample], found)


@iterated_by(iterate_visual_genome_questions)
def read_visual_genome_questions(
    root: str | Path,
    split: str | None = None,
    *,
    bad_entries: BadEntries = None,
    **options: Unpack[VisualGenomeOptions],
) -> Samples[QuestionSample]:
    """Reads the questions, ``question_answers.json``, to learn from beside VQAv2's.

    Ids are ``vg-<qa_id>`` and ``vg-<id>`` of the image, so that they are none of VQAv2's. The one answer counts as if
    ten people had given it. All else as of `read_visual_genome`.
    """
    return collected(iterate_visual_genome_questions, root, split, bad_entries, **options)


def find_visual_genome_questions(root: Path) -> list[SplitFile]:
    """The file of questions that a folder holds."""
    return _find_all(root, _QUESTIONS)


_Make = Callable[[str, Any, Any, Path, Faults], Iterator[dict[str, Any]]]  # of where, entry, id, image


def _iterate(
    name: str,
    make: _Make,
    what: str,
    root: str | Path,
    split: str | None,
    faults: Faults,
    options: VisualGenomeOptions,
) -> Iterator[dict[str, Any]]:
    folder, given = Path(root), options.get("annotation_file")
    faults.source = _find_file(folder, name) if given is None else Path(given)
    listing, base = FolderListing(), Path(options.get("image_folder") or folder)
    finder = ImageFinder([base / each for each in _IMAGE_FOLDERS], listing)
    karpathy = options.get("without_coco")
    leaked = set() if karpathy is None else _leaked(folder, Path(karpathy))
    make_all = partial(_read, make, finder, leaked)
    samples = of_split(make_all, split, options.get("hold_out"), what, faults)
    yield from on_disk(samples, what, faults, listing, check_images=options.get("check_images", True))


def _read(make: _Make, finder: ImageFinder, leaked: set[Id], faults: Faults) -> Iterator[dict[str, Any]]:
    seen: set[Id] = set()
    for where, entry in stream_json(faults):
        number: Id | None = None
        with faults:
            key = "id" if isinstance(entry, dict) and "id" in entry else "image_id"
            seen.add(number := read_id(require(entry, key, where), "image id", where, seen))
        if number is None:
            continue
        if number in leaked:
            faults.note("the images", "are left out, being among those that COCO is measured by", where)
            continue
        yield from make(where, entry, number, finder.find([f"{number}.jpg"]), faults)
    if not seen and not faults.refused:
        raise ValueError(f"{faults.source}: it holds no list of images; is it the right file?")


def _captions(where: str, entry: Any, number: Id, image: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    captions = None
    with faults:
        regions = _listed(entry, "regions", where)
        captions = keep_captions([(place, require(region, "phrase", place)) for place, region in regions], faults)
    if captions is not None:
        yield {"image": image, "captions": captions, "id": number}


def _questions(where: str, entry: Any, number: Id, image: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    asked = []
    with faults:
        asked = _listed(entry, "qas", where)
    for place, record in asked:
        sample = None
        with faults:
            question = clean_text(require(record, "question", place), "a question", place)
            answer = clean_text(require(record, "answer", place), "an answer", place)
            own = f"vg-{read_id(require(record, 'qa_id', place), 'qa_id', place)}"
            sample = {"image": image, "question": question, "id": own, "image_id": f"vg-{number}"}
            sample |= annotated(question, [answer])
        if sample is not None:
            yield sample


def _listed(entry: Any, key: str, where: str) -> list[tuple[str, Any]]:
    if not isinstance(found := require(entry, key, where), list):
        raise ValueError(f"{where}: expected {key} as a list, found {shown(found)}")
    return [(f"{where}.{key}[{place}]", each) for place, each in enumerate(found)]


def _leaked(root: Path, karpathy: Path) -> set[Id]:
    """Ids of the images that are COCO's val or test, as a Karpathy file splits it."""
    measured = set()
    for where, image in stream_json(Faults(karpathy), "images.item"):
        if require(image, "split", where) in _MEASURED:
            measured.add(read_id(require(image, "cocoid", where), "cocoid", where))
    if not measured:
        raise ValueError(f"{karpathy}: it holds no image of val or test; give Karpathy's dataset_coco.json")
    path = _find_file(root, _IMAGES)
    return {
        read_id(require(image, "image_id", where), "image_id", where)
        for where, image in stream_json(Faults(path))
        if require(image, "coco_id", where) in measured
    }


def _find_file(root: Path, name: str) -> Path:
    check_folder(root)
    if not (found := _find_all(root, name)):
        raise FileOfSplitNotFoundError(f"{root}: no {name}, here or in annotations, which Visual Genome has")
    return found[0].path


def _find_all(root: Path, name: str) -> list[SplitFile]:
    tried = [root / folder / f"{name}{packed}" for folder in _FOLDERS for packed in ("", ".gz")]
    return [SplitFile(path, None, {"annotation_file": path}) for path in tried if path.is_file()][:1]
