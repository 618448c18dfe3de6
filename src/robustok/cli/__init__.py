"""`robustok <verb> ...`: what you type becomes a command, which is run.

Nothing here imports torch before a verb needs it, so that help is there at once.
"""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module

from robustok.cli.help import overview
from robustok.cli.options import Command, Shared, options_of, verb_named
from robustok.cli.parser import parse
from robustok.cli.verbs import VERBS
from robustok.runtime.words import TOLD

TRACEBACK = "ROBUSTOK_TRACEBACK"  # set to 1, an error comes with the lines that led to it
TYPED = {  # what the library advises, in terms of the command line
    "pass upscale=True": "add --upscale",
    "pass errors='skip' or 'replace'": "add --broken skip or --broken replace",
    "pass errors='skip'": "add --broken skip",
    "choose labels 'none'": "add --labels none",
    "labels 'none'": "--labels none",
    "force the comparison": "add --force",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0, 1 for a failed run, 2 for a user's error, 130 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview(VERBS))
        return 0
    if words[0] == "--version":
        print(import_module("robustok").__version__)
        return 0
    name, command = f"robustok {words[0]}", None
    try:
        with _one_line_warnings():
            command = parse(verb_named(words[0], VERBS), words[1:])
            if isinstance(command, str):
                print(command)
            else:
                run_command(command)
            sys.stdout.flush()
        return 0
    except BrokenPipeError:  # whoever read our output has had enough
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get(TRACEBACK) == "1":
            raise
        alike = command is None  # all that torchrun started read the same words
        if TOLD not in getattr(error, "__notes__", ()) and (_speaks() or not alike):
            print(f"{name}: {in_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, (ValueError, OSError)) else 1
    except KeyboardInterrupt:
        left = "the same command goes on" if getattr(command, "resumes", False) else "nothing is left half written"
        if _speaks():
            print(f"\n{name}: stopped; {left}", file=sys.stderr)
        return 130


def run_command(command: Command) -> None:
    """Do what was typed, together with the processes that torchrun started where they share it.

    Raises ValueError or OSError where what is written could not be kept, before hours went into it.
    """
    for option in options_of(type(command)):
        place = getattr(command, option.field) if option.writes else None
        if option.writes and place is not None:
            import_module("robustok.runtime.places").check_writable(place, option.writes)
    if not isinstance(command, Shared):
        command.run()
        return
    distributed = import_module("robustok.runtime.distributed")
    with distributed.processes():
        replace(command, quiet=command.quiet or not distributed.is_main()).run()


def in_one_line(error: Exception) -> str:
    """The message of an error, without line breaks; for an error that is ours, how to see where it came from."""
    said = str(error)
    if isinstance(error, OSError) and error.strerror:  # without the number that Python puts before it
        said = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join([*said.split(), *(f"({note})" for note in getattr(error, "__notes__", ()))])
    for python, typed in TYPED.items():
        text = text.replace(python, typed)
    text = text or type(error).__name__
    if isinstance(error, (ValueError, OSError)):
        return text
    if not isinstance(error, (RuntimeError, ImportError, MemoryError)):  # a fault of ours
        text = f"{type(error).__name__}: {text}"
    return f"{text} ({TRACEBACK}=1 shows where)"


def _speaks() -> bool:
    """True in the main process of those that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Warnings on one line each, without the place in the code, for the while."""

    def show(message: Warning | str, *place: object, **more: object) -> None:
        if _speaks():
            print(f"robustok: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
