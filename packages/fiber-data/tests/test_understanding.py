"""Batches of questions, of sentences about two images, and of captions with all references of their image."""

import pickle

import pytest
import torch
from fiber_data import (
    AnswerVocabulary,
    BrokenSample,
    CaptionDataset,
    EpochIndex,
    EpochSampler,
    ImageTextCollator,
    QuestionDataset,
    ReasoningDataset,
    build_evaluation_transform,
    build_training_transform,
    read_nlvr2,
    read_vqav2,
)
from fiber_data.scenes import generate_scenes
from torch.utils.data import DataLoader

ALWAYS_FLIPPED = build_training_transform(16, crop_scale=(1, 1), flip_probability=1, num_operations=0)
NEVER_FLIPPED = build_training_transform(16, crop_scale=(1, 1), flip_probability=0, num_operations=0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return generate_scenes(tmp_path_factory.mktemp("scenes") / "set", {"train": 60}, seed=2, image_size=32)


@pytest.fixture(scope="module")
def questions(scenes):
    return read_vqav2(scenes, split="train")


@pytest.fixture(scope="module")
def pairs(scenes):
    return read_nlvr2(scenes, "train")


@pytest.fixture(scope="module")
def vocabulary(questions):
    return AnswerVocabulary.from_annotations(questions, min_count=1)


@pytest.fixture
def collate(tokenizer):
    return ImageTextCollator(tokenizer, 50, mlm_probability=None)


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) if isinstance(first[key], torch.Tensor) else first[key] == second[key]
        for key in first
    )


def shapes(batch):
    return {key: (tuple(value.shape), value.dtype) for key, value in batch.items() if isinstance(value, torch.Tensor)}


def is_flipped(make, sample):
    """Whether a transform that flips whatever it may flips this sample; of a pair, whether either image."""
    flipped, straight = (make([sample], transform)[0]["pixel_values"] for transform in (ALWAYS_FLIPPED, NEVER_FLIPPED))
    mirrored = straight.flip(-1)
    assert not torch.allclose(straight, mirrored), "the image is its own mirror image"
    assert torch.allclose(flipped, straight) or torch.allclose(flipped, mirrored)
    return not torch.allclose(flipped, straight)


# Questions


def test_a_batch_of_questions(questions, vocabulary, collate):
    dataset = QuestionDataset(questions, build_evaluation_transform(16), vocabulary)
    batch = collate([dataset[index] for index in range(5)])
    length = batch["input_ids"].shape[1]
    assert shapes(batch) == {
        "pixel_values": ((5, 3, 16, 16), torch.float32),
        "image_sizes": ((5, 2), torch.int64),
        **dict.fromkeys(("input_ids", "attention_mask"), ((5, length), torch.int64)),
        **dict.fromkeys(("image_ids", "indices", "seeds", "text_ids", "text_image_ids"), ((5,), torch.int64)),
        "answer_targets": ((5, len(vocabulary)), torch.float32),
    }
    assert set(batch) - set(shapes(batch)) == {"ids", "texts", "answers", "broken"}
    asked = questions[:5]
    assert batch["ids"] == [sample["id"] for sample in asked]
    assert batch["texts"] == [sample["question"] for sample in asked]
    assert batch["answers"] == [sample["answers"] for sample in asked]
    for target, sample in zip(batch["answer_targets"], asked, strict=True):
        assert vocabulary[int(target.argmax())] == sample["multiple_choice_answer"] and target.max() == 1


def test_questions_about_one_image_share_its_number(questions):
    dataset = QuestionDataset(questions, build_evaluation_transform(8))
    numbers = dict(zip(dataset.image_ids.tolist(), (sample["image"] for sample in questions), strict=True))
    assert list(numbers) == list(range(60)) and len(questions) > 100
    assert [numbers[item["image_id"]] for item in dataset] == [sample["image"] for sample in questions]
    sampler = EpochSampler(len(dataset), 16, unique_groups=dataset.image_ids)
    assert all(len(set(dataset.image_ids[batch].tolist())) == 16 for batch in sampler)


