"""Threads beside neighbors, on clocks that the test turns: when they are given up, told of, and taken again."""

import pytest
import torch

from robustok.runtime import threads
from robustok.runtime.threads import LEAST, WINDOW, Reading, Threads, reading


class Machine:
    """Four cores, on which we take a step a second by our own clock, beside others."""

    def __init__(self) -> None:
        self.now = Reading(100.0, 7.0, 1000.0)

    def read(self) -> Reading:
        return self.now

    def step(self, watched: Threads, seconds: float, others: float) -> str:
        """A step, while others keep so many cores busy, and we as many as we have threads."""
        own = seconds * torch.get_num_threads()
        self.now = Reading(self.now.clock + seconds, self.now.own + own, self.now.busy + own + seconds * others)
        said: list[str] = []
        watched.after_step(said.append)
        return "".join(said)

    def window(self, watched: Threads, seconds: float = 1.0, others: float = 0.0) -> list[str]:
        """As many steps as a choice takes; what was told."""
        count = max(LEAST, round(WINDOW / seconds))
        return list(filter(None, [self.step(watched, seconds, others) for _ in range(count)]))


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch has four threads, and nobody has set the variable."""
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    held = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: held[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: held.__setitem__(0, count))


def test_a_machine_that_is_busy_at_the_start_gets_fewer_threads(four):
    machine = Machine()
    with Threads(machine.read, available=4) as watched:
        said = [machine.step(watched, 1.0, others=2.2) for _ in range(LEAST)]
        assert said[:-1] == [""] * (LEAST - 1)
        assert said[-1].startswith("other processes keep 2.2 of 4 cores busy: 2 threads from here on, not 4; results")
        assert said[-1].endswith("OMP_NUM_THREADS=4 keeps them")
        assert torch.get_num_threads() == 2
        assert machine.window(watched, others=2.2) == []  # nothing new
        assert machine.window(watched, others=0.0)[0].startswith("other processes keep 0.0 of 4 cores busy: 4 threads")
        assert torch.get_num_threads() == 4
    assert torch.get_num_threads() == 4


def test_threads_are_given_up_later_where_steps_are_slower_and_others_are_busy(four):
    machine = Machine()
    with Threads(machine.read, available=4) as watched:
        assert machine.window(watched) == []
        assert machine.window(watched, seconds=1.4, others=3.0) == []  # hardly slower
        assert machine.window(watched, seconds=5.0, others=0.4) == []  # slower by itself: the discriminator has begun
        assert "1 thread from here on, not 4" in machine.window(watched, seconds=5.0, others=9.0)[0]
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4  # as it was, for what comes next


def test_one_slow_step_such_as_a_validation_is_no_slower_pace(four):
    machine = Machine()
    with Threads(machine.read, available=4) as watched:
        machine.window(watched)
        said = [machine.step(watched, seconds, others=3.0) for seconds in (1.0, 60.0, 1.0, 1.0, 1.0)]
    assert said == [""] * 5


@pytest.mark.parametrize("why", ["variable", "one thread", "no count"])
def test_nothing_is_watched_where_it_is_settled(four, monkeypatch, why):
    machine = Machine()
    read = machine.read
    if why == "variable":
        monkeypatch.setenv(threads.VARIABLE, "4")
    elif why == "one thread":
        torch.set_num_threads(1)
    else:
        monkeypatch.setattr(threads, "STAT", threads.Path("nowhere"))
        read = reading
    before = torch.get_num_threads()
    with Threads(read, available=4) as watched:
        assert machine.window(watched, others=4.0) == []
        assert torch.get_num_threads() == before


def test_a_reading_counts_our_cores_without_low_priority(monkeypatch, tmp_path):
    (tmp_path / "stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 5000 20 900 7 3 2 1 0 0\ncpu1 10 0 0 0 0 0 0 0 0 0\nintr 5 0\n"
    )
    monkeypatch.setattr(threads, "STAT", tmp_path / "stat")
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: {0}, raising=False)
    monkeypatch.setattr(threads.os, "sysconf", lambda name: 100)
    found = reading()
    assert found is not None
    assert found.busy == pytest.approx(1.26)
    assert found.clock > 0
    assert found.own > 0
