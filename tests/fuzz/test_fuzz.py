"""A tenth of `make fuzz`: no random command line and no damaged file ends in a traceback, hangs or eats memory."""

import pytest
from tests.fuzz.cases import Case as FuzzCase
from tests.fuzz.fuzz import attempt, search


def test_command_lines_and_damaged_files(unchecked: None, capsys: pytest.CaptureFixture[str]):
    told = list[str]()
    assert not search(0, commands=200, files=50, tell=told.append), "\n".join(told)
    worked = int(told[-1].split(" worked")[0].rpartition(" ")[2])
    assert worked >= 50, "most commands are refused, so what they do is not tried"


def test_what_is_found(monkeypatch: pytest.MonkeyPatch):
    """A traceback, an error of torch's, a message of two lines: each is a finding; one line is none."""

    def fails(error: Exception) -> tuple[int | None, str]:
        def doctor(command: object) -> None:
            raise error

        monkeypatch.setattr("robustok.cli.doctor.Doctor.run", doctor)
        return attempt(FuzzCase("commands/0", ["doctor"]))

    assert fails(ValueError("size is 0; ask for 1 or more")) == (2, "")
    assert "KeyError: 'size'" in fails(KeyError("size"))[1]
    assert "exit code 1" in fails(RuntimeError("Sizes of tensors must match"))[1]
    assert "not one line" in fails(ValueError("could not write x ([Errno None] full)"))[1]
