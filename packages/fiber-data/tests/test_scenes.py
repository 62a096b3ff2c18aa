"""The generated data set: the same from the same seed, true to its images, readable as real data, without short cuts."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fiber_data import read_captions, read_karpathy
from fiber_data.cli import main
from fiber_data.scenes import audit_scenes, draw_scene, generate_scenes, sample_scene
from fiber_data.scenes.captions import captions
from fiber_data.scenes.draw import RGB
from fiber_data.scenes.expressions import refer
from fiber_data.scenes.graph import BACKGROUNDS, OPPOSITE, Scene, SceneObject, relations
from fiber_data.scenes.pairs import pair_up
from fiber_data.scenes.questions import ask
from PIL import Image

DIALECTS = ("refcoco", "refcoco+", "refcocog")


def some_scenes(number: int, seed: int = 0) -> list[Scene]:
    random = np.random.default_rng(seed)
    return [sample_scene(random) for _ in range(number)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_scenes(tmp_path_factory.mktemp("scenes") / "set", {"train": 1500, "val": 600}, seed=3)


def load(folder: Path, name: str):
    return json.loads((folder / "annotations" / name).read_text())


def test_a_seed_gives_the_same_files_and_a_longer_split_begins_alike(tmp_path: Path) -> None:
    first = generate_scenes(tmp_path / "a", {"train": 40, "val": 20}, seed=5)
    again = generate_scenes(tmp_path / "b", {"train": 40, "val": 20}, seed=5)
    files = {path.relative_to(first) for path in first.rglob("*") if path.is_file()}
    assert files == {path.relative_to(again) for path in again.rglob("*") if path.is_file()}
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in files)
    longer = generate_scenes(tmp_path / "c", {"train": 60}, seed=5)
    for number in range(40):
        name = Path("images", "train", f"{number:06}.png")
        assert (first / name).read_bytes() == (longer / name).read_bytes()
    other = generate_scenes(tmp_path / "d", {"train": 40, "val": 20}, seed=6)
    assert load(other, "captions_train.json") != load(first, "captions_train.json")
    train, val = ([c["caption"] for c in load(first, f"captions_{s}.json")["annotations"]] for s in ("train", "val"))
    assert train[: len(val)] != val


def test_boxes_and_colors_are_those_of_the_image() -> None:
    for scene in some_scenes(40):
        pixels = np.asarray(draw_scene(scene, 128)).astype(int)
        for item in scene.objects:
            x1, y1, x2, y2 = (value * 128 for value in item.box())
            assert 0 <= x1 < x2 <= 128
            assert 0 <= y1 < y2 <= 128
            assert np.abs(pixels[round(item.y * 128), round(item.x * 128)] - RGB[item.color]).max() < 25
            # Nothing of its color lies outside of the boxes of that color, and its own box is not too large.
            near = (np.abs(pixels - RGB[item.color]).max(-1) < 40).astype(int)
            inside = near[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))]
            rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
            assert rows[0] <= 5
            assert rows[-1] >= len(inside) - 6
            assert columns[0] <= 5
            assert columns[-1] >= inside.shape[1] - 6
        assert np.abs(pixels[1, 1] - BACKGROUNDS[scene.background]).max() < 45


def test_objects_keep_apart_and_differ() -> None:
    for scene in some_scenes(300):
        kinds = [(item.color, item.shape, item.size) for item in scene.objects]
        assert len(set(kinds)) == len(kinds)
        for number, one in enumerate(scene.objects):
            for other in scene.objects[:number]:
                a, b = one.box(), other.box()
                assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def test_spans_name_their_objects() -> None:
    words = {"disc": "circle", "plus sign": "cross", "big": "large", "little": "small"}
    random = np.random.default_rng(0)
    plurals = 0
    for scene in some_scenes(400):
        for sentence in captions(scene, random):
            assert sorted(index for *_, objects in sentence.spans for index in objects) == list(
                range(len(scene.objects))
            )
            for start, end, objects in sentence.spans:
                phrase = sentence.text[start:end]
                for ours, plain in words.items():
                    phrase = phrase.replace(ours, plain)
                for item in (scene.objects[index] for index in objects):
                    assert item.color in phrase
                    assert item.shape in phrase or item.shape[:-1] in phrase
                    assert len(objects) == 2 or item.size in phrase
                plurals += len(objects) == 2
                assert phrase.startswith("two ") == (len(objects) == 2)
    assert plurals > 5, "no phrase of several objects was met"


def test_relations_are_clear_and_opposite() -> None:
    def at(x: float, y: float) -> SceneObject:
        return SceneObject("red", "circle", "small", x, y, 0.2, 0)

    assert relations(at(0.2, 0.5), at(0.7, 0.55)) == ["left of"]
    assert relations(at(0.2, 0.2), at(0.7, 0.8)) == ["left of", "above"]
    assert relations(at(0.5, 0.5), at(0.6, 0.6)) == []
    for scene in some_scenes(50):
        for one in scene.objects:
            for other in scene.objects:
                assert [OPPOSITE[relation] for relation in relations(one, other)] == relations(other, one)


def answer(scene: Scene, question: str) -> str:
    """An independent reader of the questions' grammar."""
    words = question.rstrip("?").split()
    plain = {"disc": "circle", "things": "thing"}

    def fits(item: SceneObject, names: list[str]) -> bool:
        return all(plain.get(n, n) in (item.color, item.shape, item.size, "thing") for n in names)

    if question.startswith("is there a "):
        return "yes" if any(fits(item, words[3:]) for item in scene.objects) else "no"
    if question.startswith("how many "):
        names = [w.removesuffix("es") if w == "crosses" else w.removesuffix("s") for w in words[2:-2]]
        return str(sum(fits(item, names) for item in scene.objects))
    if question.endswith("large or small?"):
        (item,) = [item for item in scene.objects if fits(item, words[2:4])]
        return item.size
    if question.startswith(("what colour", "what shape")):
        (item,) = [item for item in scene.objects if fits(item, words[4:])]
        return item.color if words[1] == "colour" else item.shape
    one, other = (next(i for i in scene.objects if fits(i, names)) for names in (words[2:4], words[-2:]))
    link = " ".join(words[4:-3]).removeprefix("to the ")
    relation = {"over": "above", "under": "below"}.get(link, link)
    return "yes" if relation in relations(one, other) else "no"


