"""The command scores files of every benchmark, and says in one sentence what is wrong with them."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from fiber_eval import benchmarks
from fiber_eval.cli import main
from fiber_eval.odinw import ODINW_13

Files = tuple[Path, Path]


def a_file(results: Path) -> Path:
    return results / "Aquarium.json" if results.is_dir() else results


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    return path


def boxes_of_a_dog(**image: object) -> dict:
    truth = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0}
    category = {"id": 1, "name": "dog", "frequency": "f"}
    return {"images": [{"id": 7} | image], "categories": [category], "annotations": [truth]}


def found_dog(**changes: object) -> list[dict]:
    return [{"image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 40], "score": 0.9} | changes]


def vqa(folder: Path) -> Files:
    entry = {"question_id": 1, "question_type": "how many", "answer_type": "number"}
    answers = [{"answer": "two", "answer_id": index} for index in range(2)]
    answers += [{"answer": "3", "answer_id": index} for index in range(2, 10)]
    annotations = {"annotations": [entry | {"answers": answers}]}
    return write(folder / "a.json", annotations), write(folder / "r.json", [{"question_id": 1, "answer": "2"}])


def nlvr2(folder: Path) -> Files:
    lines = [{"identifier": f"dev-{index}-0-0", "label": label} for index, label in enumerate(("True", "False"))]
    annotations = write(folder / "a.json", "\n".join(map(json.dumps, lines)))
    return annotations, write(folder / "r.csv", "dev-0-0-0,True\ndev-1-0-0,True\n")


def retrieval(folder: Path) -> Files:
    np.savez(folder / "r.npz", scores=np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.1]]))
    return write(folder / "a.json", {"text_image_index": [0, 0, 1]}), folder / "r.npz"


def captions(folder: Path) -> Files:
    texts = {1: ["a dog runs on the grass", "a brown dog runs"], 2: ["two men ride a bus", "men in a bus"]}
    references = [
        {"id": 10 * image + index, "image_id": image, "caption": text}
        for image, every in texts.items()
        for index, text in enumerate(every)
    ]
    results = [{"image_id": image, "caption": every[0]} for image, every in texts.items()]
    annotations = {"images": [{"id": image} for image in texts], "annotations": references}
    return write(folder / "a.json", annotations), write(folder / "r.json", results)


def refcoco(folder: Path) -> Files:
    return write(folder / "a.json", boxes_of_a_dog(dataset_name="refcoco")), write(folder / "r.json", found_dog())


def flickr30k(folder: Path) -> Files:
    box = "<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>60</xmax><ymax>60</ymax></bndbox>"
    write(folder / "a" / "test.txt", "7\n")
    write(folder / "a" / "Annotations" / "7.xml", f"<annotation><object><name>1</name>{box}</object></annotation>")
    write(folder / "a" / "Sentences" / "7.txt", "[/EN#1/animals A dog] runs .\n")
    results = [{"image_id": "7", "sentence_id": 0, "boxes": [[[0, 0, 9, 9], [10, 10, 60, 50]]]}]
    return folder / "a", write(folder / "r.json", results)


def coco(folder: Path) -> Files:
    return write(folder / "a.json", boxes_of_a_dog()), write(folder / "r.json", found_dog())


def lvis(folder: Path) -> Files:
    annotations = boxes_of_a_dog(neg_category_ids=[], not_exhaustive_category_ids=[])
    return write(folder / "a.json", annotations), write(folder / "r.json", found_dog())


def odinw(folder: Path) -> Files:
    for name in ODINW_13:
        write(folder / "a" / f"{name}.json", boxes_of_a_dog())
        write(folder / "r" / f"{name}.json", found_dog())
    write(folder / "r" / "pothole.json", [])
    return folder / "a", folder / "r"


# For each benchmark: the files, one score that they have, a broken result file and what is said of it.
CASES: dict[str, tuple[Callable[[Path], Files], str, float, object, str]] = {
    "vqa": (vqa, "overall", 60.0, [{"question_id": 2, "answer": "2"}], "r.json: .*2"),
    "nlvr2": (nlvr2, "accuracy", 0.5, "dev-0-0-0\n", "r.csv, line 1"),
    "retrieval": (retrieval, "image_to_text_recall@1", 0.5, None, "r.npz is not npz"),
    "captions": (captions, "Bleu_4", 1.0, [{"image_id": 9, "caption": "a"}], "r.json: .*9"),
    "refcoco": (refcoco, "refcoco.P@1", 1.0, found_dog(bbox=[0, 0, -1, 5]), "r.json: entry 0"),
    "flickr30k": (flickr30k, "animals_recall@5", 1.0, [{"image_id": "7"}], "r.json, entry 0"),
    "coco": (coco, "AP", 0.7, found_dog(score=float("nan")), "r.json"),
    "lvis": (lvis, "APf", 0.7, found_dog(image_id=8), "r.json"),
    "odinw": (odinw, "average", 0.7 * 12 / 13, [{"bbox": []}], "Aquarium.json"),
}
NAMES = list(CASES)


def run(name: str, files: Files, *more: str) -> int:
    return main([name, "--annotations", str(files[0]), "--results", str(files[1]), *more])


def one_sentence(captured: pytest.CaptureFixture) -> str:
    out, err = captured.readouterr()
    assert not out
    assert err.startswith("fiber-eval: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("name", NAMES)
def test_scores(name: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    make, key, value, *_ = CASES[name]
    assert run(name, make(tmp_path), "--out", str(tmp_path / "scores.json")) == 0
    shown = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert float(shown[key]) == pytest.approx(value, abs=1e-4)
    scores = json.loads((tmp_path / "scores.json").read_text())
    for part in key.split("."):
        scores = scores[part]
    assert scores == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_broken_results(name: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    make, _, _, broken, message = CASES[name]
    annotations, results = make(tmp_path)
    write(a_file(results), broken)
    assert run(name, (annotations, results)) == 1
    assert re.search(message, one_sentence(capsys))


@pytest.mark.parametrize("content", ["no result", "", "null", "[" * 100_000, b"\x89PNG\xff"])
@pytest.mark.parametrize("side", [0, 1], ids=["annotations", "results"])
@pytest.mark.parametrize("name", NAMES)
def test_files_of_another_kind(name: str, side: int, content: object, tmp_path: Path, capsys: pytest.CaptureFixture):
    files = CASES[name][0](tmp_path)
    damaged = files[0] / "Sentences" / "7.txt" if (name, side) == ("flickr30k", 0) else a_file(files[side])
    write(damaged, content)
    assert run(name, files) == 1
    said = one_sentence(capsys)
    assert str(damaged) in said or f"{files[side]}: " in said  # a data set without a phrase is named as a whole


@pytest.mark.parametrize("missing", ["annotations", "results"])
def test_files_that_are_not_there(missing: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    annotations, results = coco(tmp_path)
    absent = tmp_path / "absent.json"
    assert run("coco", (absent, results) if missing == "annotations" else (annotations, absent)) == 1
    assert f"--{missing}: {absent} does not exist" in one_sentence(capsys)


def test_scores_replace_scores_alone(tmp_path: Path, capsys: pytest.CaptureFixture):
    files, out = coco(tmp_path), tmp_path / "new" / "1e5.json"
    before = files[0].read_bytes()
    assert [run("coco", files, "--out", str(out)) for _ in range(2)] == [0, 0]
    assert "AP" in json.loads(out.read_text())
    assert [path.name for path in out.parent.iterdir()] == ["1e5.json"]
    reasons = {files[0]: "exists and holds other things than scores", out.parent: "is a folder"}
    for path, why in {**reasons, out / "a": "1e5.json: File exists", tmp_path / ("x" * 300): "name too long"}.items():
        capsys.readouterr()
        assert run("coco", files, "--out", str(path)) == 1
        assert why in one_sentence(capsys)
    assert files[0].read_bytes() == before


def test_options_reach_the_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert run("flickr30k", flickr30k(tmp_path), "ks=[2]", "protocol=merged") == 0
    shown = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert set(shown) == {"recall@2", "upper_bound", "animals_recall@2", "animals_upper_bound"}


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("flickr30k", "splits=val", "no setting is called 'splits'; known are: split, ks, protocol, iou_threshold"),
        ("flickr30k", "split", "settings are written NAME=VALUE; got 'split'"),
        ("flickr30k", "iou_threshold=high", "iou_threshold=high does not fit"),
        ("coco", "speed=9", "no setting is called 'speed'; known are: iou_type, backend, per_category"),
    ],
)
def test_options_refused(name: str, option: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert run(name, CASES[name][0](tmp_path), option) == 1
    assert message in one_sentence(capsys)


def test_list_names_formats_and_papers(capsys: pytest.CaptureFixture):
    assert main(["list"]) == 0
    blocks = capsys.readouterr().out.removesuffix("\n").split("\n\n")
    ours = "\n\n".join(block for block in blocks if block.partition("\n")[0] in CASES)
    assert f"{ours}\n" == Path(__file__).with_name("benchmarks.txt").read_text()


def test_each_of_ours_is_declared_and_told():
    declared = {name: entry for name, entry in benchmarks.available().items() if entry.dist.name == "fiber-eval"}
    assert declared.keys() >= CASES.keys()
    for entry in declared.values():
        told = benchmarks.describe(entry)
        assert "https://arxiv.org/abs/" in told.paper
        assert benchmarks.UNTOLD not in str(told)
        assert list(told.options) == list(inspect.signature(entry.load()).parameters)[2:]


def test_help_lists_the_options(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="0"):
        main(["flickr30k", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "Follows Plummer et al. 2015" in out
    assert "folder of Flickr30k Entities: Annotations/*.xml" in out
    assert "split Which list of images. Default: 'test' ks As in" in out
    assert "iou_threshold The least overlap of a box that is right. Default: 0.5" in out


def test_unknown_benchmark(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="2"):
        main(["retreival", "--annotations", "a.json"])
    assert "there is no benchmark 'retreival'; did you mean 'retrieval'? known are: list, captions" in (
        capsys.readouterr().err
    )


def test_version(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"fiber-eval {version('fiber-eval')}\n"


def test_what_scores_nothing_imports_nothing():
    program = """
