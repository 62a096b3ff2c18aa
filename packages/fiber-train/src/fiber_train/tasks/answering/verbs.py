"""`fiber answer`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fiber_train.asking import add_images, ask
from fiber_train.listing import Found
from fiber_train.options import check_option

if TYPE_CHECKING:
    from fiber_train.inputs import InputImage


def answer(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Answer a question about images."""
    add_images(parser)
    parser.add_argument("question", help="what to ask")
    parser.add_argument("--top", type=int, default=3, help="how many answers to each image (%(default)s)")
    return _answer


def _answer(options: Namespace) -> int:
    from fiber_heads import FiberForQuestionAnswering

    check_option("--top", options.top, least=1)

    def find(model: Any, batch: list[InputImage]) -> list[Found]:
        questions = [options.question] * len(batch)
        answers = model.answer([image.pixels for image in batch], questions, top_k=options.top)
        return [_as_found(image.name, options.question, row) for image, row in zip(batch, answers, strict=True)]

    return ask(options, FiberForQuestionAnswering, find)


def _as_found(image: str, question: str, answers: list[Any]) -> Found:
    rows = [{"answer": each.text, "probability": round(each.probability, 5)} for each in answers]
    asked = {"image": image, "question": question}
    text = "\n".join(f"{row['probability']:6.3f}  {row['answer']}" for row in rows)
    return Found(asked | {"answers": rows}, [asked | row for row in rows], text)
