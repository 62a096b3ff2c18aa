"""The `fiber-eval` command: official scores of result files, without a model."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MOST_ROWS = 100  # of one group in the table; the JSON file has all


@dataclass(frozen=True)
class Benchmark:
    """What can be scored from files.

    Attributes:
        name: What the command calls it.
        module: The module whose `score_files(annotations, results, **options)` scores it; imported when it is needed.
        annotations: The form of the annotation file.
        results: The form of the result file.
        paper: The paper whose numbers are meant.
    """

    name: str
    module: str
    annotations: str
    results: str
    paper: str


BENCHMARKS = (
    Benchmark(
        "vqa",
        "fiber_eval.question_answering",
        "VQAv2's annotations, JSON {annotations: [{question_id, question_type, answer_type, answers: [{answer}]}]}",
        "JSON [{question_id, answer}]",
        "Goyal et al. 2017, Making the V in VQA Matter, https://arxiv.org/abs/1612.00837",
    ),
    Benchmark(
        "nlvr2",
        "fiber_eval.reasoning",
        "NLVR2's dev.json or test1.json, one JSON object {identifier, label} a line",
        "text, one identifier,True or identifier,False a line",
        "Suhr et al. 2019, A Corpus for Reasoning about Natural Language, https://arxiv.org/abs/1811.00491",
    ),
    Benchmark(
        "retrieval",
        "fiber_eval.retrieval_files",
        "npz or JSON object with text_image_index: for each text the row of its image (may be the result file)",
        "npz or JSON object with scores [images][texts], higher being better",
        "Faghri et al. 2018, VSE++, https://arxiv.org/abs/1707.05612",
    ),
    Benchmark(
        "captions",
        "fiber_eval.captioning.metric",
        "COCO's captions_*.json, {images: [{id}], annotations: [{image_id, caption}]}",
        "JSON [{image_id, caption}]",
        "Chen et al. 2015, Microsoft COCO Captions, https://arxiv.org/abs/1504.00325",
    ),
    Benchmark(
        "refcoco",
        "fiber_eval.referring",
        "COCO JSON, an expression an image: {images: [{id, dataset_name}], annotations: [{image_id, bbox}]}",
        "JSON [{image_id, bbox: [x, y, width, height], score}] or {id: {boxes: [[x1, y1, x2, y2], ...], scores}}",
        "Yu et al. 2016, Modeling Context in Referring Expressions, https://arxiv.org/abs/1608.00272",
    ),
    Benchmark(
        "flickr30k",
        "fiber_eval.phrase_grounding",
        "folder of Flickr30k Entities: Annotations/*.xml, Sentences/*.txt and test.txt",
        "JSON [{image_id, sentence_id, boxes: for each phrase with boxes [[x1, y1, x2, y2], ...], best first}]",
        "Plummer et al. 2015, Flickr30k Entities, https://arxiv.org/abs/1505.04870; protocol of MDETR",
    ),
    Benchmark(
        "coco",
        "fiber_eval.detection",
        "COCO's instances_*.json",
        "JSON [{image_id, category_id, bbox: [x, y, width, height] or segmentation, score}]",
        "Lin et al. 2014, Microsoft COCO, https://arxiv.org/abs/1405.0312",
    ),
    Benchmark(
        "lvis",
        "fiber_eval.lvis",
        "LVIS's lvis_v1_*.json",
        "JSON [{image_id, category_id, bbox: [x, y, width, height] or segmentation, score}]",
        "Gupta et al. 2019, LVIS, https://arxiv.org/abs/1908.03195; fixed AP: https://arxiv.org/abs/2102.01066",
    ),
    Benchmark(
        "odinw",
        "fiber_eval.odinw",
        "folder of COCO annotation files, one a data set: Aquarium.json, pothole.json, ...",
        "folder of COCO results files of the same names",
        "Li et al. 2022, Grounded Language-Image Pre-training, https://arxiv.org/abs/2112.03857",
    ),
)


def build_parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="fiber-eval", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="benchmark")
    commands.add_parser("list", help="name the benchmarks, their file formats and the paper that each follows")
    for benchmark in BENCHMARKS:
        command = commands.add_parser(benchmark.name, help=benchmark.paper, description=f"Follows {benchmark.paper}.")
        command.add_argument("--annotations", type=Path, required=True, help=benchmark.annotations)
        command.add_argument("--results", type=Path, required=True, help=benchmark.results)
        command.add_argument("--out", type=Path, help="JSON file to write the scores to, in full precision")
        command.add_argument(
            "--option",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"an option of {benchmark.module}.score_files, the value in JSON or as it is; may be repeated",
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: The words after ``fiber-eval``; None takes them from the shell.

    Returns:
        0, or 1 when the input is at fault or something is not installed; the reason goes to standard error.
    """
    options = build_parser().parse_args(arguments)
    try:
        text = describe() if options.command == "list" else _score(options)
    except (OSError, KeyError, ValueError, ImportError, RuntimeError) as error:  # the last: a Java program failed
        sys.stderr.write(f"fiber-eval: {error.args[0] if isinstance(error, KeyError) else error}\n")
        return 1
    sys.stdout.write(text)
    return 0


