"""Using a trained model from the shell: evaluate, retrieve, report, on generated images and on real photos."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from fiber_backbone import fiber_tiny
from fiber_data import FiberProcessor, image_suffixes, read_captions, train_tokenizer
from fiber_data.suffixes import HEIF
from fiber_heads import CaptioningConfig, FiberForCaptioning
from fiber_train.charts import calibration_error
from fiber_train.checkpoint import load_model
from fiber_train.cli import main
from fiber_train.config import load_config
from fiber_train.evaluation import Evaluation, read_evaluation
from fiber_train.inputs import find_images, find_inputs
from fiber_train.report import write_report
from fiber_train.run import train
from fiber_train.tasks.retrieval.folder import retrieve
from fiber_train.tasks.retrieval.image_index import ImageIndex

from .conftest import SMALL


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train(load_config("quickstart", [f"data.root={scenes}", f"out={out}", *SMALL]))
    return out


def test_evaluate_repeats_the_run_s_own_numbers(run: Path, scenes: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "numbers.json"
    words = ["evaluate", "--checkpoint", str(run), "--data", str(scenes), "--out", str(out), "data.num_workers=0"]
    assert main(words) == 0
    found, expected = Evaluation.from_json(json.loads(out.read_text())), read_evaluation(run)
    assert found.numbers() == pytest.approx(expected.numbers(), abs=1e-6)
    printed = capsys.readouterr().out
    assert "30 images, 150 captions" in printed
    assert f"(chance {10 / 30:.3f})" in printed
    assert "best constant guess 0.667" in printed


def test_retrieve_ranks_by_cosine_and_then_by_the_matcher(run: Path, scenes: Path, capsys) -> None:
    folder, query = scenes / "images" / "val", "a large red circle"
    model, processor = load_model(run)
    paths = find_images(folder)
    with torch.no_grad():
        features = model.encode_images(processor(images=paths)["pixel_values"])
        text = processor(text=query)
        cosines = (features @ model.encode_texts(text["input_ids"], text["attention_mask"]).T)[:, 0]
        begun = model.backbone.begin_text(**text).repeat_interleave(len(paths))
        logits = model.match(model.backbone.begin_image(processor(images=paths)["pixel_values"]), begun)[:, 1]
    found = retrieve(model, paths, query, top=5, batch_size=7)
    best = cosines.argsort(descending=True)
    assert [match.image for match in found] == [paths[i] for i in best[:5]]
    assert [match.score for match in found] == pytest.approx(cosines[best[:5]].tolist(), abs=1e-5)
    again = retrieve(model, paths, query, top=5, rerank=30)
    best = logits.argsort(descending=True)
    assert [match.score for match in again] == pytest.approx(logits[best[:5]].tolist(), abs=1e-4)

    assert main(["retrieve", "--checkpoint", str(run), "--images", str(folder), "--query", query, "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == [str(match.image) for match in found[:3]]


@pytest.mark.parametrize("rerank", [0, 4])
def test_the_texts_of_a_file_are_ranked_for_each_image(
    run: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rerank: int
) -> None:
    texts, names = ["a circle", "two red squares", "nothing", "a blue circle", "a large thing"], "ab"
    (tmp_path / "texts.txt").write_text("\n\n".join(texts), encoding="utf-8")
    for name, photo in zip(names, find_images(scenes / "images" / "val")[:2], strict=True):
        shutil.copy(photo, tmp_path / f"{name}.png")
    words = ["retrieve", "--checkpoint", str(run), "--texts", str(tmp_path / "texts.txt"), "--top", "2"]
    words += ["--rerank", str(rerank), "--batch-size", "1"]
    assert main([*words, "--format", "json", "--images", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    model, _ = load_model(run)
    images = model.begin_images(find_images(tmp_path))
    cosines = model.image_features(images) @ model.encode_texts(texts).T
    for place, (row, name) in enumerate(zip(cosines, names, strict=True)):
        if rerank:
            best = row.topk(rerank).indices.tolist()
            begun = model.begin_texts([texts[each] for each in best])
            row = torch.full_like(row, -torch.inf).index_copy(
                0, torch.tensor(best), model.score_pairs(images[torch.tensor([place])], begun)[0]
            )
        assert Path(found[place]["image"]) == tmp_path / f"{name}.png"
        assert [each["text"] for each in found[place]["texts"]] == [texts[each] for each in row.topk(2).indices]
        assert [each["score"] for each in found[place]["texts"]] == pytest.approx(row.topk(2).values.tolist(), abs=1e-4)
    assert main([*words, "--index", str(tmp_path)]) == 1
    assert "--texts needs --images" in capsys.readouterr().err


def test_an_index_is_searched_as_its_images_are(run: Path, scenes: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    photos, index, query = tmp_path / "photos", tmp_path / "an index", "a large red circle"
    shutil.copytree(scenes / "images" / "val", photos)
    checkpoint = ["--checkpoint", str(run)]

    def ask(*words: str) -> list[list[str]]:
        capsys.readouterr()
        assert main(["retrieve", *checkpoint, "--query", query, "--top", "4", *words]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    assert main(["index", str(photos), *checkpoint, "--out", str(index)]) == 0
    typed = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert main(typed[1:]) == 0, "what it says to type works"
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert ask("--index", str(index)) == ask("--images", str(photos))
    assert ask("--index", str(index), "--rerank", "5") == ask("--images", str(photos), "--rerank", "5")
    best = Path(ask("--index", str(index))[0][-1])
    best.unlink()
    monkeypatch.setattr(torch.nn.Module, "__call__", refuse)  # all that is left was encoded before
    assert main(["index", str(photos), *checkpoint, "--out", str(index)]) == 0
    monkeypatch.undo()
    assert ask("--index", str(index)) == ask("--images", str(photos))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{query}\n\na blue square\n"))
    assert main(["retrieve", *checkpoint, "--index", str(index), "--format", "jsonl"]) == 0
    assert [json.loads(line)["query"] for line in capsys.readouterr().out.splitlines()] == [query, "a blue square"]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{query}\na blue square\n"))
    assert main(["retrieve", *checkpoint, "--index", str(index), "--top", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[::3] == [query, "a blue square"]
    kept = ImageIndex.load(index)
    kept.model = "other"
    with pytest.raises(ValueError, match="the index is of another model"):
        kept.search(load_model(run)[0], query)
    (index / "features.npy").write_bytes(b"cut")
    assert main(["retrieve", *checkpoint, "--index", str(index), "--query", query]) == 1
    assert "is damaged" in capsys.readouterr().err


def refuse(*arguments: object, **options: object) -> None:
    raise AssertionError("something was computed")


def test_features_and_classes_from_the_shell(run: Path, scenes: Path, tmp_path: Path, capsys) -> None:
    photos = tmp_path / "photos"
    for number, path in enumerate(sorted((scenes / "images" / "val").glob("*.png"))[:5]):
        (photos / ("circle", "square")[number % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, photos / ("circle", "square")[number % 2])
    names = [str(path) for path in find_images(photos)]
    model, _ = load_model(run)
    images, texts = model.encode_images(names), model.encode_texts(["a circle", "a square"])
    checkpoint = ["--checkpoint", str(run)]
    assert main(["embed", str(photos), *checkpoint, "--batch-size", "2", "--out", str(tmp_path / "x.npy")]) == 0
    assert (tmp_path / "x.txt").read_text().splitlines() == names
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "x.npy")), images, atol=1e-5, rtol=1e-5)
    (tmp_path / "texts").write_text("a circle\na square\n")
    written = ["--texts", str(tmp_path / "texts"), "--out", str(tmp_path / "y.npy")]
    assert main(["embed", *checkpoint, *written]) == 0
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "y.npy")), texts, atol=1e-5, rtol=1e-5)
    capsys.readouterr()
    assert main(["classify", str(photos), *checkpoint, "--template", "a {}", "--format", "json", "--top", "2"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    chances = (images @ texts.T / model.contrastive_head.temperature).softmax(dim=1)
    for record, row in zip(found, chances.tolist(), strict=True):
        given = {each["class"]: each["probability"] for each in record["classes"]}
        assert [given["circle"], given["square"]] == pytest.approx(row, abs=1e-4)
    right = [Path(each["image"]).parent.name == each["classes"][0]["class"] for each in found]
    assert f"accuracy {sum(right) / 5:.3f} of 5 images in 2 classes (chance 0.500)" in printed.err


def test_inputs_are_files_folders_patterns_and_lines(tmp_path: Path, monkeypatch) -> None:
    for name in ("b.png", "a [1].png", "c.jpg"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    lines = io.StringIO("c.jpg\n\nhttps://example.org/d.png?size=1\n*.png\n")
    assert find_inputs(["b.png", "-"], lines) == ["b.png", "c.jpg", "https://example.org/d.png?size=1", "a [1].png"]
    assert find_inputs(["a [1].png"]) == ["a [1].png"], "a file that is called like a pattern"
    assert find_inputs([str(tmp_path)]) == [str(tmp_path / name) for name in ("a [1].png", "b.png", "c.jpg")]
    with pytest.raises(FileNotFoundError, match=r"d\.png: no such image"):
        find_inputs(["d.png"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a named pipe")
def test_a_folder_of_images_holds_what_pillow_opens_and_no_folders(tmp_path: Path) -> None:
    for name in ("a.jfif", "b.WEBP", "c.avif" if ".avif" in image_suffixes() else "c.png", "notes.txt", "film.mpg"):
        (tmp_path / name).write_bytes(b"content")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "folder.jpg" / "d.jp2").write_bytes(b"content")
    os.mkfifo(tmp_path / "pipe.jpg")  # read at once, and named, by `retrieve`
    names = [path.name for path in find_images(tmp_path)]
    assert [name[0] for name in names] == ["a", "b", "c", "d", "p"]


def test_hidden_images_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".thumbnails").mkdir()
    for name in ("a.jpg", "._a.jpg", ".thumbnails/a.jpg"):
        (tmp_path / name).write_bytes(b"content")
    assert find_images(tmp_path) == [tmp_path / "a.jpg"]


@pytest.mark.skipif(not HEIF, reason="pillow-heif is installed")
def test_photos_that_need_an_extra_are_not_passed_over_silently(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"content")
    with pytest.raises(
        FileNotFoundError, match=r"can be read here, but 1 of .heic.*: pip install \"fiber-data\[heif\]"
    ):
        find_images(tmp_path)
    (tmp_path / "b.jpg").write_bytes(b"content")
    assert find_images(tmp_path) == [tmp_path / "b.jpg"]
    assert 'left out 1 of .heic/.heif/.hif: pip install "fiber-data[heif]"' in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a named pipe")
def test_a_folder_with_a_broken_image_is_searched(run: Path, scenes: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "deep").mkdir()
    shutil.copy(scenes / "images" / "val" / "000000.png", tmp_path / "deep" / "good.PNG")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    os.mkfifo(tmp_path / "pipe.jpg")
    words = ["retrieve", "--checkpoint", str(run), "--images", str(tmp_path), "--query", "a circle"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert re.search(r"bad.jpg: cannot be read as an image .*; left out", printed.err)
    assert printed.out.strip().endswith("good.PNG")
    (tmp_path / "deep" / "good.PNG").unlink()
    assert main(words) == 1
    assert "none of the 2 images can be read; the first: " in capsys.readouterr().err


def test_the_report_holds_everything_it_shows(run: Path, scenes: Path, tmp_path: Path, capsys) -> None:
    page = tmp_path / "deep" / "report.html"
    assert main(["report", str(run), "--out", str(page), "--examples", "6", "--also", "train"]) == 0
    html, results = page.read_text(), read_evaluation(run)
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", html), "nothing is fetched from elsewhere"
    for name in ("itm_accuracy", "mlm_accuracy", "image_to_text_recall@1"):
        assert f"{results[name]:.3f}" in html
        assert f"{results.find(name).baseline:.3f}" in html
    cards = html.split('<div class="card">')[1:]
    assert len(cards) == 6
    own = [{text.lower() for text in sample["captions"]} for sample in read_captions(scenes, "val")]
    for card in cards:
        (people,) = re.findall("People: (.*?)</p>", card)
        (captions,) = (each for each in own if people.split("; ")[0] in each)
        said = re.findall(r'<li><span><b class="(right|wrong)">(.)</b> (.*?)</span><span>-?\d\.\d\d</span></li>', card)
        assert len(said) == 3
        assert all(
            (kind, mark) == (("right", "✓") if text in captions else ("wrong", "✗")) for kind, mark, text in said
        )
    assert "max_steps: 6" in html
    facts = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    assert re.fullmatch(r"6 steps in 0:\d\d:\d\d, .*", facts["trained"])
    assert "FiberForPretraining at 64 px, " in facts["model"]
    assert facts["device"].startswith("cpu, 1 process")
    assert f"torch {version('torch')}" in facts["versions"]
    assert "core" in facts["machine"]
    assert f"--checkpoint {run}" in html
    assert main(["report", str(run), "--out", str(page)]) == 0, "a page of ours is replaced"
    page.write_text("mine")
    assert main(["report", str(run), "--out", str(page)]) == 1
    assert "exists already and is not replaced" in capsys.readouterr().err
    assert main(["report", str(run), "--out", str(tmp_path / "b.html"), "--data", str(tmp_path / "gone")]) == 1
    assert "gone" in capsys.readouterr().err


def test_captions_cannot_smuggle_markup_into_the_report(run: Path, scenes: Path, tmp_path: Path) -> None:
    data = shutil.copytree(scenes, tmp_path / "data")
    for path in data.rglob("captions_*.json"):
        content = json.loads(path.read_text())
        for each in content["annotations"]:
            each["caption"] = "<script>alert(1)</script>"
        path.write_text(json.dumps(content))
    html = write_report(run, tmp_path / "report.html", data=data, num_examples=1).read_text()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_calibration_is_zero_where_the_model_knows_how_sure_it_is() -> None:
    sure = [(0.75, place % 4 != 0) for place in range(80)] + [(1.0, True)] * 20
    assert calibration_error(sure) == pytest.approx(0)
    assert calibration_error([(0.9, False)] * 10) == pytest.approx(0.9)


def test_real_photos_train_and_are_retrieved(real_photos: Path, tmp_path: Path, capsys) -> None:
    """The same commands on photographs with captions in COCO's format: the coarse recipe, RoBERTa's own tokens."""
    tokenizer = real_photos.parent / "roberta_tokenizer"
    words = [f"data.root={real_photos}", f"out={tmp_path / 'run'}", *SMALL, "data.augment=true"]
    words += ["model.preset=fiber_tiny", "model.image_weights=null", "model.text_weights=null"]
    words += [f"data.tokenizer={tokenizer}", "model.overrides.vocab_size=50265", "task.model.queue_size=16"]
    assert main(["train", "coarse", *words]) == 0
    assert read_evaluation(tmp_path / "run").counts == {"num_images": 79, "num_texts": 395}
    capsys.readouterr()
    folder = next(path for path in (real_photos / "images" / "val2017", real_photos / "val2017") if path.is_dir())
    query = ["--images", str(folder), "--query", "two dogs on a beach", "--rerank", "10"]
    assert main(["retrieve", "--checkpoint", str(tmp_path / "run"), *query]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(Path(line.split(maxsplit=2)[2]).is_file() for line in lines)


@pytest.mark.parametrize(("words", "message"), [
    (["train", "nothing"], "nothing: no such recipe or file"),
    (["train", "quickstart", "data.rot=x"], "did you mean 'data.root'?"),
    (["evaluate", "--checkpoint", "{tmp}", "--data", "{tmp}"], "holds no model; expected the folder of a run"),
    (["retrieve", "--checkpoint", "{run}", "--images", "{tmp}", "--query", "x"], "holds no image"),
    (["retrieve", "--checkpoint", "{run}", "--images", "{scenes}", "--query", " "], "the query is empty"),
    (["evaluate", "--checkpoint", "{run}", "--data", "{scenes}", "--split", "tset"], "dataset_scenes.json: a Karpathy split is one of train, val, test, not 'tset'"),
])  # fmt: skip
def test_what_is_wrong_is_one_sentence(words, message, run: Path, scenes: Path, tmp_path: Path, capsys) -> None:
    filled = [word.format(tmp=tmp_path, run=run, scenes=scenes) for word in words]
    assert main(filled) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("fiber: ")
    assert "Traceback" not in printed


def test_print_config(capsys) -> None:
    assert main(["train", "coarse", "data.root=d", "out=o", "trainer.devices=8", "--print-config"]) == 0
    assert "devices: 8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "generation", "sentence"),
    [
        (17, {}, r"image_size of preprocessor_config.json is 17; .* multiples of 16; set it to 32"),
        (64, {"pad_token_id": 0}, "generation.pad_token_id is 0; this model's is 1"),
        (64, {"max_length": 999}, "generation.max_length is 999; this model has positions for"),
    ],
)
def test_a_folder_whose_parts_do_not_fit_is_refused_with_its_name(
    size: int, generation: dict[str, int], sentence: str, tmp_path: Path
) -> None:
    """When it is loaded, not at the first image."""
    FiberForCaptioning(fiber_tiny(decoder_projections=True), CaptioningConfig()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["head"]["generation"] |= {"max_length": 8, **generation}
    (tmp_path / "config.json").write_text(json.dumps(config))
    FiberProcessor(train_tokenizer(["a dog"], 300), size, 12).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}: {sentence}"):
        FiberForCaptioning.from_pretrained(tmp_path)
