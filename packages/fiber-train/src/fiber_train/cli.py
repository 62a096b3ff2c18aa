"""The `fiber` command: train, evaluate, retrieve, answer, caption, detect, ground, refer, quickstart."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fiber_heads import FiberForCaptioning, FiberForGrounding, FiberForPretraining, FiberForQuestionAnswering
from lightning_fabric import Fabric
from lightning_fabric.utilities.rank_zero import rank_zero_only

from fiber_train.config import load_config, to_yaml
from fiber_train.drawing import draw_detections
from fiber_train.loop import NonFiniteLossError
from fiber_train.predict import find_images, load_model, retrieve
from fiber_train.quickstart import quickstart
from fiber_train.run import train, write_json
from fiber_train.tasks import BY_NAME, Evaluation, Task, make_task


def build_parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="fiber", description="Train and use FIBER vision-language models.")
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="run a recipe; the same command goes on after an interruption")
    train.add_argument("recipe", help="name of a recipe (coarse, vqa, caption_mle, ...) or path of a YAML file")
    train.add_argument(
        "overrides",
        nargs="*",
        help="settings, such as data.root=DATA out=runs/a trainer.devices=8; a word without = is a further recipe, "
        "laid over those before it",
    )
    train.add_argument("--print-config", action="store_true", help="print the whole configuration and stop")

    evaluate = _with_checkpoint(commands, "evaluate", "measure a model by its task's metric on a held-out split")
    evaluate.add_argument("--data", type=Path, required=True, help="folder of a data set of the task")
    evaluate.add_argument("--split", default="val", help="split to measure on (%(default)s)")
    evaluate.add_argument("--out", type=Path, help="JSON file for the numbers")
    evaluate.add_argument(
        "--predictions", type=Path, help="file (of several, folder) for what the benchmark's tool takes"
    )
    evaluate.add_argument("overrides", nargs="*", help="settings, such as data.num_workers=8 retrieval.rerank=0")

    _add_questions(commands)

    quickstart = commands.add_parser(
        "quickstart", help="generate pictures, train both stages on them, report what was learned"
    )
    quickstart.add_argument("--out", type=Path, default=Path("quickstart"), help="folder to write to (%(default)s)")
    quickstart.add_argument("overrides", nargs="*", help="settings of its runs to change")
    return parser


def _add_questions(commands: Any) -> None:
    """What a trained model can be asked about one's own pictures."""
    retrieve = _with_checkpoint(commands, "retrieve", "rank the pictures of a folder by a text")
    retrieve.add_argument("--images", type=Path, required=True, help="folder of pictures, searched with its subfolders")
    retrieve.add_argument("--query", required=True, help="what to look for")
    retrieve.add_argument("--top", type=int, default=5, help="how many to print (%(default)s)")
    retrieve.add_argument("--rerank", type=int, default=0, help="look again at so many of the best, with the matcher")

    answer = _with_checkpoint(commands, "answer", "answer a question about a picture")
    answer.add_argument("image", type=Path, help="the picture")
    answer.add_argument("question", help="what to ask")
    answer.add_argument("--top", type=int, default=3, help="how many answers to print (%(default)s)")

    caption = _with_checkpoint(commands, "caption", "write captions for pictures")
    caption.add_argument("images", type=Path, nargs="+", help="the pictures")
    caption.add_argument("--top", type=int, default=1, help="captions of each picture (%(default)s)")

    detect = _with_picture(commands, "detect", "find objects by name")
    detect.add_argument("--categories", required=True, help="what to find, such as 'person, dog'")
    ground = _with_picture(commands, "ground", "find what the phrases of a sentence speak of")
    ground.add_argument("sentence", help="such as 'a man throws a ball to a dog'")
    for command in (detect, ground):
        command.add_argument("--threshold", type=float, default=0.3, help="least score (%(default)s)")
    refer = _with_picture(commands, "refer", "find the one thing that an expression describes")
    refer.add_argument("expression", help="such as 'the man on the left'")


def _with_checkpoint(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text)
    command.add_argument("--checkpoint", type=Path, required=True, help="folder of a run, checkpoint or model")
    return command


