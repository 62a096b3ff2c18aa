'''The `fiber` command: finds the verbs that installed packages declare, and runs the one that was typed.

A verb is a function of the group `fiber.verbs` that adds its options to a parser and returns what runs with them; the
first line of its docstring is its help:

    def judge(parser: ArgumentParser) -> Callable[[Namespace], int]:
        """Say whether an image entails a hypothesis."""
        parser.add_argument("image", type=Path)
        return lambda options: ...  # gives the exit status

All verbs are listed from their source; only the one that was typed is imported, and should import what is heavy in what
it returns.
'''

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import EntryPoint, version

from fiber_backbone.seams import available, docstring

from fiber_train.console import run_command
from fiber_train.stopping import STATUS, Stopped, say, stopping

GROUP = "fiber.verbs"


def build_parser(typed: str | None = None, *, described: bool = True) -> argparse.ArgumentParser:
    """The command line with all verbs, of which `typed` has its options and leaves what runs in `run`.

    What each verb does is read from the sources of all, for the list of verbs alone: `described` says whether it may be
    shown.
    """
    parser = argparse.ArgumentParser(prog="fiber", description="Train and use FIBER vision-language models.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('fiber-train')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="verb")
    for name, entry in available(GROUP).items():
        command = commands.add_parser(name, help=_help(entry) if described else None)
        if name == typed:
            command.set_defaults(run=entry.load()(command))
    return parser


def _check_verb(typed: str, parser: argparse.ArgumentParser) -> None:
    """Ends the program with the verb that was probably meant, which argparse does not say before Python 3.14."""
    known = list(available(GROUP))
    if typed not in known:
        near = get_close_matches(typed, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        parser.error(f"there is no verb {typed!r}; {hint}known are: {', '.join(known)}")


def _help(entry: EntryPoint) -> str:
    line = docstring(entry).partition("\n")[0].rstrip(".").replace("%", "%%")
    return line[:1].lower() + line[1:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: The words after `fiber`; None takes them from the shell.

    Returns:
        0; 1 when the input is at fault, with the reason on standard error, or when nobody reads the output any more; 3
        when it was asked to stop.
    """
    with stopping():
        try:
            return run_command("fiber", lambda: _run(arguments))
        except Stopped:
            say("stopped; the same command begins again")
            return STATUS


def _run(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    typed = next((word for word in words if not word.startswith("-")), None)
    parser = build_parser(typed, described=typed is None or words[0] != typed)
    if typed is not None:
        _check_verb(typed, parser)
    options, rest = parser.parse_known_args(words)
    if rest and (any(word.startswith("-") for word in rest) or not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # settings behind an option, which argparse does not join with those before it
        options.overrides = [*options.overrides, *rest]
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
