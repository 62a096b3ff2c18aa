"""VQAv2's questions and answers from its own layout, from the scenes and from files; what is wrong in them is said."""

import copy
import json

import pytest
from fiber_data import SplitNotFoundError, read_vqav2
from fiber_data.scenes import generate_scenes
from PIL import Image

QUESTIONS = {
    "data_type": "mscoco",
    "data_subtype": "train2014",
    "questions": [
        {"question_id": 421, "image_id": 42, "question": "What  color is\n the cat?"},
        {"question_id": 70, "image_id": 7, "question": "Is it raining?"},
    ],
}


def annotation(question_id, image_id, answers, kinds):
    return {
        "question_id": question_id,
        "image_id": image_id,
        "question_type": kinds[0],
        "answer_type": kinds[1],
        "multiple_choice_answer": answers[0],
        "answers": [{"answer_id": i, "answer": answer, "answer_confidence": "yes"} for i, answer in enumerate(answers)],
    }


ANNOTATIONS = {
    "annotations": [  # in another order than the questions
        annotation(70, 7, ["yes"] * 6 + ["no"] * 4, ("is it", "yes/no")),
        annotation(421, 42, ["red"] * 9 + [" Dark red"], ("what color is the", "other")),
    ]
}


def put_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def put_images(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (4, 4)).save(folder / name)


def put_split(root, questions=QUESTIONS, annotations=ANNOTATIONS, subset="train2014"):
    put_json(root / f"v2_OpenEnded_mscoco_{subset}_questions.json", questions)
    if annotations is not None:
        put_json(root / f"v2_mscoco_{subset}_annotations.json", annotations)
    return root


def changed(content, key, place, **changes):
    content = copy.deepcopy(content)
    content[key][place].update(changes)
    return content


def lacking(content, key, place, lost):
    content = copy.deepcopy(content)
    del content[key][place][lost]
    return content


@pytest.mark.parametrize("files", [".", "annotations", "questions"])
@pytest.mark.parametrize("images", ["train2014", "images/train2014", "images", "."])
@pytest.mark.parametrize("name", ["COCO_train2014_{}.jpg", "{}.jpg"])
def test_the_layouts_of_the_download_are_found(tmp_path, files, images, name):
    put_split(tmp_path / files)
    put_images(tmp_path / images, name.format("000000000042"), name.format("000000000007"))
    assert read_vqav2(tmp_path, split="train") == [
        {
            "image": tmp_path / images / name.format("000000000042"),
            "question": "What color is the cat?",
            "id": 421,
            "image_id": 42,
            "answers": ["red"] * 9 + [" Dark red"],
            "multiple_choice_answer": "red",
            "question_type": "what color is the",
            "answer_type": "other",
        },
        {
            "image": tmp_path / images / name.format("000000000007"),
            "question": "Is it raining?",
            "id": 70,
            "image_id": 7,
            "answers": ["yes"] * 6 + ["no"] * 4,
            "multiple_choice_answer": "yes",
            "question_type": "is it",
            "answer_type": "yes/no",
        },
    ]


def test_a_split_may_be_named_with_its_year(tmp_path):
    put_split(tmp_path)
    assert len(read_vqav2(tmp_path, split="train2014", check_images=False)) == 2


@pytest.mark.parametrize("subset", ["test2015", "test-dev2015"])
def test_test_splits_have_no_answers_and_share_their_images(tmp_path, subset):
    put_split(tmp_path, {**QUESTIONS, "data_subtype": subset}, None, subset)
    other = "test2015" if subset != "test2015" else "test-dev2015"
    put_split(tmp_path, {"questions": []}, None, other)
    put_images(tmp_path / "test2015", "COCO_test2015_000000000042.jpg", "COCO_test2015_000000000007.jpg")
    samples = read_vqav2(tmp_path, split=subset.removesuffix("2015"))
    assert [sample["id"] for sample in samples] == [421, 70]
    assert all(set(sample) == {"image", "question", "id", "image_id"} for sample in samples)