def _with_picture(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command = _with_checkpoint(commands, name, f"{text}, and draw boxes")
    command.add_argument("image", type=Path, help="the picture")
    command.add_argument("--out", type=Path, help="picture to write; PHOTO.boxes.png by default")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: The words after `fiber`; None takes them from the shell.

    Returns:
        0; 1 when the input is at fault, with the reason on standard error; 3 when a run was asked to stop.
    """
    options = build_parser().parse_args(arguments)
    try:
        return _COMMANDS[options.command](options)
    except (FileNotFoundError, FileExistsError, KeyError, ValueError, NonFiniteLossError) as error:
        if os.environ.get("FIBER_TRACEBACK"):  # for those who look for the cause in the code
            raise
        sys.stderr.write(f"fiber: {error.args[0] if isinstance(error, KeyError) else error}\n")
        return 1


def _train(options: argparse.Namespace) -> int:
    layers = [options.recipe, *(word for word in options.overrides if "=" not in word)]
    config = load_config(layers, [word for word in options.overrides if "=" in word])
    if options.print_config:
        sys.stdout.write(to_yaml(config))
        return 0
    return _finish(train(config), make_task(config))


def _evaluate(options: argparse.Namespace) -> int:
    model, processor = load_model(options.checkpoint)
    name = next(name for name, task in BY_NAME.items() if task.model_class is type(model))
    given = [f"task={name}", f"data.root={options.data}", f"out={options.checkpoint}"]
    task = make_task(load_config([], [*given, *options.overrides]))
    fabric = Fabric(devices=1)
    found = task.measure(model.to(fabric.device), task.read(options.split), processor, fabric)
    if options.out:
        write_json(options.out, found.numbers)
    if options.predictions:
        _write_predictions(options.predictions, found, name)
    return _finish(found.numbers, task)


def _write_predictions(path: Path, found: Evaluation, task: str) -> None:
    """One file under the name that was given, several into a folder of this name."""
    if not found.predictions:
        raise ValueError(f"--predictions: {task} has no file of predictions here")
    if len(found.predictions) == 1:
        found.write_predictions(path.parent, path.name)
    else:
        path.mkdir(parents=True, exist_ok=True)
        found.write_predictions(path)


def _retrieve(options: argparse.Namespace) -> int:
    images = find_images(options.images)
    model, processor = load_model(options.checkpoint, FiberForPretraining)
    for rank, match in enumerate(retrieve(model, processor, images, options.query, options.top, options.rerank), 1):
        sys.stdout.write(f"{rank:>3}  {match.score:7.3f}  {match.path}\n")
    return 0


def _answer(options: argparse.Namespace) -> int:
    model, _ = load_model(options.checkpoint, FiberForQuestionAnswering)
    for answer in model.answer(options.image, options.question, options.top)[0]:
        sys.stdout.write(f"{answer.probability:6.3f}  {answer.text}\n")
    return 0


def _caption(options: argparse.Namespace) -> int:
    model, _ = load_model(options.checkpoint, FiberForCaptioning)
    for path in options.images:
        for caption in model.caption(path, options.top)[0]:
            sys.stdout.write(f"{path}  {caption.score:7.3f}  {caption.text}\n")
    return 0


def _box(options: argparse.Namespace) -> int:
    model, _ = load_model(options.checkpoint, FiberForGrounding)
    image, least = options.image, getattr(options, "threshold", 0.0)
    if options.command == "refer":
        found = model.refer(image, options.expression)[0]
    elif options.command == "ground":
        found = model.ground(image, options.sentence, threshold=least**2)[0]  # a score is at most the root of that
    else:
        categories = [name.strip() for name in options.categories.split(",")]
        found = model.detect(image, categories, threshold=least**2)[0]
    kept = int((found["scores"] >= least).sum())  # they come best first
    found = {name: value[:kept] for name, value in found.items()}
    rows = zip(found["scores"].tolist(), found["text_labels"], found["boxes"].tolist(), strict=True)
    for score, name, box in rows:
        sys.stdout.write(f"{score:6.3f}  {name:24}  {'  '.join(f'{side:7.1f}' for side in box)}\n")
    target = options.out or Path(f"{image.stem}.boxes.png")
    draw_detections(image, found).save(target)
    sys.stdout.write(f"{len(found['scores'])} boxes in {target}\n")
    return 0


def _quickstart(options: argparse.Namespace) -> int:
    reached = quickstart(options.out, options.overrides)
    if reached is None:
        return 3
    parts = [f"{title}\n{text}\n" for title, text in reached.items()]
    sys.stdout.write("\n".join([*parts, f"open {options.out / 'report.html'}\n"]))
    return 0


def _finish(results: dict[str, float] | None, task: Task) -> int:
    """Prints what a run reached, once for all processes; a run that was asked to stop reached nothing yet."""
    if results is None:
        return 3
    rank_zero_only(sys.stdout.write)(f"{task.describe(results)}\n")
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "evaluate": _evaluate,
    "retrieve": _retrieve,
    "answer": _answer,
    "caption": _caption,
    "detect": _box,
    "ground": _box,
    "refer": _box,
    "quickstart": _quickstart,
}


if __name__ == "__main__":
    sys.exit(main())
