"""Files that one process or thread at a time makes: the others are told, or wait for their turn."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from robustok.runtime.locking import claim


def test_a_claimed_file_is_nobody_elses_until_it_is_let_go(tmp_path: Path):
    for _ in range(2):
        with claim(tmp_path / "file") as mine:
            assert mine
            with claim(tmp_path / "file") as other, claim(tmp_path / "another") as free:
                assert (other, free) == (False, True)
    assert not list(tmp_path.iterdir())


def test_who_waits_comes_after_the_others(tmp_path: Path):
    """Counting in a file, which loses numbers where two do it at once."""
    count = tmp_path / "count"
    count.write_text("0")

    def add(_: int) -> None:
        with claim(count, wait=True) as mine:
            assert mine
            count.write_text(str(int(count.read_text()) + 1))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(200)))
    assert count.read_text() == "200"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]
