"""The verbs of no task: train, evaluate, quickstart. What is heavy is imported when they run."""

from __future__ import annotations

import json
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fiber_train.options import add_checkpoint, add_trust

if TYPE_CHECKING:
    from fiber_train.tasks.base import Task
    from fiber_train.writing import Content


def train(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Train on your own data (captions, vqa or detect, and a folder), or run a recipe; the same command goes on."""
    parser.add_argument(
        "recipe",
        help="captions, vqa or detect, followed by the folder of your data; else the name of a recipe (coarse, vqa, "
        "caption_mle, ...) or the path of a YAML file",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        help="settings, such as data.root=DATA out=runs/a trainer.devices=8; a word without = is a further recipe, "
        "laid over those before it",
    )
    parser.add_argument("--checkpoint", help="what to start from: a run, a file of the original, or a name on the hub")
    parser.add_argument("--out", help="folder of the run; of your own data runs/NAME-FOLDER without it")
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration and stop")
    parser.add_argument(
        "--dry-run", action="store_true", help="build everything, print what the run would be, and stop"
    )
    add_trust(parser)
    return _train


def _train(options: Namespace) -> int:
    from fiber_train.config import load_config, resolved_yaml

    layers, overrides = _named(options)
    if options.trust:
        overrides.append(f"model.trusted={json.dumps(options.trust)}")
    if options.print_config:
        sys.stdout.write(resolved_yaml(layers, overrides))
        return 0
    config = load_config(layers, [*(["out=."] if options.dry_run else []), *overrides])
    from fiber_train.run import dry_run  # what is misspelled was told before
    from fiber_train.run import train as run
    from fiber_train.tasks.base import make_task

    if options.dry_run:
        sys.stdout.write(f"{dry_run(config)}\n")
        return 0
    task = make_task(config)
    results = run(config, task=task)
    if results is None:
        return _stopped()
    _print_once(task.summary(results))
    if (split := config.data.test_split) is not None:
        from fiber_train.evaluation import read_evaluation

        _print_once(f"\nbest weights on {split}\n{task.summary(read_evaluation(Path(config.out) / 'test'))}")
    _print_once("\n" + "\n".join(["next:", *_next(task)]))
    return 0


def _next(task: Task[Any]) -> list[str]:
    """What to type for a finished run."""
    from shlex import quote

    from fiber_backbone.seams import name_of

    from fiber_train.mixture import read_held_out
    from fiber_train.next_commands import next_commands

    out, data = quote(task.config.out), task.config.data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with the files was said
        lines = [*next_commands(task, task.config.out, read_held_out(task)), f"fiber report {out}"]
    if not data.sources and data.held_out is None:
        lines.append(f"fiber evaluate --checkpoint {out} --data {quote(data.root)}")
    named = [task.config.task.name, name_of(task.model_class, "fiber.models")]
    trust = "".join(f" --trust {quote(name)}" for name in named if ":" in name)  # what is no entry point is told again
    return [f"  {line}{trust}" for line in lines]


def _named(options: Namespace) -> tuple[list[str], list[str]]:
    """The recipes and the settings that were typed."""
    from fiber_train.own_data import is_own, local, resolve_own

    own = is_own(options.recipe, options.overrides)
    checkpoint = local(options.checkpoint) if options.checkpoint else None
    if own:
        layers, words = resolve_own(options.recipe, options.overrides, checkpoint)
    else:
        layers = [options.recipe, *(word for word in options.overrides if "=" not in word)]
        words = [f"model.checkpoint={checkpoint}"] if checkpoint else []
        words += [word for word in options.overrides if "=" in word]
    return layers, [*words, *([f"out={options.out}"] if options.out else [])]


def recipes(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """List the recipes, or show what one sets."""
    commands = parser.add_subparsers(dest="action", metavar="show")
    show = commands.add_parser("show", help="print all settings of a recipe, or of several laid over each other")
    show.add_argument("names", nargs="+", help="recipes, and settings such as trainer.devices=8")
    return _recipes


def _recipes(options: Namespace) -> int:
    from fiber_train.config import resolved_yaml
    from fiber_train.recipe_files import describe_recipes

    if options.action == "show":
        layers = [word for word in options.names if "=" not in word]
        overrides = [word for word in options.names if "=" in word]
        sys.stdout.write(resolved_yaml(layers, overrides))
        return 0
    found = describe_recipes()
    width = max(map(len, found))
    sys.stdout.write("".join(f"{name:{width}}  {text}\n" for name, text in found.items()))
    return 0


def evaluate(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Measure a model by its task's metric on a held-out split."""
    add_checkpoint(parser)
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set of the task")
    parser.add_argument("--split", help="split to measure on, by default that of the run")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    parser.add_argument(
        "--predictions", type=Path, help="file (of several, folder) for what the benchmark's tool takes"
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse a sample that cannot be read; it is left out and named otherwise"
    )
    parser.add_argument("overrides", nargs="*", help="settings, such as data.num_workers=8 task.rerank=0")
    return _evaluate


def _evaluate(options: Namespace) -> int:
    from fiber_train.checkpoint import find_model, load_model
    from fiber_train.evaluation import write_json
    from fiber_train.launch import build_fabric
    from fiber_train.outputs import claim_file, claim_folder, is_evaluation
    from fiber_train.peers import ending_together
    from fiber_train.stopping import say, stopping
    from fiber_train.submission import judge_submission
    from fiber_train.tasks.find import task_of_model

    if options.out:
        claim_file(options.out, "--out", is_evaluation)
    if options.predictions:
        (claim_folder if options.predictions.is_dir() else claim_file)(options.predictions, "--predictions")
    folder = find_model(options.checkpoint)
    original = {"tokenizer": options.tokenizer, "answers": options.answers}
    model, processor = load_model(folder, trusted=options.trust, **original)
    given = [f"data.root={options.data}"]
    given += [] if options.split is None else [f"data.eval_split={options.split}"]
    task = task_of_model(folder, model, [*given, *options.overrides], options.trust)
    with stopping() as stop:
        fabric = build_fabric(task, stop=stop)
        first = fabric.is_global_zero
        keep = partial(_keep_predictions, options.predictions) if options.predictions and first else None
        with ending_together(fabric, stop):
            samples = task.samples(task.config.data.eval_split)
            model = fabric.strategy.precision.convert_module(model.to(fabric.device))
            found = task.measure(model, samples, processor, fabric, strict=options.strict, keep=keep)
    if options.out and fabric.is_global_zero:
        write_json(options.out, found.to_json())
    _print_once(task.summary(found))
    if options.predictions and fabric.is_global_zero:
        for sentence in judge_submission(task, found):
            say(sentence)
    if options.predictions and not found.predictions:
        raise ValueError(f"--predictions: {task.settings.name} has no file of predictions here")
    return 0


def _keep_predictions(target: Path, files: Mapping[str, Content]) -> None:
    """Writes one file under the name that was given, several, or to a folder, under names that are free in it."""
    from fiber_train.stopping import say
    from fiber_train.writing import free_name, write_file

    is_file = len(files) == 1 and not target.is_dir()
    if not is_file:
        target.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = target if is_file else free_name(target / name)
        write_file(path, content)
        say(f"predictions in {path}")


def report(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Write a page of finished runs: what they learned, where they err, what to do next."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="folders of runs; of one task side by side")
    parser.add_argument("--out", type=Path, help="HTML file to write (report.html in the first run's folder)")
    parser.add_argument("--data", type=Path, help="folder of the data set, if it is not where it was")
    parser.add_argument(
        "--also", action="append", default=[], metavar="SPLIT", help="split to measure on too, such as unseen"
    )
    parser.add_argument("--examples", type=int, default=12, help="samples to show of each task (%(default)s)")
    add_trust(parser)
    return _report


def _report(options: Namespace) -> int:
    from fiber_train.options import check_option
    from fiber_train.outputs import claim_file
    from fiber_train.report import is_report, write_report

    check_option("--examples", options.examples, least=0)
    out = options.out or options.runs[0] / "report.html"
    claim_file(out, "--out", is_report)
    runs = {str(run): run for run in options.runs}
    write_report(runs, out, data=options.data, also=options.also, num_examples=options.examples, trusted=options.trust)
    sys.stdout.write(f"open {out}\n")
    return 0


def pipeline(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Run the steps of a file, each from what an earlier one left; the same command goes on where it stopped."""
    parser.add_argument("file", type=Path, help="YAML file with a list of steps")
    parser.add_argument("overrides", nargs="*", help="settings of all steps to change, such as trainer.devices=8")
    parser.add_argument("--dry-run", action="store_true", help="list what would be done, and stop")
    parser.add_argument(
        "--with", action="append", default=[], dest="optional", metavar="STEP", help="an optional step to do too"
    )
    return _pipeline


def _pipeline(options: Namespace) -> int:
    from fiber_train.pipeline import read_pipeline, run_pipeline

    root, steps = read_pipeline(options.file, options.overrides, options.optional)
    return 0 if run_pipeline(root, steps, dry_run=options.dry_run) else _stopped()


def quickstart(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Generate images, train both stages on them, report what was learned."""
    from fiber_train.recipe_files import QUICKSTART, optional_steps

    parser.add_argument("--out", type=Path, default=Path("quickstart"), help="folder to write to (%(default)s)")
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        choices=optional_steps(QUICKSTART),
        help="what else to learn from the coarse stage's model; can be given again",
    )
    parser.add_argument("overrides", nargs="*", help="settings of its runs to change")
    return _quickstart


def _quickstart(options: Namespace) -> int:
    from fiber_train import quickstart as demo

    tasks = list(dict.fromkeys(options.task))
    reached = demo.quickstart(options.out, options.overrides, demo.SPLITS, tasks)
    if reached is None:
        return _stopped()
    parts = [f"{title}\n{text}\n" for title, text in reached.items()]
    parts += [f"open {options.out / 'report.html'}\n"]
    parts += ["\n".join(["try its models:", *demo.commands(options.out, tasks), ""])]
    if more := demo.further(options.out, options.overrides, tasks):
        parts += [f"go on from them:\n{more}\n"]
    sys.stdout.write("\n".join(parts))
    return 0


def _stopped() -> int:
    """The status of a run that was asked to stop; of several processes the first one's counts."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    from fiber_train.stopping import STATUS

    return rank_zero_only(lambda: STATUS)() or 0


def _print_once(text: str) -> int:
    """Prints what was reached, once for all processes."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    rank_zero_only(sys.stdout.write)(f"{text}\n")
    return 0