def test_without_answers_or_vocabulary_there_are_no_targets(questions, vocabulary, collate):
    bare = [{key: sample[key] for key in ("image", "question", "id", "image_id")} for sample in questions]
    batch = collate([QuestionDataset(bare, build_evaluation_transform(8), vocabulary)[0]])
    assert not {"answers", "answer_targets"} & set(batch)
    batch = collate([QuestionDataset(questions, build_evaluation_transform(8))[0]])
    assert "answers" in batch and "answer_targets" not in batch


def test_coverage_counts_the_questions_that_teach(questions):
    counts = [
        {**questions[0], "id": number, "answers": [answer] * 10} for number, answer in enumerate(("Two", "2", "3"))
    ]
    transform, vocabulary = build_evaluation_transform(8), AnswerVocabulary(("2",))
    dataset = QuestionDataset(counts, transform, vocabulary)
    assert dataset.coverage() == pytest.approx(2 / 3)
    assert [item["answer_targets"].tolist() for item in dataset] == [[1.0], [1.0], [0.0]]
    as_written = QuestionDataset(counts, transform, vocabulary, normalize=False)
    assert as_written.coverage() == pytest.approx(1 / 3)
    assert [item["answer_targets"].tolist() for item in as_written] == [[0.0], [1.0], [0.0]]
    with pytest.raises(ValueError, match="give samples with answers, and a vocabulary"):
        QuestionDataset(counts, transform).coverage()


def test_questions_that_fit_no_vocabulary_or_each_other_are_refused(questions, vocabulary):
    transform = build_evaluation_transform(8)
    with pytest.raises(
        ValueError, match=r"not one of \d+ questions has an answer among the 1 of the vocabulary \(it beg"
    ):
        QuestionDataset(questions, transform, AnswerVocabulary(("zebra",)))
    bare = {key: questions[0][key] for key in ("image", "question", "id", "image_id")}
    with pytest.raises(ValueError, match="1 of 2 questions have answers: make one set of these"):
        QuestionDataset([questions[1], bare], transform, vocabulary)
    with pytest.raises(ValueError, match="no samples"):
        QuestionDataset([], transform)


@pytest.mark.parametrize(
    ("question", "answer", "flipped"),
    [
        ("what is this?", "a circle", True),
        ("what is on the left?", "a circle", False),
        ("where is it looking?", "to the right", False),  # the answer names the side
    ],
)
def test_a_question_is_not_flipped_against_its_words_or_its_answers(questions, question, answer, flipped):
    sample = {**questions[0], "question": question, "answers": ["no idea"] * 9 + [answer]}
    assert is_flipped(QuestionDataset, sample) == flipped


# Sentences about two images


def test_a_batch_of_sentences_about_two_images(pairs, collate):
    dataset = ReasoningDataset(pairs, build_evaluation_transform(16))
    batch = collate([dataset[index] for index in range(4)])
    found = shapes(batch)
    assert found["pixel_values"] == ((4, 2, 3, 16, 16), torch.float32) and found["labels"] == ((4,), torch.int64)
    assert found["input_ids"] == found["attention_mask"] and found["input_ids"][0][0] == 4
    assert batch["labels"].tolist() == [int(sample["label"]) for sample in pairs[:4]] == [1, 0, 1, 0]
    assert batch["ids"] == [sample["id"] for sample in pairs[:4]]
    assert batch["texts"] == [sample["statement"] for sample in pairs[:4]]
    for row, sample in zip(batch["pixel_values"], pairs, strict=False):
        alone = [{"image": path, "captions": ["a"], "id": 0} for path in sample["images"]]
        left, right = (item["pixel_values"] for item in CaptionDataset(alone, build_evaluation_transform(16)))
        assert torch.equal(row, torch.stack([left, right]))


