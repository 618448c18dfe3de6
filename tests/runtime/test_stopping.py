"""Ctrl-C and SIGTERM are noted; a second one is obeyed at once."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from robustok.runtime.stopping import Stopping, stop


def send(number: int) -> None:
    """This process a signal, which Python handles before the next line."""
    os.kill(os.getpid(), number)


def test_a_first_signal_is_only_noted(capfd: pytest.CaptureFixture[str]):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Stopping() as stopping:
        assert stopping.asked is None
        send(signal.SIGINT)
        assert stopping.asked == signal.SIGINT
        assert capfd.readouterr().err == "\nstopping after this step; Ctrl-C again stops at once\n"
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    with Stopping(quiet=True) as stopping:
        send(signal.SIGTERM)
        assert stopping.asked == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert capfd.readouterr().err == ""
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_sigterm_ends_the_process():
    code = (
        "import os, signal\nfrom robustok.runtime.stopping import Stopping\n"
        "with Stopping():\n    os.kill(os.getpid(), signal.SIGTERM)\n    print('noted', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    print('never')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "noted\n")


def test_signals_that_are_ignored_stay_ignored():
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        with Stopping() as stopping:
            send(signal.SIGINT)
            assert stopping.asked is None
    finally:
        signal.signal(signal.SIGINT, former)


def test_in_another_thread_nothing_changes():
    seen = []

    def work() -> None:
        with Stopping():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_the_end_is_that_of_the_signal():
    with pytest.raises(KeyboardInterrupt):
        stop(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        stop(signal.SIGTERM)
    assert caught.value.code == 143
