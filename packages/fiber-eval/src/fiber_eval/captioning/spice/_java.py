"""The official SPICE program: where its parts are, and what it says of captions.

Code: peteanderson80/SPICE, `spice.py` of tylin/coco-caption. None of its jars is part of this package (AGPL and GPL).
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fiber_eval.captioning.spice._graph import ImageScore

HOME_VARIABLE = "FIBER_SPICE_HOME"
JAVA_VARIABLE = "FIBER_SPICE_JAVA"
JAR_NAME = "spice-1.0.jar"
CORENLP = "stanford-corenlp-3.6.0"
JARS = (JAR_NAME, f"lib/{CORENLP}.jar", f"lib/{CORENLP}-models.jar")
JAVA_VERSIONS = range(8, 15)


def find_spice(home: Path | str | None = None) -> Path:
    """The folder of the official jars: `home`, else FIBER_SPICE_HOME, else `spice` of an installed `pycocoevalcap`.

    Args:
        home: A folder with `spice-1.0.jar` and its `lib`.

    Returns:
        Its absolute path.

    Raises:
        FileNotFoundError: A jar is not there; the text lists which, where they were sought, and their origin.
    """
    asked = home or os.environ.get(HOME_VARIABLE)
    if asked:
        folder = Path(asked)
        sought = "the argument home" if home else f"the environment variable {HOME_VARIABLE}"
    else:
        package = importlib.util.find_spec("pycocoevalcap")
        folders = list(package.submodule_search_locations or []) if package else []
        folder = Path(folders[0] if folders else "pycocoevalcap", "spice")
        sought = f"the environment variable {HOME_VARIABLE} (not set), then the installed package pycocoevalcap"
    if missing := [name for name in JARS if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"official SPICE needs {', '.join(missing)}, but {folder} has no such file; looked in {sought}. Copy the "
            f"folder spice of the PyPI package pycocoevalcap, put {CORENLP}.jar and {CORENLP}-models.jar out of "
            f"Stanford's stanford-corenlp-full-2015-12-09.zip into its lib, and set {HOME_VARIABLE} to it; or use "
            "NativeSpice, whose numbers are others"
        )
    return folder.resolve()


def find_java(java: Path | str | None = None) -> str:
    """A Java that the official program works with: `java`, else FIBER_SPICE_JAVA, else JAVA_HOME's or the PATH's.

    Args:
        java: The `java` program, or the folder of a Java installation.

    Returns:
        The program's path.

    Raises:
        FileNotFoundError: There is none.
        RuntimeError: It is of another version than 8 to 14, or does not tell its version.
    """
    asked = java or os.environ.get(JAVA_VARIABLE)
    home = asked or os.environ.get("JAVA_HOME")
    found = shutil.which(home) or shutil.which("java", path=str(Path(home, "bin"))) if home else None
    found = found or (None if asked else shutil.which("java"))
    mend = f"install a Java from 8 to 14 and set {JAVA_VARIABLE} to its java, or use NativeSpice"
    if found is None:
        sought = f"{asked} is none" if asked else f"there is none in {JAVA_VARIABLE}, JAVA_HOME or on the PATH"
        raise FileNotFoundError(f"official SPICE needs Java, but {sought}; {mend}")
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    if match is None or int(match[1]) not in JAVA_VERSIONS:
        came = f"is of version {match[1]}" if match else f"tells no version ({said.strip()[:80]!r})"
        raise RuntimeError(
            "official SPICE writes its results through a JavaScript engine that Java has no more since version 15, "
            f"but {found} {came}; {mend}"
        )
    return found


def run_spice(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    home: Path | str | None = None,
    java: Path | str | None = None,
    memory: str = "8G",
) -> list[ImageScore]:
    """Score tokenized captions with the official program.

    It runs without its cache, which neither Java 16 and later nor ARM processors can open, so each run parses anew;
    what it writes stays in a temporary folder.

    Args:
        candidates: [N] captions.
        references: [N], the references of each image.
        home: As in `find_spice`.
        java: As in `find_java`.
        memory: The most that Java may take for its objects, as its option -Xmx has it.

    Returns:
        [N] scores.

    Raises:
        FileNotFoundError: A jar or Java is missing.
        RuntimeError: Java is of a wrong version, or the program failed; the text holds its last words.
    """
    jar, program = find_spice(home) / JAR_NAME, find_java(java)
    rows = enumerate(zip(candidates, references, strict=True))
    images = [{"image_id": row, "test": test, "refs": list(texts)} for row, (test, texts) in rows]
    with tempfile.TemporaryDirectory(prefix="fiber_spice_") as name:
        given, results = Path(name, "captions.json"), Path(name, "results.json")
        given.write_text(json.dumps(images), encoding="utf-8")
        command = [program, f"-Xmx{memory}", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US"]
        command += ["-jar", str(jar), str(given), "-out", str(results), "-detailed", "-subset", "-silent"]
        run = subprocess.run(command, cwd=name, capture_output=True, text=True, check=False)
        if run.returncode or not results.is_file():
            said = (run.stderr or run.stdout).strip()[-500:] or "it said nothing"
            raise RuntimeError(f"official SPICE failed (exit code {run.returncode}): {said}")
        entries = json.loads(results.read_text(encoding="utf-8"))
    by_row = {entry["image_id"]: _as_score(entry) for entry in entries}
    if absent := [row for row in range(len(images)) if row not in by_row]:
        raise RuntimeError(
            f"official SPICE gave no score for {len(absent)} of {len(images)} images, row {absent[0]} first"
        )
    return [by_row[row] for row in range(len(images))]


def _as_score(entry: dict[str, Any]) -> ImageScore:
    scores = {
        category: {
            name: math.nan if value is None else float(value) for name, value in values.items() if name != "numImages"
        }
        for category, values in entry["scores"].items()
    }
    test = [(tuple(found["tuple"]), bool(found["truth_value"])) for found in entry.get("test_tuples", [])]
    return ImageScore(scores, test, [tuple(wanted["tuple"]) for wanted in entry.get("ref_tuples", [])])
