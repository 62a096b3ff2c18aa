"""The classes of question answering: the official normal form, soft scores, the vocabulary and its file."""

import json

import pytest
import torch
from fiber_data import AnswerVocabulary, normalize_answer, soft_scores


def answered(*answers):
    return [{"id": number, "multiple_choice_answer": answer} for number, answer in enumerate(answers)]


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("YES.", "yes"),
        ("no,", "no"),
        (" The\tdog\n", "dog"),
        ("the", ""),
        ("An apple a day", "apple day"),
        ("two", "2"),
        ("None", "0"),
        ("twenty one", "twenty 1"),
        ("two-story", "2 story"),
        ("red - blue", "red blue"),
        ("yes/no", "yes no"),
        ("1,000", "1000"),
        ("1,000-2", "10002"),
        ("3.5", "3.5"),
        ("st. john", "st john"),
        ("dont", "don't"),
        ("don't", "don't"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("its", "its"),
        ("somebody'd", "somebodyd"),
        ("what's up?", "what's up"),
        ("5:30", "5:30"),
        ("." * 40, "." * 8),
    ],
)
def test_answers_take_the_official_normal_form(text, normalized):
    assert normalize_answer(text) == normalized


def test_scores_grow_with_the_people_who_agree():
    answers = ["a cat", "Cat", "cat."] + ["dog"] * 4 + ["two", "2"] + ["owl"]
    assert soft_scores(answers) == {"cat": 0.9, "dog": 1.0, "2": 0.6, "owl": 0.3}
    assert soft_scores(["dog"] * 10) == {"dog": 1.0}


def test_answers_can_be_counted_as_written():
    as_written = {"a cat": 0.3, "Cat": 0.3, "2": 0.6, "dog": 1.0}
    answers = ["a cat", "Cat", "2", "2"] + ["dog"] * 6
    assert soft_scores(answers, normalize=False) == as_written
    vocabulary = AnswerVocabulary(("2", "cat", "dog"))
    assert vocabulary.encode(answers, normalize=False).tolist() == torch.tensor([0.6, 0.0, 1.0]).tolist()


def test_a_target_scores_every_class():
    target = AnswerVocabulary(("dog", "2", "zebra")).encode(["two", "2"] + ["Dog"] * 3 + ["cat"] * 5)
    assert torch.equal(target, torch.tensor([0.9, 0.6, 0.0])) and target.dtype == torch.float32
    assert AnswerVocabulary(("zebra",)).encode(["dog"] * 10).tolist() == [0.0]


def test_frequent_answers_make_the_vocabulary_in_the_order_they_come():
    samples = answered(*["dog"] * 8, *["two", "2", "2."] * 3, "Dog", *["cat"] * 8)
    assert AnswerVocabulary.from_annotations(samples).answers == ("dog", "2")
    assert AnswerVocabulary.from_annotations(reversed(samples), min_count=8).answers == ("cat", "dog", "2")


def test_answers_have_classes_and_classes_answers():
    vocabulary = AnswerVocabulary(("yes", "", "no"))
    assert [vocabulary.index(answer) for answer in vocabulary] == [0, 1, 2] and len(vocabulary) == 3
    assert vocabulary[2] == "no" and "no" in vocabulary and "No" not in vocabulary
    with pytest.raises(ValueError, match="'No' is not among the 3 answers"):
        vocabulary.index("No")


def test_saved_and_loaded_it_is_the_same(tmp_path):
    vocabulary = AnswerVocabulary(("yes", "café", ""))
    vocabulary.save(tmp_path / "answers.json")
    assert AnswerVocabulary.load(tmp_path / "answers.json") == vocabulary
    assert json.loads((tmp_path / "answers.json").read_text(encoding="utf-8")) == ["yes", "café", ""]


def test_the_list_that_the_field_uses_is_in_normal_form(real_data):
    vocabulary = AnswerVocabulary.load(real_data("") / "vqa_trainval_label2ans_3129.json")
    assert len(vocabulary) == 3129
    assert [answer for answer in vocabulary if normalize_answer(answer) != answer] == []


def test_what_is_no_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one answer, and texts only"):
        AnswerVocabulary(())
    with pytest.raises(ValueError, match="occur more than once: 'yes'; keep one"):
        AnswerVocabulary(("yes", "no", "yes"))
    with pytest.raises(ValueError, match="no answer occurs 9 times among those to 8 questions; lower min_count"):
        AnswerVocabulary.from_annotations(answered(*["yes"] * 8))
    with pytest.raises(ValueError, match="question 5 has no answer: read the split with its annotations"):
        AnswerVocabulary.from_annotations([{"id": 5}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["yes",', "not valid JSON"),
        ('{"yes": 0}', "expected a list of answers, found dict"),
        ('["yes", 1]', "texts only"),
        ('["yes", "yes"]', "occur more than once: 'yes'"),
    ],
)
def test_a_file_that_holds_no_vocabulary_is_named(tmp_path, content, message):
    (tmp_path / "answers.json").write_text(content)
    with pytest.raises(ValueError, match=rf"answers\.json: .*{message}"):
        AnswerVocabulary.load(tmp_path / "answers.json")