def test_images_of_unequal_size_make_a_pair(pairs, samples):
    pair = {**pairs[0], "images": (samples[0]["image"], samples[1]["image"])}
    assert ReasoningDataset([pair], build_training_transform(16))[0]["pixel_values"].shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("statement", "flipped"), [("both images show a dog.", True), ("The left image shows a dog.", False)]
)
def test_a_pair_is_not_flipped_if_its_sentence_names_a_side(pairs, statement, flipped):
    assert is_flipped(ReasoningDataset, {**pairs[0], "statement": statement}) == flipped


def test_each_image_of_a_pair_has_an_augmentation_of_its_own(pairs):
    twins = {**pairs[0], "images": (pairs[0]["images"][0],) * 2, "statement": "both images show a dog."}
    left, right = ReasoningDataset([twins], build_training_transform(16), seed=3)[0]["pixel_values"]
    assert not torch.equal(left, right)


def test_sentences_without_labels(pairs, collate):
    bare = [{**sample, "label": None} for sample in pairs]
    assert "labels" not in collate([ReasoningDataset(bare, build_evaluation_transform(8))[0]])
    with pytest.raises(ValueError, match="1 of 2 sentences have a label: make one set of these"):
        ReasoningDataset([pairs[0], bare[1]], build_evaluation_transform(8))


# What all share


@pytest.mark.parametrize("kind", ["questions", "pairs"])
def test_an_item_follows_from_seed_epoch_and_index_in_any_worker(request, questions, vocabulary, pairs, collate, kind):
    transform = build_training_transform(16)

    def make(seed):
        if kind == "questions":
            return QuestionDataset(questions, transform, vocabulary, seed=seed)
        return ReasoningDataset(pairs, transform, seed=seed)

    dataset, other_seed = make(1), make(2)
    item = dataset[EpochIndex(3, 2)]
    assert same(item, pickle.loads(pickle.dumps(dataset))[EpochIndex(3, 2)])
    for other in (dataset[EpochIndex(3, 1)], other_seed[EpochIndex(3, 2)]):
        assert other["text"] == item["text"] and not torch.equal(other["pixel_values"], item["pixel_values"])

    def batches(num_workers):
        sampler = EpochSampler(len(dataset), 7, seed=1)
        return list(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=num_workers))

    assert all(same(first, second) for first, second in zip(batches(0), batches(1), strict=True))


def test_a_broken_image_costs_one_sample(questions, vocabulary, pairs, collate, tmp_path):
    (tmp_path / "cut.png").write_bytes(b"no image")
    asked = [{**questions[0], "image": tmp_path / "cut.png"}, questions[1]]
    half = [{**pairs[0], "images": (pairs[0]["images"][0], tmp_path / "cut.png")}, pairs[1]]
    transform = build_evaluation_transform(8)
    for dataset in (QuestionDataset(asked, transform, vocabulary), ReasoningDataset(half, transform)):
        assert isinstance(dataset[0], BrokenSample)
        with pytest.warns(UserWarning, match=r"1 of 2 images of a batch left out: .*cut\.png: cannot be read"):
            batch = collate(list(dataset))
        assert batch["ids"] == [dataset[1]["id"]] and len(batch["pixel_values"]) == 1 and len(batch["broken"]) == 1


# Captions with references


@pytest.mark.parametrize("captions", ["random", "each"])
def test_a_batch_brings_all_references_of_each_image(samples, collate, captions):
    dataset = CaptionDataset(samples, build_evaluation_transform(8), captions=captions, references=True)
    batch = collate([dataset[index] for index in range(6)])
    images = [samples[number]["captions"] for number in batch["image_ids"]]
    assert batch["references"] == images and len(batch["texts"]) == 6
    assert all(text in references for text, references in zip(batch["texts"], images, strict=True))
    plain = CaptionDataset(samples, build_evaluation_transform(8), captions=captions)
    assert plain[2]["text"] == dataset[2]["text"] and "references" not in collate([plain[2]])


def test_a_image_is_not_mirrored_against_any_of_its_references(samples):
    sample = {**samples[0], "captions": ["a cat", "the dog on the left"]}

    def make(references):
        return lambda given, transform: CaptionDataset(given, transform, captions="each", references=references)

    assert is_flipped(make(False), sample) and not is_flipped(make(True), sample)
