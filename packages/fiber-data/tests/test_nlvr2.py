"""NLVR2's sentences with their two images, from its own layouts and from the scenes; what is wrong is said."""

import json

import pytest
from fiber_data import SplitNotFoundError, read_nlvr2
from fiber_data.scenes import generate_scenes
from PIL import Image

LINES = [
    {"identifier": "dev-850-0-0", "sentence": "The left  image shows a dog.", "label": "False", "synset": "dog"},
    {"identifier": "dev-850-1-0", "sentence": "The left image shows a dog.", "label": "True", "synset": "dog"},
]


def put(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def put_images(folder, *stems, sides=(0, 1)):
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        for side in sides:
            Image.new("RGB", (4, 4)).save(folder / f"{stem}-img{side}.png")


@pytest.mark.parametrize("file", ["dev.json", "data/dev.json", "nlvr2/dev.json", "nlvr2/data/dev.json"])
@pytest.mark.parametrize("images", ["images/dev", "dev", "nlvr2/images/dev", "nlvr2/dev"])
def test_layouts_are_found(tmp_path, file, images):
    put(tmp_path / file, LINES[0], "", LINES[1])
    folder = tmp_path / images
    put_images(folder, "dev-850-0", "dev-850-1")
    text = "The left image shows a dog."
    images = [tuple(folder / f"dev-850-{pair}-img{side}.png" for side in (0, 1)) for pair in (0, 1)]
    assert read_nlvr2(tmp_path, "dev") == [
        {"images": images[0], "statement": text, "label": False, "id": "dev-850-0-0"},
        {"images": images[1], "statement": text, "label": True, "id": "dev-850-1-0"},
    ]


def test_training_images_lie_in_directories(tmp_path):
    line = {"identifier": "train-10171-0-0", "sentence": "A dog.", "label": "True", "directory": 72}
    put(tmp_path / "data" / "train.json", line)
    put_images(tmp_path / "images" / "train" / "72", "train-10171-0")
    (sample,) = read_nlvr2(tmp_path, "train")
    assert sample["images"][1] == tmp_path / "images" / "train" / "72" / "train-10171-0-img1.png"


def test_the_scenes_are_read(tmp_path):
    root = generate_scenes(tmp_path / "scenes", {"train": 20, "val": 40}, seed=1)
    for folder in (root, root / "nlvr2"):
        samples = read_nlvr2(folder, "val")
        assert len(samples) == 10 and sum(bool(sample["label"]) for sample in samples) == 5
        assert all(path.is_file() for sample in samples for path in sample["images"])


def test_a_split_without_labels_can_be_read(tmp_path):
    put(tmp_path / "test2.json", *({key: line[key] for key in ("identifier", "sentence")} for line in LINES))
    assert [sample["label"] for sample in read_nlvr2(tmp_path, "test2", check_images=False)] == [None, None]


def test_real_lines_are_read(real_data, tmp_path):
    (tmp_path / "dev.json").write_bytes((real_data("nlvr2") / "dev_first400.json").read_bytes())
    samples = read_nlvr2(tmp_path, "dev", check_images=False)
    assert len(samples) == 400 and {sample["label"] for sample in samples} == {True, False}
    assert samples[0]["images"][0].name == "dev-850-0-img0.png"


def test_sentences_without_both_images_are_left_out_with_one_warning(tmp_path):
    put(tmp_path / "dev.json", *LINES)
    put_images(tmp_path / "dev", "dev-850-0")
    put_images(tmp_path / "dev", "dev-850-1", sides=(0,))
    with pytest.warns(UserWarning, match=r"of 2 sentences 1 lack an image .*dev-850-1-img1\.png"):
        (sample,) = read_nlvr2(tmp_path, "dev")
    assert sample["id"] == "dev-850-0-0"
    (tmp_path / "dev" / "dev-850-0-img0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"dev\.json: none of its 2 sentences has its images on disk"):
        read_nlvr2(tmp_path, "dev")


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("{", ValueError, "line 2: not valid JSON"),
        ({"sentence": "a", "label": "True"}, KeyError, "line 2: no key 'identifier'"),
        ({**LINES[1], "identifier": 7}, ValueError, "line 2: expected an identifier such as 'dev-850-0-1', found 7"),
        ({**LINES[1], "identifier": "dev"}, ValueError, "line 2: expected an identifier .* found 'dev'"),
        ({"identifier": "dev-1-0-0", "label": "True"}, KeyError, "line 2: no key 'sentence'"),
        ({**LINES[1], "sentence": ""}, ValueError, "line 2: expected a sentence as text, found ''"),
        ({**LINES[1], "label": "maybe"}, ValueError, "line 2: expected the label 'True' or 'False', found 'maybe'"),
        (LINES[0], ValueError, "these identifiers occur more than once: 'dev-850-0-0'; keep one of each"),
        ({**LINES[1], "label": None}, ValueError, "some lines have a label, these have none: 'dev-850-1-0'"),
    ],
)
def test_a_line_out_of_format_is_named(tmp_path, line, error, message):
    put(tmp_path / "dev.json", LINES[0], line)
    with pytest.raises(error, match=rf"dev\.json: {message}"):
        read_nlvr2(tmp_path, "dev", check_images=False)


def test_a_folder_without_the_split(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder; expected the root of a data set"):
        read_nlvr2(tmp_path / "nowhere", "dev")
    with pytest.raises(SplitNotFoundError, match=r"no sentences of split 'dev'; expected one of dev\.json, data"):
        read_nlvr2(tmp_path, "dev")
    put(tmp_path / "dev.json")
    with pytest.raises(ValueError, match=r"dev\.json: it holds no line"):
        read_nlvr2(tmp_path, "dev")