def test_files_may_be_named_one_by_one(tmp_path):
    questions = put_json(tmp_path / "a" / "asked.json", QUESTIONS)
    annotations = put_json(tmp_path / "b" / "answered.json", ANNOTATIONS)
    put_images(tmp_path / "c" / "train2014", "COCO_train2014_000000000042.jpg", "COCO_train2014_000000000007.jpg")
    for folder in (tmp_path / "c", tmp_path / "c" / "train2014"):
        samples = read_vqav2(
            tmp_path, "train", questions_file=questions, annotation_file=annotations, image_folder=folder
        )
        assert [sample["image"].parent for sample in samples] == [tmp_path / "c" / "train2014"] * 2
        assert [sample["answer_type"] for sample in samples] == ["other", "yes/no"]
    assert "answers" not in read_vqav2(tmp_path / "c", "train", questions_file=questions)[0]


def test_the_scenes_are_read(tmp_path):
    root = generate_scenes(tmp_path / "scenes", {"train": 30, "val": 20}, seed=1)
    captions = json.loads((root / "annotations" / "captions_val.json").read_text())
    names = {image["id"]: image["file_name"] for image in captions["images"]}
    samples = read_vqav2(root, split="val")
    file = root / "annotations" / "v2_scenes_val_annotations.json"
    entries = json.loads(file.read_text())["annotations"]
    assert [sample["id"] for sample in samples] == [entry["question_id"] for entry in entries]
    assert all(len(sample["answers"]) == 10 for sample in samples)
    assert [sample["image"] for sample in samples] == [
        root / "images" / "val" / names[entry["image_id"]] for entry in entries
    ]
    assert {sample["image_id"] for sample in samples}.isdisjoint(
        sample["image_id"] for sample in read_vqav2(root, split="train")
    )


def test_images_that_are_no_cocos_need_the_file_that_names_them(tmp_path):
    own = {**QUESTIONS, "data_type": "birds", "data_subtype": "train"}
    questions = put_json(tmp_path / "asked.json", own)
    with pytest.raises(
        FileNotFoundError, match=r"captions_train\.json: no such file; the images of asked\.json are no"
    ):
        read_vqav2(tmp_path, "train", questions_file=questions)
    put_json(tmp_path / "captions_train.json", {"images": [{"id": 42, "file_name": "a.png"}]})
    with pytest.raises(ValueError, match=r"asked\.json: question 70 is about image 7, which is not among the 1 images"):
        read_vqav2(tmp_path, "train", questions_file=questions)


def test_questions_without_their_image_are_left_out_with_one_warning(tmp_path):
    put_split(tmp_path)
    put_images(tmp_path / "train2014", "COCO_train2014_000000000007.jpg")
    with pytest.warns(UserWarning) as warned:
        samples = read_vqav2(tmp_path, split="train")
    assert [sample["id"] for sample in samples] == [70]
    (message,) = (str(warning.message) for warning in warned)
    assert "of 2 questions 1 lack an image on disk (the first: " in message and "000000000042.jpg)" in message
    assert len(read_vqav2(tmp_path, split="train", check_images=False)) == 2