import sys
from fiber_eval.cli import main
for words in (["list"], ["--help"], ["--version"], ["coco", "--help"], ["cooc"]):
    try:
        main(words)
    except SystemExit:
        pass
print(sorted({"torch", "torchmetrics", "numpy", "pycocotools", "spacy"} & sys.modules.keys()), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


STRANGE = {
    "strange_metric/__init__.py": "",
    "strange_metric/lengths.py": '''
import json

BEST = 100  # percent


def score_files(annotations, results, *, unit, most=BEST):
    """The share of captions that are as long as asked.

    Args:
        annotations (Path): JSON {id: length}, of which
            100 % are there
        results (Path): JSON {id: caption}
        unit: What is counted.
        most: What the best get.

    Source: Nobody 2026, On Length,
    https://example.org/length
    """
    wanted, given = (json.loads(path.read_text()) for path in (annotations, results))
    count = {"words": lambda text: len(text.split()), "letters": len}[unit]
    return {"fits": most * sum(count(given[name]) == wanted[name] for name in wanted) / len(wanted)}
''',
    "strange_metric/broken.py": "raise RuntimeError('imported')",
    "strange_metric-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: strange-metric\nVersion: 1.0\n",
    "strange_metric-1.0.dist-info/entry_points.txt": """
[fiber.benchmarks]
lengths = strange_metric.lengths:score_files
misspelled = strange_metric.lengths:score_file
broken = strange_metric.broken:score_files
absent = another_metric.lengths:score_files
""",
}


@pytest.fixture
def stranger(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """The command where another distribution is installed that declares benchmarks."""
    for name, content in STRANGE.items():
        write(tmp_path / "site" / name, content)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}

    def command(*words: str) -> subprocess.CompletedProcess:
        call = [sys.executable, "-m", "fiber_eval.cli", *words]
        return subprocess.run(call, capture_output=True, text=True, env=environment, cwd=tmp_path)

    return command


def test_a_stranger_brings_a_benchmark(stranger: Callable[..., subprocess.CompletedProcess], tmp_path: Path):
    listed = stranger("list").stdout
    assert (
        """lengths
  annotations  JSON {id: length}, of which 100 % are there
  results      JSON {id: caption}
  paper        Nobody 2026, On Length, https://example.org/length
"""
        in listed
    )
    assert "absent\n  annotations  not documented\n" in listed
    assert "vqa\n" in listed
    shown = " ".join(stranger("lengths", "--help").stdout.split())
    assert "of which 100 % are there" in shown
    assert "unit What is counted. most What the best get. Default: 100" in shown

    write(tmp_path / "a.json", {"1": 2, "2": 2})
    write(tmp_path / "r.json", {"1": "a dog", "2": "a brown dog"})
    files = ["--annotations", "a.json", "--results", "r.json"]
    assert stranger("lengths", *files, "unit=words").stdout == "fits     50.0000\n"
    for name, message in {
        "lengths": "unit=VALUE is needed",
        "misspelled": "benchmark misspelled cannot be loaded from strange_metric.lengths:score_file: ",
        "broken": "imported",
        "absent": "absent needs another_metric, which is not installed",
    }.items():
        done = stranger(name, *files)
        assert done.returncode == 1
        assert done.stderr.startswith(f"fiber-eval: {message}")
        assert done.stderr.count("\n") == 1


def test_what_is_not_installed(tmp_path: Path):
    annotations, results = coco(tmp_path)
    program = f"""
import sys
from fiber_eval.cli import main
sys.modules["pycocotools"] = None  # as if it were not there
files = ["--annotations", {str(annotations)!r}, "--results", {str(results)!r}]
assert main(["coco", *files]) == 1
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "fiber-eval: coco needs pycocotools, which is not installed; pip install pycocotools\n"


def test_odinw_names_the_data_set_that_is_absent(tmp_path: Path, capsys: pytest.CaptureFixture):
    files = odinw(tmp_path)
    (files[1] / "EgoHands.json").unlink()
    assert run("odinw", files) == 1
    assert f"{files[1]} must hold a file NAME.json for each data set, but has none for ['EgoHands']" in one_sentence(
        capsys
    )
    assert run("odinw", files, 'datasets=["Aquarium", "pothole"]') == 0
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert shown == {"Aquarium": "0.7000", "pothole": "0.0000", "average": "0.3500"}


# Retrieval's files


def test_retrieval_from_one_file(tmp_path: Path, capsys: pytest.CaptureFixture):
    both = write(tmp_path / "both.json", {"scores": [[9, 8, 1], [2, 3, 1]], "text_image_index": [0, 0, 1]})
    assert run("retrieval", (both, both), "ks=[1]", "ties=optimistic") == 0
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(shown["text_to_image_recall@1"]) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "must hold 'text_image_index'"),
        ({"text_image_index": [0]}, "must hold 'scores'"),
        ({"scores": [[1, 2], [3]], "text_image_index": [0]}, "the rows of 'scores' must be equally long"),
        ({"scores": [["a"]], "text_image_index": [0]}, "'scores' must hold numbers"),
        ({"scores": [[1, float("nan")]], "text_image_index": [0, 0]}, "scores[0, 1] is NaN"),
        ({"scores": [[1, 2]], "text_image_index": [0]}, "text_image_index must have shape (2,)"),
        ({"scores": [[1, 2]], "text_image_index": [0, 1]}, "text_image_index must lie in 0..0"),
    ],
)
def test_retrieval_files_refused(content: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    path = write(tmp_path / "both.json", content)
    assert run("retrieval", (path, path)) == 1
    said = one_sentence(capsys)
    assert str(path) in said
    assert message in said
