"""Being told to stop: by Ctrl-C, or by SIGTERM, as Slurm, Kubernetes and torchrun send it before they kill."""

import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAID = b"\nstopping after this step; Ctrl-C again stops at once\n"


class Stopping:
    """For the while, a first SIGINT or SIGTERM is only noted, so that work can stop where it likes.

    A second Ctrl-C raises KeyboardInterrupt at once, a second SIGTERM ends the process. Signals that are ignored stay
    ignored. Outside of the main thread, where Python takes no signals, nothing changes.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.asked: int | None = None  # the signal that came first
        self.quiet = quiet
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked = number
            if number == signal.SIGINT and not self.quiet:
                os.write(2, SAID)  # print may be in the middle of a line
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def stop(number: int) -> None:
    """End as a program does that a signal ended: KeyboardInterrupt for Ctrl-C, else exit with 128 + the number."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
