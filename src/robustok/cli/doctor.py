"""`robustok doctor`."""

from dataclasses import dataclass

from robustok.cli.options import Command


@dataclass(frozen=True, kw_only=True)
class Doctor(Command):
    """What this machine has, and what each extra would add.

    Reads nothing but the machine, writes nothing but a page on the screen: versions, cores, memory, device, precision,
    the embedded data and weights, Chromium, extras.
    """

    group = "Look"

    def run(self) -> None:
        from robustok.cli.machine import checkup

        print(checkup(), end="")
