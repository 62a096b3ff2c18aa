"""The files of Flickr30k Entities: boxes in XML, captions with marked phrases.

The layout is that of Plummer et al. (https://arxiv.org/abs/1505.04870, BryanPlummer/flickr30k_entities). As in MDETR,
phrases without boxes are left out and boxes keep the 1-based coordinates of the XML files (the authors' own reader
subtracts 1).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from fiber_eval.files import read_text, shown

Box = tuple[float, float, float, float]
SentenceKey = tuple[str, int]

LONGEST_ID = 200  # bytes, with a suffix less than a file's name may have
FARTHEST = 1 << 31  # pixels


@dataclass(frozen=True)
class Phrase:
    """A phrase that has boxes.

    Attributes:
        text: Its words, joined by spaces.
        first_word: The index of its first word in the sentence, from 0.
        types: Its coarse types, such as "people".
        boxes_xyxy: Its right boxes in pixels, at least one.

    Example:
        >>> from fiber_eval import Phrase
        >>> Phrase("a dog", first_word=0, types=("animals",), boxes_xyxy=((0, 0, 10, 10),)).types
        ('animals',)
    """

    text: str
    first_word: int
    types: tuple[str, ...]
    boxes_xyxy: tuple[Box, ...]


@dataclass(frozen=True)
class Sentence:
    """A caption and its phrases that have boxes, in reading order; there may be none.

    Attributes:
        image_id: The image's name without suffix.
        sentence_id: Which of the image's captions, from 0.
        text: The caption without marks.
        phrases: What is to be found.

    Example:
        >>> from fiber_eval import Sentence
        >>> Sentence("36979", 0, "a dog runs", ()).key
        ('36979', 0)
    """

    image_id: str
    sentence_id: int
    text: str
    phrases: tuple[Phrase, ...]

    @property
    def key(self) -> SentenceKey:
        """What predictions name the sentence by."""
        return self.image_id, self.sentence_id


def read_flickr30k_entities(root: Path, *, split: str = "test") -> list[Sentence]:
    """Read the data set as its authors publish it.

    Args:
        root: The folder that holds `Annotations/*.xml`, `Sentences/*.txt` and, for each split, a list of image ids.
        split: Which list: "test" reads `test.txt`.

    Returns:
        All captions in the list's order, also those that have no phrase with boxes.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is broken; the sentence names it and the location.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fiber_eval import read_flickr30k_entities
        >>> box = "<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>60</xmax><ymax>60</ymax></bndbox>"
        >>> files = {"test.txt": "7", "Sentences/7.txt": "[/EN#1/animals A dog] runs ."}
        >>> files["Annotations/7.xml"] = f"<annotation><object><name>1</name>{box}</object></annotation>"
        >>> with tempfile.TemporaryDirectory() as name:
        ...     for path, text in files.items():
        ...         Path(name, path).parent.mkdir(exist_ok=True)
        ...         _ = Path(name, path).write_text(text)
        ...     [sentence] = read_flickr30k_entities(Path(name))
        >>> sentence.text, sentence.phrases[0].text, sentence.phrases[0].boxes_xyxy
        ('A dog runs .', 'A dog', ((10, 10, 60, 60),))
    """
    image_ids = _read_listing(root / f"{split}.txt")
    sentences = []
    for image_id in image_ids:
        boxes = _read_boxes(root / "Annotations" / f"{image_id}.xml")
        path = root / "Sentences" / f"{image_id}.txt"
        lines = [line for line in read_text(path).split("\n") if line]
        for sentence_id, line in enumerate(lines):
            text, phrases = _parse_sentence(line, boxes, f"{path}, line {sentence_id + 1}")
            sentences.append(Sentence(image_id, sentence_id, text, phrases))
    return sentences


def _read_listing(path: Path) -> list[str]:
    """The ids of images, a line each; files are named after them."""
    image_ids = dict.fromkeys(line.strip() for line in read_text(path).splitlines() if line.strip())
    for image_id in image_ids:
        if not image_id.isprintable() or "/" in image_id or len(image_id.encode()) > LONGEST_ID:
            raise ValueError(f"{path}: {shown(image_id)} is no id of an image; give the names of images without suffix")
    return list(image_ids)


def _read_boxes(path: Path) -> dict[str, tuple[Box, ...]]:
    """The boxes of each phrase id that has any."""
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter: encodings
        raise ValueError(f"{path} is not XML: {error}") from error
    boxes = defaultdict(list)
    for index, thing in enumerate(root.findall("object")):
        found = thing.find("bndbox")
        if found is None:  # a whole scene, or nothing to be seen
            continue
        box = _parse_box(found, f"{path}, object {index}")
        for name in thing.findall("name"):  # one box may belong to several phrases
            boxes[name.text or ""].append(box)
    return {name: tuple(every) for name, every in boxes.items()}


def _parse_box(bndbox: ElementTree.Element, location: str) -> Box:
    texts = [bndbox.findtext(side, "") for side in ("xmin", "ymin", "xmax", "ymax")]
    try:
        left, top, right, bottom = map(int, texts)
        if max(map(abs, (left, top, right, bottom))) > FARTHEST:
            raise ValueError("larger than any image")
    except ValueError as error:
        raise ValueError(
            f"{location}: xmin, ymin, xmax, ymax must be whole numbers of pixels, but are {shown(texts)}"
        ) from error
    if right < left or bottom < top:
        raise ValueError(f"{location}: bndbox must have xmin <= xmax and ymin <= ymax, but is {shown(texts)}")
    return left, top, right, bottom


def _parse_sentence(line: str, boxes: Mapping[str, tuple[Box, ...]], location: str) -> tuple[str, tuple[Phrase, ...]]:
    """The words of `[/EN#283/people A man] on [/EN#284/scene a street] .`, and its phrases that have boxes."""
    words: list[str] = []
    phrases = []
    opened: tuple[int, list[str]] | None = None  # first word; id and types
    for token in line.split():
        if opened is None and token.startswith("["):
            marks = token.split("/")[1:]
            if not marks or not marks[0].startswith("EN#"):
                raise ValueError(f"{location}: a phrase must open like [/EN#283/people, but opens with {shown(token)}")
            opened = len(words), marks
        elif opened is not None and token.endswith("]"):
            words.append(token[:-1])
            first_word, (name, *types) = opened
            if right := boxes.get(name.removeprefix("EN#")):
                phrases.append(Phrase(" ".join(words[first_word:]), first_word, tuple(types), right))
            opened = None
        else:
            words.append(token)
    if opened is not None:
        raise ValueError(
            f"{location}: the phrase that opens with {shown('[/' + '/'.join(opened[1]))} is never closed by ]"
        )
    return " ".join(words), tuple(phrases)
