"""The command: mutate the valid files of every target, and tell what is not right."""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from fuzz.case import Failure, Workplace, limited_memory, scratch_folder
from fuzz.runner import run_cases
from fuzz.target import Target
from fuzz.targets import all_targets

_SHOWN = 300  # characters of a message
_LEAST = 0.01  # of all cases a target gets, whatever its share is


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 1 if anything was not right."""
    targets = all_targets()
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(targets)}; all by default")
    parser.add_argument("--cases", type=int, default=100_000, help="over all targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--case", metavar="TARGET:NUMBER", help="repeat one, with its traceback, and keep its file")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-case"), help="where --case puts the mutated file")
    options = parser.parse_args(arguments)
    if unknown := set(options.targets) - set(targets):
        parser.error(f"there is no target {', '.join(sorted(unknown))}; known are {', '.join(targets)}")
    if options.case:
        name, _, number = options.case.partition(":")
        return repeat(targets[name], options.seed, int(number), options.keep)
    chosen = [targets[name] for name in options.targets or targets]
    failures = _run(chosen, options.cases, options.seed, options.workers)
    sys.stdout.write(describe(failures))
    return bool(failures)


def _run(targets: Sequence[Target], cases: int, seed: int, workers: int) -> list[Failure]:
    failures: list[Failure] = []
    began, total = time.monotonic(), 0
    for target, count in allocate(targets, cases).items():
        start = time.monotonic()
        found = list(run_cases(target, seed, range(count), workers=workers))
        seconds = time.monotonic() - start
        rate = count / seconds
        sys.stdout.write(f"{target.name:20} {count:7} cases {seconds:7.1f} s {rate:7.0f}/s {len(found):6} not right\n")
        sys.stdout.flush()
        failures += found
        total += count
    sys.stdout.write(f"{total} cases in {time.monotonic() - began:.0f} s, {len(failures)} not right\n\n")
    return failures


def allocate(targets: Sequence[Target], cases: int) -> dict[Target, int]:
    """How many cases each target gets: all an equal number, and the rest by their shares."""
    least = round(min(cases * _LEAST, cases / len(targets)))
    rest = cases - least * len(targets)
    shares = sum(target.share for target in targets)
    return {target: least + round(rest * target.share / shares) for target in targets}


def describe(failures: Sequence[Failure]) -> str:
    """The failures by target and kind, the most frequent first, each kind with its first case."""
    kinds: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        kinds.setdefault((failure.target, failure.fault.kind), []).append(failure)
    lines = []
    for (name, kind), alike in sorted(kinds.items(), key=lambda item: (item[0][0], -len(item[1]))):
        first = min(alike, key=lambda failure: failure.number)
        lines += [
            f"{name}: {len(alike)} times: {kind}",
            f"    --seed {first.seed} --case {name}:{first.number}    {first.mutation:.{_SHOWN}}",
            f"    {' '.join(first.fault.detail.split()):.{_SHOWN}}",
        ]
    return "".join(f"{line}\n" for line in lines)


def repeat(target: Target, seed: int, number: int, keep: Path) -> int:
    """Runs one case again and shows where an exception came from."""
    with scratch_folder() as scratch:
        workplace = Workplace(target, scratch)
        name, content, words = workplace.mutate(seed, number)
        keep.mkdir(parents=True, exist_ok=True)
        (keep / Path(name).name).write_bytes(content)
        sys.stdout.write(f"{keep / Path(name).name}: {words:.{_SHOWN}}\n")
        sys.stdout.flush()
        faulthandler.enable()  # it may be a crash
        with limited_memory():
            failure = workplace.run(seed, number)
        if failure is None:
            sys.stdout.write("all right\n")
            return 0
        (workplace.folder / name).write_bytes(content)
        try:
            with limited_memory():
                workplace.target.read(workplace.folder)
        except Exception:
            sys.stdout.write(traceback.format_exc())
        sys.stdout.write(describe([failure]))
        return 1


if __name__ == "__main__":
    sys.exit(main())
