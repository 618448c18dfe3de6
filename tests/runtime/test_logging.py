import io
import json
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from robustok.runtime.logging import MetricsLog, Progress, clock, peak_rss_gib


def test_rows_are_lines_of_json_without_what_is_not_finite(tmp_path: Path):
    log = MetricsLog(tmp_path / "run")
    log.write(1, {"l1": 0.5, "psnr": float("inf"), "gan": float("nan")})
    log.write(2, {"l1": 0.25})
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert text == '{"step": 1, "l1": 0.5}\n{"step": 2, "l1": 0.25}\n'
    assert log.rows() == [json.loads(line) for line in text.splitlines()]


def test_rewinding_drops_later_rows_and_torn_lines(tmp_path: Path):
    log = MetricsLog(tmp_path)
    for step in (10, 20, 30):
        log.write(step, {"l1": 1 / step})
    with log.path.open("a") as file:
        file.write('{"step": 15, "l1')  # a kill in the middle of a line
    log.rewind(20)
    log.sync()
    assert [row["step"] for row in log.rows()] == [10, 20]
    log.write(30, {"l1": 0.1})
    assert [row["step"] for row in log.rows()] == [10, 20, 30]


def test_an_absent_log_has_no_rows(tmp_path: Path):
    log = MetricsLog(tmp_path)
    log.rewind(3)
    log.sync()
    assert log.rows() == []
    assert not log.path.exists()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be moved by the test."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def plain() -> Console:
    return Console(file=io.StringIO(), soft_wrap=True)


def lines(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_without_a_terminal_a_line_at_each_tenth(now: list[float]):
    console = plain()
    with Progress("tokenizer", 200, images_per_step=64, console=console) as progress:
        for done in range(1, 201):
            now[0] += 0.5
            progress.update(done, {"l1": 0.123456, "perceptual": 2})
    assert len(lines(console)) == 10
    assert lines(console)[4] == "tokenizer: 100/200, 128 images/s, 50 s left  l1 0.1235 perceptual 2"


def test_slow_work_is_reported_once_a_minute(now: list[float]):
    console = plain()
    with Progress("generator", 1000, console=console) as progress:
        for done in range(1, 31):
            now[0] += 10
            progress.update(done)
    assert [line.split(",")[0] for line in lines(console)] == [f"generator: {n}/1000" for n in (7, 14, 21, 28)]
    assert lines(console)[0].endswith("0.1 images/s, 2:45:30 h left")


def test_the_time_left_is_at_the_rate_of_the_last_minute(now: list[float]):
    """Ten times as slow from the middle on, as beside a neighbor, and fast again for the last part."""
    console = plain()
    with Progress("t", 1000, console=console) as progress:
        for done in range(1, 1001):
            now[0] += 10 if 500 < done <= 700 else 1
            progress.update(done)
    told = {int(line.split()[1].split("/")[0]): line for line in lines(console)}
    assert told[400].endswith("1 images/s, 10:00 min left")
    assert told[700].endswith("0.1 images/s, 50:00 min left")
    assert told[900].endswith("1 images/s, 1:40 min left")


def test_going_on_counts_speed_from_where_it_started(now: list[float]):
    console = plain()
    with Progress("t", 100, images_per_step=10, start=50, console=console) as progress:
        now[0] += 5
        progress.update(60)
    assert lines(console) == ["t: 60/100, 20 images/s, 20 s left"]
    assert progress.rate(60) == 20


def test_quiet_says_nothing(now: list[float]):
    console = plain()
    with Progress("t", 10, quiet=True, console=console) as progress:
        progress.update(10, {"l1": 1})
        progress.say("hello")
    assert lines(console) == []


def test_on_a_terminal_a_bar_with_name_count_rate_time_and_values(now: list[float]):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Progress("tokenizer", 100, images_per_step=64, console=console) as progress:
        now[0] += 10
        progress.update(25, {"l1": 0.5})
        progress.say("at step 25: [psnr] 21")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    for part in ("tokenizer", "━", "25/100", "160 images/s, 30 s left", "l1 0.5", "at step 25: [psnr] 21"):
        assert part in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (185, "3:05 min"), (3723, "1:02:03 h")]
)
def test_times_as_people_read_them(seconds: float, text: str):
    assert clock(seconds) == text


def test_the_peak_remembers_memory_that_was_given_back():
    before = peak_rss_gib()
    block = bytearray(b"x") * (300 * 2**20)
    during = peak_rss_gib()
    del block
    rounding = 0.01  # the kernel counts pages per thread and adds up now and then
    assert 0.01 < before <= during + rounding
    assert during > 0.29
    assert during - rounding < peak_rss_gib() < 64
