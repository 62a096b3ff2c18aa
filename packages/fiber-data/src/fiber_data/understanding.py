"""Questions about an image and sentences about two as map-style data sets; see `SeededDataset` of their common traits.

A flip is held back by every text that names a side: the question, what people answered to it ("left"), the sentence.
In a pair each image is augmented by itself, and never exchanged with the other: "the left image" is about its position.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fiber_data.answers import AnswerVocabulary, soft_scores
from fiber_data.columns import image_numbers
from fiber_data.dataset import SeededDataset, Transform, is_lazy
from fiber_data.formats.nlvr2 import ReasoningSample
from fiber_data.formats.vqav2 import QuestionSample
from fiber_data.images import Orientation
from fiber_data.mapped import glance


class QuestionDataset(SeededDataset[QuestionSample]):
    """Questions about images.

    An item is a dict:

    - ``pixel_values``: what the transform made of the image, float32 (3, H, W);
    - ``text``: the question, and ``text_id``: its position among the samples;
    - ``answers``, if the samples have them: what people answered;
    - ``answer_targets``, if there is a vocabulary too: the score of each of its A answers, float32 (A,);
    - ``id``: the question's id in its file; ``image_id``: the number of its image, counting the images of the
      samples in the order in which they first come;
    - ``index`` and ``seed``.

    Args:
        samples: Samples as of `fiber_data.read_vqav2`, with answers all or none. Images are numbered by their paths;
            those that are held in memory by the samples' ``image_id``.
        transform: As of `SeededDataset`.
        vocabulary: The answers that the model chooses from, or None for no targets. A question that nobody
            answered with one of them has a target of zeros, see `coverage`.
        normalize: Whether people's answers are normalized before they are counted, see `fiber_data.soft_scores`.
        seed: Seed of everything random.
        exif: As of `SeededDataset`, like `max_pixels`.
        max_pixels: As there.

    Raises:
        ValueError: There are no samples, only some have answers, or the vocabulary has no answer to any question.
    """

    def __init__(
        self,
        samples: Iterable[QuestionSample],
        transform: Transform,
        vocabulary: AnswerVocabulary | None = None,
        *,
        normalize: bool = True,
        seed: int = 0,
        exif: Orientation | None = None,
        max_pixels: int | None = None,
    ) -> None:
        samples = samples if is_lazy(samples) else list(samples)
        super().__init__(samples, transform, seed, exif=exif, max_pixels=max_pixels)
        self.vocabulary = vocabulary
        self.normalize = normalize
        num_annotated, is_covered, self.image_ids = self._look_at(samples)
        """For every item the number of its image, int64 (len(self),)."""
        if num_annotated not in (0, len(samples)):
            raise ValueError(
                f"{num_annotated} of {len(samples)} questions have answers: make one set of these, another of the rest"
            )
        if vocabulary is not None and num_annotated and not is_covered:
            raise ValueError(
                f"not one of {len(samples)} questions has an answer among the {len(vocabulary)} of the vocabulary (it "
                f"begins {list(vocabulary.answers[:3])}): is it that of another data set?"
            )

    def _look_at(self, samples: Sequence[QuestionSample]) -> tuple[int, bool, Tensor]:
        """How many have answers, whether the vocabulary has one of these, and the numbers of images, in one pass."""
        num_annotated, is_covered = 0, False

        def look(sample: Mapping[str, Any]) -> None:
            nonlocal num_annotated, is_covered
            num_annotated += "answers" in sample
            is_covered = is_covered or (
                self.vocabulary is not None and "answers" in sample and self._is_covered(sample)
            )

        numbers = image_numbers(samples, "image_id", look, "answers")
        return num_annotated, is_covered, numbers

    def coverage(self) -> float:
        """The share of questions, 0..1, that someone answered with an answer of the vocabulary; the others teach no.

        Raises:
            ValueError: There is no vocabulary, or the questions have no answers.
        """
        if self.vocabulary is None or "answers" not in self.samples[0]:
            raise ValueError("coverage is that of answers by a vocabulary: give samples with answers, and a vocabulary")
        return sum(map(self._is_covered, glance(self.samples, "answers"))) / len(self)

    def _is_covered(self, sample: Mapping[str, Any]) -> bool:
        assert self.vocabulary is not None, "asked only where there is one"
        return any(answer in self.vocabulary for answer in soft_scores(sample["answers"], normalize=self.normalize))

    def make_item(self, index: int) -> dict[str, Any]:
        """The item at `index`, as the class describes it."""
        sample = self.samples[index]
        texts: dict[str, Any] = {"text": sample["question"], "text_id": index}
        if "answers" in sample:
            texts["answers"] = sample["answers"]
        item = self.transformed(sample["image"], texts)
        if self.vocabulary is not None and "answers" in sample:
            item["answer_targets"] = self.vocabulary.encode(sample["answers"], normalize=self.normalize)
        return {**item, "id": sample["id"], "image_id": int(self.image_ids[index])}


class ReasoningDataset(SeededDataset[ReasoningSample]):
    """Sentences that are true or false of two images.

    An item is a dict:

    - ``pixel_values``: what the transform made of the images, left and right, float32 (2, 3, H, W);
    - ``text``: the sentence, and ``text_id``: its position among the samples;
    - ``labels``, if the samples have them: int64 (), 1 = true, 0 = false;
    - ``id``: the identifier in the file; ``image_id``: the number of the pair, as `text_id`;
    - ``index`` and ``seed``.

    Args:
        samples: Samples as of `fiber_data.read_nlvr2`, with labels all or none.
        transform: As of `SeededDataset`; it makes images of one size.
        seed: Seed of everything random.
        exif: As of `SeededDataset`, like `max_pixels`.
        max_pixels: As there.

    Raises:
        ValueError: There are no samples, or only some have a label.
    """

    def __init__(
        self,
        samples: Iterable[ReasoningSample],
        transform: Transform,
        *,
        seed: int = 0,
        exif: Orientation | None = None,
        max_pixels: int | None = None,
    ) -> None:
        super().__init__(samples, transform, seed, exif=exif, max_pixels=max_pixels)
        num_labeled = sum(sample.get("label") is not None for sample in glance(self.samples, "label"))
        if num_labeled not in (0, len(self)):
            raise ValueError(
                f"{num_labeled} of {len(self)} sentences have a label: make one set of these, another of the rest"
            )

    def make_item(self, index: int) -> dict[str, Any]:
        """The item at `index`, as the class describes it."""
        sample = self.samples[index]
        text = {"text": sample["statement"]}
        images: list[Tensor] = [self.transformed(image, text)["pixel_values"] for image in sample["images"]]
        item = {"pixel_values": torch.stack(images), **text, "text_id": index, "id": sample["id"], "image_id": index}
        if (label := sample.get("label")) is not None:
            item["labels"] = torch.tensor(int(label))
        return item
