"""What an accelerator does with FIBER: the same numbers as the CPU, and how fast. Minutes in all, one JSON and a table.

    python packages/fiber-train/benchmarks/device.py [--out device.json] [--only forward,coarse] [--wheels FOLDER]

Each check runs in a process of its own with a share of the time, so that none can harm another: one that fails is a row
with the error and makes the status 1, one that does not fit into its time is told as skipped. CUDA, MPS, XPU and what
else `torch.accelerator` knows count as accelerators; without one nothing is measured, with `--cpu` everything at tiny
sizes on the CPU. Weights and batches are random, from a seed. TF32 is off. Differences are the largest one of a tensor
over its largest number. MFU counts the operations of a step once (`torch.utils.flop_counter`, deformable convolutions
added) against the card's dense bf16 peak.

Installed packages are not needed: sources and metadata are then those of this repository, and whatever else the machine
lacks (timm, say) comes from wheels in a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from device_checks.rows import Skip, add_row, make_row, read_rows

PACKAGES = Path(__file__).resolve().parents[2]

# What runs, in this order (`device_checks.checks`), and its share of the time.
SHARES = {
    "card": 40,
    "forward": 60,
    "step": 45,
    "compile": 90,
    "deformable": 30,
    "coarse": 75,
    "fine": 60,
    "captioning": 40,
    "distributed": 40,
}


def run_check(options: argparse.Namespace) -> int:
    """One check, in this process."""
    try:
        from device_checks.checks import run  # torch is in no other process

        run(options.check, options.rows, options.until, options.cpu)
    except Skip as reason:
        add_row(options.rows, make_row(options.check, status="skipped", reason=str(reason)))
    except ModuleNotFoundError as error:
        add_row(options.rows, make_row(options.check, status="missing", reason=f"the module {error.name} is missing"))
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")
        add_row(options.rows, make_row(options.check, status="failed", reason=f"{type(error).__name__}: {first}"))
        raise
    return 0


@contextmanager
def importable(wheels: Path | None) -> Iterator[list[str]]:
    """Folders for Python's path: unpacked wheels, and where the packages are not installed, their sources and metadata.

    The metadata are a `dist-info` for each package, with the version and the entry points of its `pyproject.toml`: by
    these the packages know their version, and find streams, fusions and models.
    """
    with tempfile.TemporaryDirectory() as folder:
        site, sources = Path(folder), []
        for wheel in sorted(wheels.glob("*.whl")) if wheels else []:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
        try:
            version("fiber-heads")
        except PackageNotFoundError:
            sources = [str(path) for path in sorted(PACKAGES.glob("*/src"))]
            for path in PACKAGES.glob("*/pyproject.toml"):
                write_metadata(site, tomllib.loads(path.read_text(encoding="utf-8"))["project"])
        yield [folder, *sources]


def write_metadata(site: Path, project: dict[str, Any]) -> None:
    """What an installer would write of a project, as far as the packages ask for it."""
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(exist_ok=True)
    lines = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}", ""]
    (info / "METADATA").write_text("\n".join(lines), encoding="utf-8")
    groups = project.get("entry-points", {}).items()
    entries = [f"[{group}]\n" + "".join(f"{name} = {path}\n" for name, path in each.items()) for group, each in groups]
    (info / "entry_points.txt").write_text("\n".join(entries), encoding="utf-8")


def start_check(check: str, seconds: float, paths: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs a check in a process of its own for so long, and gives its rows."""
    rows = Path(paths[0], f"{check}.jsonl")
    words = [sys.executable, __file__, "--check", check, "--rows", str(rows), "--until", str(time.time() + seconds)]
    words += ["--cpu"] if options.cpu else []
    path = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path}, start_new_session=True)
    reason, status = "", "failed"
    try:
        if process.wait(seconds):
            reason = f"the process ended with status {process.returncode}"
    except subprocess.TimeoutExpired:
        reason, status = f"stopped after {seconds:.0f} s, its share of the time", "skipped"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # compilers that it started too
            process.wait()
    found = read_rows(rows)
    told = bool(found) and found[-1]["status"] == "failed" and not found[-1]["case"]
    if reason and not told:
        found.append(make_row(check, status=status, reason=reason))
    return found


def table(record: dict[str, Any]) -> str:
    """Markdown."""
    lines = [f"{record['card']}, torch {record['torch']}, {record['date']}:", "", "| check | what | result |"]
    lines.append("|---|---|---|")
    for row in record["rows"]:
        numbers = row["numbers"].items()
        told = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in numbers]
        trouble = "" if row["status"] == "ok" else f"**{row['status']}**: {row['reason']}"
        result = "; ".join(filter(None, [trouble, ", ".join(told)])).replace("|", "/")
        lines.append(f"| {row['check']} | {row['case']} | {result} |")
    return "\n".join(lines) + "\n"


def run_checks(options: argparse.Namespace) -> int:
    """All that are asked for, one after another; gives the status."""
    end = time.monotonic() + 60 * options.minutes
    names = ["card", *(name for name in SHARES if name != "card" and name in (options.only or SHARES))]
    found: list[dict[str, Any]] = []
    with importable(options.wheels) as paths:
        for place, name in enumerate(names):
            shares = [SHARES[each] for each in names[place:]]
            found += start_check(name, (end - time.monotonic()) * shares[0] / sum(shares), paths, options)
            if missing := next((row["reason"] for row in found if row["status"] == "missing"), None):
                print(f"device.py: {missing}; install it, or pass --wheels a folder with its wheel", file=sys.stderr)
                return 1
            if not options.cpu and found[0]["numbers"].get("device") == "cpu":
                print("device.py: there is no accelerator here; --cpu runs all checks at tiny sizes on the CPU")
                return 0
    card = found[0]["numbers"].get("torch", "?")
    record = {"card": found[0]["case"] or "?", "torch": card, "date": f"{datetime.now(UTC):%Y-%m-%d}", "rows": found}
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(table(record), encoding="utf-8")
    print(table(record), end="")
    return int(any(row["status"] == "failed" for row in found))


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("device.json"), help="the table lies beside it, as .md")
    parser.add_argument("--only", type=lambda words: words.split(","), help=f"some of {','.join(SHARES)}")
    parser.add_argument("--cpu", action="store_true", help="everything at tiny sizes on the CPU")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels of what is not installed")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all checks together")
    for hidden, kind in (("--check", str), ("--rows", Path), ("--until", float)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.only or ()) - set(SHARES):
        parser.error(f"--only: there is no check {sorted(unknown)[0]!r}, only {', '.join(SHARES)}")
    if options.wheels and not list(options.wheels.glob("*.whl")):
        parser.error(f"--wheels: {options.wheels} holds no wheel (*.whl)")
    return options


if __name__ == "__main__":
    chosen = read_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # a check that runs is then ended too
    sys.exit(run_check(chosen) if chosen.check else run_checks(chosen))