def test_answers_are_right_and_mostly_agreed_on() -> None:
    scenes = some_scenes(400)
    questions = ask(scenes, np.random.default_rng(1))
    assert {question.kind for question in questions} == {
        "exist",
        "count",
        "total",
        "colour",
        "shape",
        "size",
        "relation",
    }
    agreement: Counter[int] = Counter()
    for question in questions:
        assert question.answer == answer(scenes[question.scene], question.text), question.text
        assert len(question.answers) == 10
        agreement[question.answers.count(question.answer)] += 1
    assert set(agreement) == {7, 8, 9, 10}, "soft scores need people who disagree"


def test_expressions_fit_one_object() -> None:
    scenes = some_scenes(400)
    expressions = refer(scenes, np.random.default_rng(2))
    assert Counter(made.dialect for made in expressions).keys() == set(DIALECTS)
    per_object = Counter((made.scene, made.target, made.dialect) for made in expressions)
    assert set(per_object.values()) == {1}
    assert len(per_object) == 3 * sum(len(scene.objects) for scene in scenes if len(scene.objects) > 1)
    for made in expressions:
        scene, words = scenes[made.scene], made.text.split()
        named = made.text[slice(*made.phrase)]
        assert scene.objects[made.target].shape in named or "thing" in named
        assert not {"that", "picture"} & set(named.split()), "what it is told by names something else"
        if made.dialect == "refcoco+":
            assert not {"left", "right", "top", "bottom", "above", "below", "middle"} & set(words)
            fitting = [i for i, item in enumerate(scene.objects) if all(w in (item.color, item.shape, item.size, "thing") for w in words)]  # fmt: skip
            assert fitting == [made.target]


def test_every_sentence_is_true_of_one_pair_and_false_of_another() -> None:
    scenes = some_scenes(100)
    pairs = pair_up(scenes, 200, np.random.default_rng(0))
    for true, false in zip(pairs[::2], pairs[1::2], strict=True):
        assert true.sentence == false.sentence
        assert (true.label, false.label) == (True, False)
        if true.sentence == "the left picture holds more things than the right one.":
            assert len(scenes[true.left].objects) > len(scenes[true.right].objects)
            assert len(scenes[false.left].objects) <= len(scenes[false.right].objects)
    assert len({pair.sentence.split()[0] for pair in pairs}) >= 4


