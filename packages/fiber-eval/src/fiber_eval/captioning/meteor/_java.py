"""METEOR 1.5 by its Java program, the reference that the native one is checked against.

Denkowski and Lavie, "Meteor universal: language specific translation evaluation for any target language", WMT 2014;
code: `meteor.py` of tylin/coco-caption, whose jar and options this uses. The jar is not part of this package (LGPL).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

import numpy as np

from fiber_eval.captioning._ngrams import Floats

# English, with normalization; the locale, since the program prints decimal commas where the system has them.
JAVA_OPTIONS = ("-Xmx2G", "-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8", "-jar")
METEOR_OPTIONS = ("-", "-", "-stdio", "-l", "en", "-norm")


def java_meteor(candidates: Sequence[str], references: Sequence[Sequence[str]], jar: Path) -> tuple[float, Floats]:
    """METEOR of tokenized captions by the official program.

    Args:
        candidates: [N] captions, words between spaces.
        references: [N], the references of each image, one or more.
        jar: The jar, with its `data` folder beside it.

    Returns:
        The corpus value from summed statistics, and [N], that of each image; 0..1.

    Raises:
        FileNotFoundError: Java is missing.
        RuntimeError: The program failed; the text holds its last words.
    """
    questions = [question(candidate, texts) for candidate, texts in zip(candidates, references, strict=True)]
    with _Program([find_java(), *JAVA_OPTIONS, str(jar), *METEOR_OPTIONS]) as program:
        statistics = program.ask(questions, len(questions))
        program.ask([f"EVAL ||| {' ||| '.join(statistics)}"], 0)
        values = np.array(program.read(len(questions) + 1), dtype=np.float64)
    return float(values[-1]), values[:-1]


def java_statistics(candidates: Sequence[str], references: Sequence[Sequence[str]], jar: Path) -> Floats:
    """[N, 23], the program's statistics of each image with the best of its references; arguments as above."""
    questions = [question(candidate, texts) for candidate, texts in zip(candidates, references, strict=True)]
    with _Program([find_java(), *JAVA_OPTIONS, str(jar), *METEOR_OPTIONS]) as program:
        return np.array([line.split() for line in program.ask(questions, len(questions))], dtype=np.float64)


def find_java() -> str:
    """The `java` of JAVA_HOME, else of the PATH.

    Returns:
        The program's path.

    Raises:
        FileNotFoundError: There is none.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home, "bin"))) if home else None
    java = java or shutil.which("java")
    if java is None:
        raise FileNotFoundError(
            "METEOR needs Java, but no java is in JAVA_HOME or on the PATH; install a Java runtime (8 or later), "
            "for instance with `apt-get install default-jre-headless`, or leave METEOR out"
        )
    return java


def question(candidate: str, references: Sequence[str]) -> str:
    """The line that asks for the statistics of a caption, as the official wrapper writes it."""
    candidate = candidate.replace("|||", "").replace("  ", " ")  # bars are separators
    return " ".join(f"SCORE ||| {' ||| '.join(references)} ||| {candidate}".splitlines())


class _Program:
    """The running Java program: lines in, lines out."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
        )
        self.complaints: list[str] = []
        self.listener = Thread(target=self._listen, daemon=True)
        self.listener.start()

    def __enter__(self) -> _Program:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        self.listener.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None, "all three were asked for"
            with suppress(BrokenPipeError):  # what it did not read any more
                pipe.close()

    def ask(self, lines: Sequence[str], num_answers: int) -> list[str]:
        """Write lines while reading as many answers: one after the other would block once a pipe is full."""
        writer = Thread(target=self._write, args=(lines,), daemon=True)
        writer.start()
        answers = self.read(num_answers)
        writer.join()
        return answers

    def read(self, num_answers: int) -> list[str]:
        """The next lines it prints."""
        assert self.process.stdout is not None, "it was asked for"
        answers = []
        for number in range(num_answers):
            answer = self.process.stdout.readline()
            if not answer:
                self.process.wait()
                self.listener.join()
                raise RuntimeError(
                    f"METEOR stopped after {number} of {num_answers} answers (exit code {self.process.returncode}): "
                    f"{''.join(self.complaints).strip()[-500:] or 'it said nothing'}"
                )
            answers.append(answer.strip())
        return answers

    def _write(self, lines: Sequence[str]) -> None:
        assert self.process.stdin is not None, "it was asked for"
        with suppress(BrokenPipeError, ValueError):  # it has ended, which the reader tells
            self.process.stdin.writelines(f"{line}\n" for line in lines)
            self.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.stderr is not None, "it was asked for"
        self.complaints.extend(self.process.stderr)
