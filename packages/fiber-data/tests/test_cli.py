"""`fiber-data` before it does anything: help and faults come at once, without what is heavy."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

_COUNTED = """
import re, resource, sys
from pathlib import Path
from fiber_data.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    status = end.code
use = resource.getrusage(resource.RUSAGE_SELF)
peak = 0
if (own := Path("/proc/self/status")).is_file():  # ru_maxrss would count the process that started this one
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", own.read_text())[1]) / 1024
heavy = [name for name in ("torch", "torchvision", "transformers", "tokenizers", "numpy", "PIL") if name in sys.modules]
sys.stderr.write(f"\\n{status} {use.ru_utime + use.ru_stime} {peak} {heavy}")
"""


def run(*words):
    """Standard output and error, the exit status, CPU seconds, MB, and the heavy modules that were imported."""
    command = [sys.executable, "-c", _COUNTED, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"})
    said, _, counted = done.stderr.rpartition("\n")
    status, seconds, megabytes, heavy = counted.split(maxsplit=3)
    return done.stdout, said, int(status), float(seconds), float(megabytes), heavy


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--help"], 0, "count images and captions"),
        (["scenes", "--help"], 0, "side of the images"),
        (["inspect", "--help"], 0, "decode every image"),
        (["show", "--help"], 0, "side of squares"),
        (["stats", "--help"], 0, "compare the bytes"),
        (["--version"], 0, f"fiber-data {version('fiber-data')}"),
        (["scnes"], 2, "there is no command 'scnes'; did you mean 'scenes'? known are: scenes, inspect"),
        (["quux"], 2, "there is no command 'quux'; known are: scenes, inspect"),
        (["inspect", "data", "--tokeniser", "x"], 2, "unrecognized arguments: --tokeniser"),
        ([], 2, "arguments are required: command"),
    ],
)
def test_it_answers_at_once(words, status, message):
    out, error, code, seconds, megabytes, heavy = run(*words)
    assert message in out + error and code == status
    assert heavy == "[]" and seconds < 1 and megabytes < 150


def test_a_missing_folder_is_said_without_torch_being_needed_to_read(tmp_path):
    """Reading annotation files needs no torch either."""
    code = (
        "import sys; from fiber_data import read_captions\n"
        f"try: read_captions({str(tmp_path / 'none')!r}, 'train')\n"
        "except FileNotFoundError: print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
