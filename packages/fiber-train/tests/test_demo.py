"""What the page of `fiber demo` asks and shows, without the page: `nox -s demo` clicks it in a browser."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from fiber_backbone import fiber_tiny
from fiber_data import FiberProcessor, train_tokenizer
from fiber_heads import AnsweringConfig, Detections, FiberForQuestionAnswering
from fiber_train.cli import main
from fiber_train.demo.asked import about, load_asked
from fiber_train.demo.folder import Folder
from fiber_train.demo.questions import answers, looks, words
from fiber_train.demo.shown import Boxes
from fiber_train.demo.uploads import read_upload
from PIL import Image


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["what color is the red circle?", "how many shapes are there?"], vocab_size=300)
    model = FiberForQuestionAnswering(fiber_tiny(), AnsweringConfig(("red", "blue", "3")))
    for name, parameter in model.named_parameters():
        if name.endswith(".gate"):
            torch.nn.init.constant_(parameter, 0.5)
    model.processor = FiberProcessor(tokenizer, 64, 20)
    folder = tmp_path_factory.mktemp("secret") / "vqa"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randint(0, 255, (3, 40, 60), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_an_image_is_begun_once_for_many_questions(saved: Path, image: torch.Tensor) -> None:
    asked = load_asked(saved)
    begun = []
    asked.model.backbone.image_stream.patch_embed.register_forward_hook(lambda *_: begun.append(1))
    html, named = answers([asked], image, "how many shapes are there?")
    assert set(named) == {"red", "blue", "3"}
    assert html.count('class="fiber-row"') == 3
    first = asked.model.answer(image, "what color is the red circle?", top_k=3)
    heat = looks([asked], image, "how many shapes are there?", "shapes")
    assert looks([asked], image, "how many shapes are there?", None, "red") != heat
    assert len(begun) == 1
    plain = FiberForQuestionAnswering.from_pretrained(saved).answer(image, "what color is the red circle?", top_k=3)
    assert first == plain, "with the numbers of a model that begins it each time"
    answers([asked], image.flip(2), "how many shapes are there?")
    assert len(begun) == 2, "another image is another"


def test_what_a_model_knows_is_said_without_its_folder(saved: Path) -> None:
    asked = load_asked(saved)
    assert "Nothing beside its weights says what it was trained on" in asked.about
    card = "# A\n\n## Load\n\ncode\n\n## Data\n\nLearned from `scenes`.\n\n## Measured\n\n| all | 55 |\n"
    (saved / "README.md").write_text(card)
    told = about(saved, asked.model)
    assert "Learned from `scenes`." in told
    assert "| all | 55 |" in told
    assert "code" not in told
    assert "secret" not in told
    assert asked.name == "vqa"


def test_the_slider_and_the_colors_need_no_model() -> None:
    text = "a <b>red</b> dog beside a cat"
    spans = [(0, 16), (24, 29)]
    rows = [(0.9, 0, [1.0, 2.0, 30.0, 40.0]), (0.4, 1, [5.0, 6.0, 7.0, 8.0]), (0.1, 0, [0.0, 0.0, 3.0, 3.0])]
    found = Boxes("model", "data:,", (60, 40), rows, ["a <b>red</b> dog", "a cat"], text, spans)
    few, all_of_them = found.html(0.5), found.html(0.05)
    assert (few.count("<rect"), all_of_them.count("<rect")) == (1, 3)
    assert "<b>" not in few, "what people type is text"
    assert "<title>a cat: 0.40</title>" in all_of_them, "hover shows the score"
    assert all_of_them.count('<g tabindex="0" role="img" aria-label="') == 3, "and so does the keyboard"
    color = re.search(r'stroke="(rgb\([^"]+)"', few)[1]
    assert f'style="background:{color};color:rgb(255, 255, 255)" title="0.90">a &lt;b&gt;red' in few, (
        "words are colored like their boxes"
    )
    assert 'class="none"' in few, "a phrase without a box has no color"
    assert 'class="none"' not in all_of_them


def test_a_thing_has_the_box_of_the_surest_phrase(image: torch.Tensor) -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [1, 0, 20, 20], [30, 5, 40, 15]])
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.4]), torch.tensor([1, 0, 0]), ["a cat", "a dog", "a dog"])
    shown = Boxes.of("model", image, found, ["a dog", "a cat"], "a dog beside a cat")
    assert [(row[0], row[1]) for row in shown.rows] == [(pytest.approx(0.9), 1), (pytest.approx(0.4), 0)]
    assert shown.spans == [(0, 5), (13, 18)]
    assert len(Boxes.of("model", image, found, ["a dog", "a cat"]).rows) == 3, "categories are each for itself"


def test_words_to_choose_from() -> None:
    assert words("a red circle, the dog's tail") == ["a red circle", "the dog's tail", "red", "circle", "dog's", "tail"]
    assert words("") == []


def test_without_images_there_are_generated_ones(tmp_path: Path) -> None:
    folder = Folder.open(None, tmp_path)
    assert len(folder.paths) == 24
    assert len(set(folder.examples())) == 8
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of the 1 images of .*broken can be read"):
        Folder.open(broken, tmp_path)


def test_links_that_lead_out_of_the_folder_are_not_searched(tmp_path: Path, capsys) -> None:
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    for path in (tmp_path / "outside.png", tmp_path / "photos" / "own.png"):
        Image.new("RGB", (20, 20)).save(path)
    (tmp_path / "photos" / "out.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "photos" / "inner" / "in.png").symlink_to(tmp_path / "photos" / "own.png")
    found = Folder.open(tmp_path / "photos", tmp_path)
    assert sorted(path.name for path in found.paths) == ["in.png", "own.png"]
    assert "1 links lead out of the folder; left out" in capsys.readouterr().err


def test_an_upload_is_read_within_limits_or_refused_in_a_sentence(tmp_path: Path) -> None:
    Image.effect_noise((40, 30), 90).save(tmp_path / "photo.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "photo.jpg").read_bytes()[:400])
    (tmp_path / "words.png").write_text("no image")
    Image.new("P", (20_000, 20_000)).save(tmp_path / "bomb.png")  # above Pillow's own limit
    assert read_upload(str(tmp_path / "photo.jpg"), 1200).shape == (3, 30, 40)
    too_many = "the image has more than 0.0011 million pixels, the most of this page; make it smaller"
    sentences = {
        ("photo.jpg", 1100): too_many,
        ("bomb.png", 1100): too_many,
        ("words.png", 1200): "the file is no image that can be read here; save it as JPEG or PNG (a HEIC photo, too)",
        ("cut.jpg", 1200): "the image is damaged or cut short; upload it again, or save it anew as JPEG or PNG",
    }
    for (name, most), sentence in sentences.items():
        with pytest.raises(ValueError, match="^" + re.escape(sentence) + "$"):
            read_upload(str(tmp_path / name), most)
    with pytest.raises(ValueError, match="give an image first"):
        read_upload(None, 1200)


def test_without_gradio_one_sentence_says_how_to_get_it(saved: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--checkpoint", str(saved)]) == 1
    assert capsys.readouterr().err == (
        "fiber: fiber demo needs Gradio, which is not installed; pip install 'fiber-train[demo]'\n"
    )
    assert main(["demo", "--checkpoint", str(saved), "--max-pixels", "0"]) == 1
    assert "--max-pixels" in capsys.readouterr().err