def describe() -> str:
    """All benchmarks, their file formats and papers, as text."""
    return "\n".join(
        f"{each.name}\n  annotations  {each.annotations}\n  results      {each.results}\n  paper        {each.paper}\n"
        for each in BENCHMARKS
    )


def _score(options: argparse.Namespace) -> str:
    """The table of scores; also writes them to the file that was asked for."""
    benchmark = next(each for each in BENCHMARKS if each.name == options.command)
    for name in ("annotations", "results"):
        if not getattr(options, name).exists():
            raise ValueError(f"--{name}: {getattr(options, name)} does not exist.")
    if options.out and not options.out.parent.is_dir():  # said before the work, not after
        raise ValueError(f"--out: the folder {options.out.parent} does not exist; make it first.")
    try:
        score_files = importlib.import_module(benchmark.module).score_files
        chosen = _chosen(options.option, score_files)
        scores = _plain(score_files(options.annotations, options.results, **chosen))
    except (AttributeError, TypeError) as error:
        if not options.option:  # then it is our mistake
            raise
        raise ValueError(f"--option {' --option '.join(options.option)} does not fit: {error}.") from error
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("fiber_eval"):  # it says by itself what is wrong
            raise
        raise ImportError(
            f"{benchmark.name} needs {error.name}, which is not installed; pip install {error.name.partition('.')[0]}."
        ) from error
    if options.out:
        options.out.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    rows = list(_rows(scores))
    width = max((len(name) for name, _ in rows), default=0)
    return "".join(f"{name:{width}}  {value:>10}\n" for name, value in rows)


def _chosen(words: Sequence[str], score_files: Callable) -> dict[str, Any]:
    """The options among `words`, each "name=value", that the benchmark must know."""
    parameters = list(inspect.signature(score_files).parameters.values())[2:]
    known = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    chosen = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--option must be NAME=VALUE, but is {word!r}.")
        if name not in known and len(known) == len(parameters):
            raise ValueError(f"--option {name} is unknown; known are: {', '.join(known) or 'none'}.")
        try:
            chosen[name] = json.loads(value)
        except json.JSONDecodeError:
            chosen[name] = value
    return chosen


def _plain(value: Any) -> Any:
    """What JSON can hold; numbers that it cannot are null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if hasattr(value, "tolist"):  # a tensor or an array
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(scores: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Name and value of each number; nested names are joined by dots, long groups are counted only."""
    if isinstance(scores, Mapping | list):
        items = list(scores.items() if isinstance(scores, Mapping) else enumerate(scores))
        if name and len(items) > _MOST_ROWS:
            yield name, f"{len(items)} entries, see --out"
            return
        for key, value in items:
            yield from _rows(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, f"{scores:.4f}" if isinstance(scores, float) else str(scores)


if __name__ == "__main__":
    sys.exit(main())
