"""The `fiber` command: train, evaluate, retrieve, quickstart."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_fabric import Fabric
from lightning_fabric.utilities.rank_zero import rank_zero_only

from fiber_train.config import DataConfig, load_config, to_yaml
from fiber_train.data import read_split
from fiber_train.evaluate import as_table, evaluate_pretraining
from fiber_train.loop import NonFiniteLossError
from fiber_train.predict import find_images, load_model, retrieve
from fiber_train.quickstart import quickstart
from fiber_train.run import train, write_json


def build_parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="fiber", description="Train and use FIBER vision-language models.")
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="run a recipe; the same command goes on after an interruption")
    train.add_argument("recipe", help="name of a recipe (coarse, quickstart) or path of a YAML file")
    train.add_argument("overrides", nargs="*", help="settings, such as data.root=DATA out=runs/a trainer.devices=8")
    train.add_argument("--print-config", action="store_true", help="print the whole configuration and stop")

    evaluate = commands.add_parser("evaluate", help="retrieval, matching and masked words on a held-out split")
    evaluate.add_argument("--checkpoint", type=Path, required=True, help="folder of a run, checkpoint or model")
    evaluate.add_argument("--data", type=Path, required=True, help="folder of a data set with captions")
    evaluate.add_argument("--split", default="val", help="split to measure on (%(default)s)")
    evaluate.add_argument("--batch-size", type=int, default=50, help="pictures at a time (%(default)s)")
    evaluate.add_argument("--num-workers", type=int, default=2, help="loading processes (%(default)s)")
    evaluate.add_argument("--out", type=Path, help="JSON file for the numbers")

    retrieve = commands.add_parser("retrieve", help="rank the pictures of a folder by a text")
    retrieve.add_argument("--checkpoint", type=Path, required=True, help="folder of a run, checkpoint or model")
    retrieve.add_argument("--images", type=Path, required=True, help="folder of pictures, searched with its subfolders")
    retrieve.add_argument("--query", required=True, help="what to look for")
    retrieve.add_argument("--top", type=int, default=5, help="how many to print (%(default)s)")
    retrieve.add_argument("--rerank", type=int, default=0, help="look again at so many of the best, with the matcher")

    quickstart = commands.add_parser("quickstart", help="generate pictures, pre-train on them, report what was learned")
    quickstart.add_argument("--out", type=Path, default=Path("quickstart"), help="folder to write to (%(default)s)")
    quickstart.add_argument("overrides", nargs="*", help="settings of the quickstart recipe to change")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: The words after `fiber`; None takes them from the shell.

    Returns:
        0; 1 when the input is at fault, with the reason on standard error; 3 when a run was asked to stop.
    """
    options = build_parser().parse_args(arguments)
    try:
        return {"train": _train, "evaluate": _evaluate, "retrieve": _retrieve, "quickstart": _quickstart}[
            options.command
        ](options)
    except (FileNotFoundError, FileExistsError, KeyError, ValueError, NonFiniteLossError) as error:
        if os.environ.get("FIBER_TRACEBACK"):  # for those who look for the cause in the code
            raise
        sys.stderr.write(f"fiber: {error.args[0] if isinstance(error, KeyError) else error}\n")
        return 1


def _train(options: argparse.Namespace) -> int:
    config = load_config(options.recipe, options.overrides)
    if options.print_config:
        sys.stdout.write(to_yaml(config))
        return 0
    return _finish(train(config))


def _evaluate(options: argparse.Namespace) -> int:
    model, processor = load_model(options.checkpoint)
    fabric = Fabric(devices=1)
    data = DataConfig(root=str(options.data), num_workers=options.num_workers)
    results = evaluate_pretraining(
        model.to(fabric.device), read_split(data, options.split), processor, fabric, data, options.batch_size
    )
    if options.out:
        write_json(options.out, results)
    return _finish(results)


def _retrieve(options: argparse.Namespace) -> int:
    images = find_images(options.images)
    matches = retrieve(*load_model(options.checkpoint), images, options.query, options.top, options.rerank)
    for rank, match in enumerate(matches, start=1):
        sys.stdout.write(f"{rank:>3}  {match.score:7.3f}  {match.path}\n")
    return 0


def _quickstart(options: argparse.Namespace) -> int:
    return _finish(quickstart(options.out, options.overrides), f"\nopen {options.out / 'report.html'}")


def _finish(results: dict[str, float] | None, note: str = "") -> int:
    """Prints what a run reached, once for all processes; a run that was asked to stop reached nothing yet."""
    if results is None:
        return 3
    rank_zero_only(sys.stdout.write)(f"{as_table(results)}\n{note}\n" if note else f"{as_table(results)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
