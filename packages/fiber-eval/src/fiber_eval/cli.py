"""The `fiber-eval` command: official scores of result files, without a model."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fiber_eval import benchmarks
from fiber_eval.console import naming, run_command

_MOST_ROWS = 100  # of one group in the table; the JSON file has all
_TEXTS = ("str", "Path", "str | Path")  # annotations of settings that are what is typed, to the letter
_LIST = "list"  # the word that is no benchmark


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(prog="fiber-eval", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('fiber-eval')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="benchmark")
    commands.add_parser(_LIST, help="name the benchmarks, their file formats and the paper that each follows")
    for benchmark in map(benchmarks.describe, benchmarks.available().values()):
        command = commands.add_parser(
            benchmark.name,
            help=_literal(benchmark.paper),
            description=textwrap.fill(f"Follows {benchmark.paper}."),
            epilog=_epilog(benchmark.options),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--annotations", type=Path, required=True, help=_literal(benchmark.annotations))
        command.add_argument("--results", type=Path, required=True, help=_literal(benchmark.results))
        command.add_argument("--out", type=Path, help="JSON file to write the scores to, in full precision")
        command.add_argument(
            "settings",
            nargs="*",
            metavar="NAME=VALUE",
            help=f"settings of {benchmark.path}, text as it is, other values in JSON",
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The words after ``fiber-eval``; None takes them from the shell.

    Returns:
        0, or 1 when the input is at fault or something is not installed; the reason goes to standard error.
    """
    return run_command("fiber-eval", lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(words: Sequence[str]) -> int:
    parser = build_parser()
    if words and not words[0].startswith("-"):
        _check_name(words[0], parser)
    options = parser.parse_args(words)
    sys.stdout.write(describe() if options.command == _LIST else _score(options))
    return 0


def describe() -> str:
    """All benchmarks, their file formats and papers, as text."""
    return "\n".join(
        f"{each.name}\n  annotations  {each.annotations}\n  results      {each.results}\n  paper        {each.paper}\n"
        for each in map(benchmarks.describe, benchmarks.available().values())
    )


def _literal(text: str) -> str:
    """`text` as argparse shows it unchanged."""
    return text.replace("%", "%%")


def _epilog(options: Mapping[str, str]) -> str:
    """The settings of a benchmark, a paragraph each."""
    width = max(map(len, options), default=0) + 4
    paragraphs = [
        textwrap.fill(text, initial_indent=f"  {name}".ljust(width), subsequent_indent=" " * width)
        for name, text in options.items()
    ]
    return "\n".join(["settings:", *paragraphs]) if paragraphs else "It has no settings."


def _check_name(word: str, parser: argparse.ArgumentParser) -> None:
    """Ends the program with the name that was probably meant, which argparse does not say before Python 3.14."""
    known = [_LIST, *benchmarks.available()]
    if word not in known:
        near = get_close_matches(word, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        parser.error(f"there is no benchmark {word!r}; {hint}known are: {', '.join(known)}")


def _score(options: argparse.Namespace) -> str:
    """The table of scores; also writes them to the file that was asked for."""
    entry = benchmarks.available()[options.command]
    for name in ("annotations", "results"):
        if not getattr(options, name).exists():
            raise ValueError(f"--{name}: {getattr(options, name)} does not exist")
    if options.out:  # what keeps it from being written is said before the work, not after
        _claim(options.out)
    try:
        score_files = benchmarks.load(entry)
        chosen = _chosen(options.settings, score_files)
        scores = _plain(score_files(options.annotations, options.results, **chosen))
    except (AttributeError, TypeError) as error:
        if not options.settings:  # then it is our mistake
            raise
        raise ValueError(f"{' '.join(options.settings)} does not fit: {error}") from error
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("fiber_eval"):  # it says by itself what is wrong
            raise
        raise ImportError(
            f"{entry.name} needs {error.name}, which is not installed; pip install {error.name.partition('.')[0]}"
        ) from error
    if options.out:
        with naming(options.out):
            _write(options.out, json.dumps(scores, indent=2) + "\n")
    rows = list(_rows(scores))
    width = max((len(name) for name, _ in rows), default=0)
    return "".join(f"{name:{width}}  {value:>10}\n" for name, value in rows)


def _claim(path: Path) -> None:
    """Makes the folder of a file that will be written, and refuses to replace what holds no scores."""
    if path.is_dir():
        raise ValueError(f"--out: {path} is a folder; give the name of a file in it")
    if path.exists() and not _holds_scores(path):
        raise ValueError(f"--out: {path} exists and holds other things than scores; choose another name, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    _partial(path).write_bytes(b"")
    _partial(path).unlink()


def _write(path: Path, text: str) -> None:
    """A file that is whole or not there."""
    _partial(path).write_text(text, encoding="utf-8")
    _partial(path).replace(path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _holds_scores(path: Path) -> bool:
    """Whether a file holds names and numbers alone, as this command writes them."""
    try:
        found = [json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, RecursionError):
        return False
    while found:
        value = found.pop()
        if isinstance(value, dict | list):
            found += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str):
            return False
    return True


def _chosen(words: Sequence[str], score_files: Callable) -> dict[str, Any]:
    """The settings among `words`, each "name=value", that the benchmark must know."""
    parameters = list(inspect.signature(score_files).parameters.values())[2:]
    known = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    texts = {each.name for each in parameters if str(each.annotation).removesuffix(" | None") in _TEXTS}
    chosen: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"settings are written NAME=VALUE; got {word!r}")
        if name not in known and len(known) == len(parameters):
            raise ValueError(f"no setting is called {name!r}; known are: {', '.join(known) or 'none'}")
        if name in texts:  # a path such as 1e5 is no number
            chosen[name] = value
            continue
        try:
            chosen[name] = json.loads(value)
        except json.JSONDecodeError:
            chosen[name] = value
    required = [each.name for each in parameters if each.default is each.empty and each.name in known]
    if absent := [name for name in required if name not in chosen]:
        raise ValueError(f"{absent[0]}=VALUE is needed, but did not come")
    return chosen


def _plain(value: object) -> object:
    """What JSON can hold; numbers that it cannot are null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if hasattr(value, "tolist"):  # a tensor or an array
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(scores: object, name: str = "") -> Iterator[tuple[str, str]]:
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
