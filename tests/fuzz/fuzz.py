"""Random command lines and damaged files, and what robustok makes of them: it works, or says in one line what is wrong.

    python -m tests.fuzz.fuzz [--seed 0] [--commands 2000] [--files 500] [--only commands/17]

A case depends on the seed and its number alone. It is a finding if an exception comes through, if a failed command says
anything but one line, if it takes longer than `SECONDS`, or if memory grows by more than `MEMORY`.
"""

import argparse
import contextlib
import io
import os
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fuzz import world
from tests.fuzz.cases import Case, made

from robustok.cli import TRACEBACK, main
from robustok.demo import ablation, run
from robustok.losses import lpips

SECONDS, PATIENCE = 30.0, 300.0  # of computing and of waiting, at most, for a case; most take some hundredths of one
MEMORY = 400 * 2**20  # bytes that a case may add to the peak
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


class Overdue(BaseException):
    """A case took too long."""


def attempt(case: Case) -> tuple[int | None, str]:
    """A command's exit code, and what is wrong with what it did, or ""."""

    def overdue(*arguments: object) -> None:
        raise Overdue

    before = peak()
    out, err = io.StringIO(), io.StringIO()
    timers = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, PATIENCE))
    former = [signal.signal(number, overdue) for number, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("default")
            code = main(case.argv)
    except Overdue:
        return None, f"took more than {SECONDS:g} s of computing or {PATIENCE:g} s\n{traceback.format_exc()}"
    except SystemExit as error:
        return None, f"SystemExit({error.code})"
    except KeyboardInterrupt:
        raise
    except BaseException:
        return None, traceback.format_exc()
    finally:
        for (number, timer, _), handler in zip(timers, former, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
    told = [line for line in err.getvalue().splitlines() if line.startswith(f"robustok {case.argv[0]}:")]
    if code not in (0, 2) and "was not finite" not in err.getvalue():
        return code, f"exit code {code}: {err.getvalue()[-2000:]}"
    if code == 2 and (
        len(told) != 1 or not err.getvalue().endswith(f"{told[0]}\n") or "Errno None" in told[0] or "(None)" in told[0]
    ):
        return code, f"not one line: {err.getvalue()[-2000:]!r}"
    grown = peak() - before
    return code, f"memory grew by {grown / 2**20:.0f} MiB" if grown > MEMORY else ""


def where(case: Case) -> str:
    """The lines that led to an error, which comes again."""
    silence = io.StringIO()
    os.environ[TRACEBACK] = "1"
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence), warnings.catch_warnings():
            warnings.simplefilter("default")
            main(case.argv)
    except Exception:
        return traceback.format_exc()
    finally:
        del os.environ[TRACEBACK]
    return ""


def peak() -> int:
    """Bytes of memory that were in use at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def search(
    seed: int, commands: int, files: int, *, only: str = "", tell: Callable[[str], None] = print
) -> list[tuple[Case, str]]:
    """All findings among so many command lines and so many files; `only` is the name of a single case."""
    kinds = (("commands", commands), ("files", files))
    names = [only] if only else [f"{kind}/{i}" for kind, count in kinds for i in range(count)]
    findings, home, worked = [], os.getcwd(), 0
    with tempfile.TemporaryDirectory(prefix="robustok_fuzz_") as folder, contextlib.ExitStack() as undo:
        undo.callback(os.chdir, home)
        undo.enter_context(quick())
        root = Path(folder) / "world"  # where ".." is still ours
        os.environ["ROBUSTOK_DATA"] = str(root / "data")
        world.make(root)
        os.chdir(root)
        for number, name in enumerate(names):
            case = made(seed, name, root)
            code, wrong = attempt(case)
            worked += code == 0
            if wrong:
                if code == 1:
                    wrong += where(made(seed, name, root))
                findings.append((case, wrong))
                tell(f"\n{name} {case.note}\n  robustok {' '.join(map(repr, case.argv))}\n{wrong}")
            if (number + 1) % 100 == 0:
                tell(f"{number + 1} of {len(names)} cases, {worked} worked, {len(findings)} findings")
    return findings


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """What takes minutes is left out (the demo), features are cheap, and nothing goes out to the network."""
    former = dict(os.environ)
    os.environ |= dict.fromkeys(OFFLINE, "1")
    runs = ((run, "run_demo"), (ablation, "run_ablation"), (ablation, "run_factorial"))
    places: list[Any] = [(module, name, lambda *arguments, **named: []) for module, name in runs]
    places += [(module, "extractor", world.extractor) for module in world.EXTRACTING]
    places += [(lpips, "LPIPS", lambda **named: None)]
    kept = [(module, name, getattr(module, name)) for module, name, _ in places]
    try:
        for module, name, value in places:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)
        os.environ.clear()
        os.environ.update(former)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", type=int, default=2000)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    found = search(chosen.seed, chosen.commands, chosen.files, only=chosen.only)
    print(f"seed {chosen.seed}: {len(found)} findings")
    sys.exit(bool(found))
