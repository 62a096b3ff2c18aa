"""Lists of results as people see them: printed, and in a notebook beside the images that they are about."""

from __future__ import annotations

import re
from base64 import b64decode
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_backbone import fiber_tiny
from fiber_heads import Answer, AnsweringConfig, Detections, FiberForQuestionAnswering, FiberForRetrieval, Results
from fiber_heads.grounding.drawing import label_colors
from PIL import Image

from .test_answering import WordsAndPixels


class PathsAndWords(WordsAndPixels):
    """Opens paths too."""

    def __call__(self, images: Any = None, text: Any = None) -> Any:
        several = [images] if isinstance(images, str | Path) else images
        opened = (
            None
            if images is None
            else [torch.full((3, 64, 64), Image.open(each).getpixel((0, 0))[0] / 255) for each in several]
        )
        return super().__call__(opened, text)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in ("a <b>", "c", "d")]
    for number, path in enumerate(paths):
        Image.new("RGB", (900, 300), (80 * number, 200, 30)).save(path)
    return paths


def images_of(html: str) -> list[Image.Image]:
    return [Image.open(BytesIO(b64decode(each))) for each in re.findall(r"base64,([^\"]+)", html)]


def test_answers_print_and_show_their_image_once(photos: list[Path]) -> None:
    model = FiberForQuestionAnswering(fiber_tiny(), AnsweringConfig(("yes", "no"))).eval()
    model.processor = PathsAndWords()
    (row,) = found = model.answer(photos[0], "is it red")
    assert isinstance(found, list)
    assert str(found) == str(row[0]), "nothing but the answer"
    found = model.answer(photos[0], ["is it red", "is it <blue>"], top_k=2)
    assert str(found).splitlines() == [
        *("is it red", f"  {found[0][0]}", f"  {found[0][1]}"),
        *("is it <blue>", f"  {found[1][0]}", f"  {found[1][1]}"),
    ]
    html = found._repr_html_()
    (shown,) = images_of(html)
    assert shown.size == (320, 107), "shrunken"
    assert "is it &lt;blue&gt;" in html
    assert "a &lt;b&gt;.png" in html
    assert "<b>.png" not in html
    assert html.count("<tr>") == 2 * 3
    photos[0].unlink()
    assert "a &lt;b&gt;.png</em>" in found._repr_html_(), "its name where it cannot be opened any more"


def test_each_answer_is_about_its_own_image(photos: list[Path]) -> None:
    found = Results([Results([Answer("yes", 0.5)])] * 2, titles=["is it", "is it"], images=[(photos[0],), (photos[1],)])
    assert [image.getpixel((9, 9))[0] // 40 for image in images_of(found._repr_html_())] == [0, 2]


def test_images_are_ranked_and_shown_best_first(photos: list[Path]) -> None:
    torch.manual_seed(0)
    model = FiberForRetrieval(fiber_tiny()).eval()
    model.processor = PathsAndWords()
    scores = model.search(photos, ["a dog", "two cats"], queries="texts")
    found = model.retrieve(photos, ["a dog", "two cats"], top_k=2)
    for column, row in zip(scores.T, found, strict=True):
        assert [match.index for match in row] == column.argsort(descending=True)[:2].tolist()
        assert [match.score for match in row] == pytest.approx(column.sort(descending=True).values[:2].tolist())
        assert all(match.image is photos[match.index] for match in row)
    assert len(images_of(found._repr_html_())) == 4
    assert str(found).splitlines()[:2] == ["a dog", f"  {found[0][0]}"]
    tensors = torch.rand(3, 3, 64, 64)
    assert "<img" not in model.retrieve(tensors, "a dog")._repr_html_(), "what is prepared is not to look at"
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        model.retrieve(photos, "a dog", top_k=0)


def test_texts_are_ranked_for_each_image_and_shown_beside_it(photos: list[Path]) -> None:
    torch.manual_seed(0)
    model = FiberForRetrieval(fiber_tiny()).eval()
    model.processor = PathsAndWords()
    texts = ["a dog", "two cats", "a <b> in a red house"]
    scores = model.search(photos, texts, queries="images")
    found = model.retrieve_texts(photos, texts, top_k=2)
    for row, best in zip(scores, found, strict=True):
        assert [match.index for match in best] == row.argsort(descending=True)[:2].tolist()
        assert [match.score for match in best] == pytest.approx(row.sort(descending=True).values[:2].tolist())
        assert all(match.text == texts[match.index] for match in best)
    html = found._repr_html_()
    assert len(images_of(html)) == len(photos)
    assert html.count("<tr>") == len(photos) * 3
    assert "<b> in" not in html
    assert str(found).splitlines()[:2] == [str(photos[0]), f"  {found[0][0]}"]
    assert found[0][0].to_dict() == {"text": found[0][0].text, "score": found[0][0].score, "index": found[0][0].index}
    (alone,) = model.retrieve_texts(torch.rand(1, 3, 64, 64), "a dog")
    assert [match.text for match in alone] == ["a dog"]
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        model.retrieve_texts(photos, texts, top_k=0)


def test_boxes_are_drawn_small_in_a_page_and_named(photos: list[Path]) -> None:
    found = Detections(torch.tensor([[600.0, 90, 840, 240]]), torch.ones(1), torch.tensor([1]), ["a red <dog>"])
    found.image, found.names = photos[0], ["cat", "a red <dog>"]
    (drawn,) = images_of(found._repr_html_())
    assert drawn.size == (640, 213)
    near = torch.tensor([drawn.getpixel((597, 100)), label_colors(found.names)[1]]).float()
    assert (near[0] - near[1]).norm() < 90, "the right edge of the box, after JPEG"
    assert found.draw().size == (900, 300)
    assert "a red &lt;dog&gt;" in found._repr_html_()
    assert "nothing found" in found.best(0)._repr_html_()
    found.image = Image.new("RGB", (64, 32))
    (drawn,) = images_of(found._repr_html_())
    assert drawn.size == (320, 160), "enlarged, so that there is room for a label"


def test_colors_of_boxes_do_not_contradict_the_words() -> None:
    labels = [
        "a red circle",
        "dog",
        "the blue square",
        "cat",
        "a red square",
        "bored",
        "Grey",
        "horse",
        "black",
        "black cat",
    ]
    colors = label_colors(labels)
    assert len(set(colors)) == len(labels)
    assert all(max(red) == red[0] and red[0] > 2 * red[1] for red in (colors[0], colors[4]))
    assert max(colors[2]) == colors[2][2]
    assert len(set(colors[6])) == 1
    assert all(max(color) - min(color) < 8 for color in (colors[6], *colors[8:]))
    others = [colors[place] for place in (1, 3, 5, 7)]
    distances = [
        sum(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in combinations([*others, colors[0], colors[2]], 2)
    ]
    assert min(distances) > 60
    assert label_colors(["dog", "cat"])[0] == label_colors(["dog"])[0], "a color stays with its place"