def test_a_wrong_image_folder_is_an_error(tmp_path):
    put_split(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none of its 2 questions has its images .*elsewhere.*check the image"):
        read_vqav2(tmp_path, image_folder=tmp_path / "elsewhere", split="train")


@pytest.mark.parametrize(
    ("questions", "error", "message"),
    [
        ('{"questions": [', ValueError, "not valid JSON"),
        ([1], ValueError, "expected an object with 'questions', found list"),
        ({"questions": []}, ValueError, "it holds no question"),
        (lacking(QUESTIONS, "questions", 1, "image_id"), KeyError, r"questions\[1\]: no key 'image_id'"),
        (lacking(QUESTIONS, "questions", 1, "question_id"), KeyError, r"questions\[1\]: no key 'question_id'"),
        (changed(QUESTIONS, "questions", 1, question=" "), ValueError, r"questions\[1\]: expected a question .* ' '"),
        (changed(QUESTIONS, "questions", 1, question=5), ValueError, r"questions\[1\]: expected a question .* 5"),
        (
            changed(QUESTIONS, "questions", 1, question_id=421),
            ValueError,
            "these question_ids occur more than once: 421; keep one",
        ),
    ],
)
def test_a_file_of_questions_out_of_format_names_the_place(tmp_path, questions, error, message):
    with pytest.raises(error, match=rf"train2014_questions\.json: {message}"):
        read_vqav2(put_split(tmp_path, questions), split="train", check_images=False)


@pytest.mark.parametrize(
    ("annotations", "error", "message"),
    [
        ({"questions": []}, KeyError, "no key 'annotations'"),
        (lacking(ANNOTATIONS, "annotations", 1, "question_id"), KeyError, r"annotations\[1\]: no key 'question_id'"),
        (lacking(ANNOTATIONS, "annotations", 1, "answer_type"), KeyError, r"annotations\[1\]: no key 'answer_type'"),
        (
            changed(ANNOTATIONS, "annotations", 1, answers=[]),
            ValueError,
            r"annotations\[1\]: expected a list of answers",
        ),
        (
            changed(ANNOTATIONS, "annotations", 1, answers=[{"answer": "a"}, {"answer": 3}]),
            ValueError,
            r"annotations\[1\]\.answers\[1\]: expected 'answer' as text, found 3",
        ),
        (
            changed(ANNOTATIONS, "annotations", 1, image_id=43),
            ValueError,
            r"annotations\[1\]: question 421 is about image 43 here, but about 42 in .*questions\.json",
        ),
        (
            changed(ANNOTATIONS, "annotations", 1, question_id=70),
            ValueError,
            "these question_ids occur more than once: 70; keep one",
        ),
    ],
)
def test_a_file_of_answers_out_of_format_names_the_place(tmp_path, annotations, error, message):
    with pytest.raises(error, match=rf"train2014_annotations\.json: {message}"):
        read_vqav2(put_split(tmp_path, annotations=annotations), split="train", check_images=False)


def test_answers_to_other_questions_are_listed(tmp_path):
    strangers = [annotation(900 + i, 7, ["no"] * 10, ("is it", "yes/no")) for i in range(7)]
    put_split(tmp_path, annotations={"annotations": [ANNOTATIONS["annotations"][1], *strangers]})
    with pytest.raises(ValueError) as raised:
        read_vqav2(tmp_path, split="train", check_images=False)
    assert "1 questions have no annotation (70)" in str(raised.value)
    assert "7 annotations no question (900, 901, 902, 903, 904 and 2 more)" in str(raised.value)


def test_folders_that_are_unclear_or_hold_no_such_split(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; expected the root"):
        read_vqav2(tmp_path / "nowhere", split="train")
    with pytest.raises(SplitNotFoundError, match="there is no such file at all"):
        read_vqav2(tmp_path, split="train")
    put_split(tmp_path)
    with pytest.raises(
        SplitNotFoundError, match=r"no v2_OpenEnded_\*_val\*.*there is v2_OpenEnded_mscoco_train2014_qu"
    ):
        read_vqav2(tmp_path, split="val")
    put_split(tmp_path / "annotations")
    with pytest.raises(ValueError, match=r"several files would fit \(.*; name the one that is meant"):
        read_vqav2(tmp_path, split="train")


def test_what_a_file_of_questions_says_of_its_folder_is_a_name(tmp_path):
    asked = {"data_subtype": ["val2014"], "questions": [{"question_id": 1, "image_id": 42, "question": "what?"}]}
    with pytest.raises(
        ValueError, match=r"q\.json: expected data_subtype as a name such as 'val', found \['val2014'\]"
    ):
        read_vqav2(tmp_path, "val", questions_file=put_json(tmp_path / "q.json", asked))