def test_the_folder_reads_as_real_data(folder: Path) -> None:
    samples = read_captions(folder, "val")
    assert len(samples) == 600
    assert all(len(sample["captions"]) == 5 for sample in samples)
    assert Image.open(samples[0]["image"]).size == (64, 64)
    karpathy = read_karpathy(folder, "val")
    assert [s["captions"] for s in karpathy] == [s["captions"] for s in samples]
    assert [s["image"] for s in karpathy] == [s["image"] for s in samples]

    instances = load(folder, "instances_val.json")
    images = {image["id"]: image for image in instances["images"]}
    categories = {category["id"]: category["name"] for category in instances["categories"]}
    objects: Counter[int] = Counter()
    for row in instances["annotations"]:
        x, y, width, height = row["bbox"]
        assert row["id"] > 0  # pycocotools cannot match an annotation 0
        assert categories[row["category_id"]]
        assert min(x, y) >= 0
        assert x + width <= images[row["image_id"]]["width"]
        assert y + height <= images[row["image_id"]]["height"]
        assert 0.2 < row["area"] / (width * height) <= 1
        objects[row["image_id"]] += 1
    assert len({row["id"] for row in instances["annotations"]}) == len(instances["annotations"])

    grounding = load(folder, "final_scenes_val.json")
    entries = {entry["id"]: entry for entry in grounding["images"]}
    assert len(entries) == 5 * 600
    for row in grounding["annotations"]:
        caption = entries[row["image_id"]]["caption"]
        assert row["tokens_positive"]
        assert all(caption[start:end].startswith(("a ", "two ")) for start, end in row["tokens_positive"])
    for dialect in DIALECTS:
        expressions = load(folder, f"finetune_{dialect}_val.json")
        assert (
            len(expressions["images"]) == len(expressions["annotations"]) == sum(n for n in objects.values() if n > 1)
        )

    questions = load(folder, "v2_OpenEnded_scenes_val_questions.json")["questions"]
    answers = load(folder, "v2_scenes_val_annotations.json")["annotations"]
    assert [q["question_id"] for q in questions] == [a["question_id"] for a in answers]
    assert len({q["question_id"] for q in questions}) == len(questions)
    assert {a["answer_type"] for a in answers} == {"yes/no", "number", "other"}

    for line in (folder / "nlvr2" / "val.json").read_text().splitlines():
        row = json.loads(line)
        stem = row["identifier"].rpartition("-")[0]
        assert row["label"] in ("True", "False")
        assert all((folder / "nlvr2" / "images" / "val" / f"{stem}-img{side}.png").is_file() for side in (0, 1))


def test_no_kind_of_task_is_solved_blindly(folder: Path) -> None:
    findings = {finding.kind: finding for finding in audit_scenes(folder)}
    assert len(findings) == 7 + 1 + 3
    for finding in findings.values():
        assert not finding.leaks, finding
        assert finding.number >= 100, finding
    assert findings["question/colour"].chance == pytest.approx(1 / 6)
    assert findings["question/exist"].chance == 0.5
    assert findings["expression/refcoco"].chance < 0.45


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder / "annotations", tmp_path / "annotations")
    (tmp_path / "nlvr2").mkdir()
    for split in ("train", "val"):
        shutil.copy(folder / "nlvr2" / f"{split}.json", tmp_path / "nlvr2")
    return tmp_path


def test_the_audit_finds_answers_that_the_question_gives_away(copy: Path) -> None:
    """Negatives that are always of one color: the mistake of many generated data sets."""
    for split in ("train", "val"):
        questions = load(copy, f"v2_OpenEnded_scenes_{split}_questions.json")
        answers = load(copy, f"v2_scenes_{split}_annotations.json")["annotations"]
        for question, row in zip(questions["questions"], answers, strict=True):
            if row["question_type"] == "exist" and row["multiple_choice_answer"] == "no":
                words = question["question"].split()
                question["question"] = " ".join([*words[:3], "orange", *words[4:]])
        (copy / "annotations" / f"v2_OpenEnded_scenes_{split}_questions.json").write_text(json.dumps(questions))
    leaking = {finding.kind for finding in audit_scenes(copy) if finding.leaks}
    assert leaking == {"question/exist"}


def test_the_audit_finds_expressions_that_prefer_large_objects(copy: Path) -> None:
    for split in ("train", "val"):
        content = load(copy, f"finetune_refcoco+_{split}.json")
        kept = [i for i, row in enumerate(content["annotations"]) if row["bbox"][2] > 18]
        content = {
            "images": [content["images"][i] for i in kept],
            "annotations": [content["annotations"][i] for i in kept],
        }
        (copy / "annotations" / f"finetune_refcoco+_{split}.json").write_text(json.dumps(content))
    leaking = {finding.kind for finding in audit_scenes(copy) if finding.leaks}
    assert leaking == {"expression/refcoco+"}


def test_the_command_writes_and_audits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenes", "--out", str(tmp_path / "set"), "--train", "300", "--val", "100"]) == 0
    printed = capsys.readouterr().out
    assert "wrote 300 training and 100 validation scenes" in printed
    assert "question/colour" in printed
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["splits"] == {"train": 300, "val": 100}
    assert set(manifest["sha256"]) == {str(p.relative_to(tmp_path / "set")) for p in (tmp_path / "set").rglob("*.json")} - {"manifest.json", "fiber.json"}  # fmt: skip


def test_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="holds other files; choose a new folder for the scenes"):
        generate_scenes(tmp_path, {"train": 20})
    assert main(["scenes", "--out", str(tmp_path)]) == 1
    assert "holds other files" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"at least 20 scenes, got val \(3\)"):
        generate_scenes(tmp_path / "new", {"train": 20, "val": 3})
