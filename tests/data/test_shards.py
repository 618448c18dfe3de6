"""Folders of shards: any number of processes, kills, disks without room, what is read and what is not."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.toy import start

from robustok.data import shards
from robustok.data.shards import Shards, write_shards


def write(folder: Path, seconds: float, name: str) -> None:
    def make(rows: range) -> dict[str, torch.Tensor]:
        with (folder / f"made-by-{name}").open("a") as log:
            log.write(f"{rows.start}\n")
        time.sleep(seconds)
        return {"rows": torch.arange(rows.start, rows.stop).view(-1, 1).expand(-1, 3).contiguous()}

    write_shards(folder, "rows", {"of": "a test"}, 40, make, shard_size=4)


def made(folder: Path) -> list[list[int]]:
    return [[int(line) for line in log.read_text().split()] for log in sorted(folder.glob("made-by-*"))]


def test_processes_share_the_work_and_one_that_is_killed_leaves_nothing(tmp_path):
    """Two at once, one of them killed while it makes a shard: the other one makes it again."""
    doomed = start(write, tmp_path, 60, "doomed")
    until(lambda: made(tmp_path))
    other = start(write, tmp_path, 0.01, "other")
    try:
        until(lambda: len(list(tmp_path.glob("*.safetensors"))) == 9)
        assert other.exitcode is None, "it waits for the shard that the other one is making"
        doomed.kill()
        other.join(20)
        assert other.exitcode == 0
    finally:
        doomed.kill()
        other.kill()
        doomed.join()
    mine, others = made(tmp_path)
    assert len(mine) == 1
    assert sorted(others) == list(range(0, 40, 4))  # the unfinished one among them
    assert torch.equal(Shards(tmp_path, "rows").column("rows")[:, 2], torch.arange(40))
    assert not list(tmp_path.glob("*.partial"))


def until(condition: Callable[[], object]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened for a minute")


def rows(numbers: range) -> dict[str, torch.Tensor]:
    return {"rows": torch.arange(numbers.start, numbers.stop).view(-1, 1, 1) + torch.arange(5).view(1, 5, 1)}


def test_rows_are_taken_in_the_order_asked_for(tmp_path):
    write_shards(tmp_path, "rows", {}, 23, rows, shard_size=4)
    read = Shards(tmp_path, "rows")
    asked = torch.tensor([22, 0, 7, 8, 7, 15])
    assert torch.equal(read.take("rows", asked)[:, 0, 0], asked)
    within = torch.tensor([0, 4, 1, 2, 3, 0])
    assert torch.equal(read.take("rows", asked, within)[:, 0], asked + within)
    assert (len(read), read.shape("rows"), read.names()) == (23, (5, 1), ["rows"])


def test_a_folder_larger_than_memory_is_read_in_place(tmp_path):
    """64 MB of rows, of which 100 are touched: what the process holds grows by far less."""
    mb = 2**20
    write_shards(
        tmp_path, "rows", {}, 64, lambda part: {"rows": torch.zeros(len(part), mb, dtype=torch.uint8)}, shard_size=32
    )
    Shards(tmp_path, "rows")
    before = held()
    assert Shards(tmp_path, "rows").take("rows", torch.tensor([40, 3])).shape == (2, mb)
    assert held() - before < 16


def held() -> int:
    """Megabytes that only this process holds."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) // 1024


def test_hashes_are_checked_once_and_again_when_a_shard_changes(tmp_path, monkeypatch):
    write_shards(tmp_path, "rows", {}, 8, rows, shard_size=4)
    hashed = []
    own = shards.is_whole
    monkeypatch.setattr(shards, "is_whole", lambda *file: hashed.append(0) or own(*file))
    for looks in (2, 2):
        Shards(tmp_path, "rows")
        assert len(hashed) == looks
    path = tmp_path / "00001-of-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="00001-of-00002.safetensors is damaged"):
        Shards(tmp_path, "rows")


def test_a_disk_without_room_is_said_before_anything_is_made(tmp_path, monkeypatch):
    usage = shards.shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ValueError, match="3 GB of rows are to be written to .*, where 1 GB are free; make room or"):
        write_shards(tmp_path, "rows", {}, 3000, rows, shard_size=1000, row_bytes=10**6)
    assert not list(tmp_path.glob("*.safetensors"))
    write_shards(tmp_path / "small", "rows", {}, 8, rows, shard_size=4, row_bytes=20)
    assert np.array_equal(Shards(tmp_path / "small", "rows").column("rows")[:, 0, 0], range(8))


def test_a_reader_without_the_right_to_write_reads(tmp_path, monkeypatch):
    write_shards(tmp_path, "rows", {}, 8, rows, shard_size=4)
    (tmp_path / shards.VERIFIED).unlink(missing_ok=True)

    def refused(*arguments):
        raise PermissionError("somebody else's folder")

    monkeypatch.setattr(shards, "write_json", refused)
    assert len(Shards(tmp_path, "rows")) == 8
    assert not (tmp_path / shards.VERIFIED).exists()


@pytest.mark.parametrize("left", [b"", b"[1, 2]", b'{"00000-of-0'])
def test_a_damaged_note_of_what_is_whole_is_made_anew(left, tmp_path):
    write_shards(tmp_path, "rows", {}, 8, rows, shard_size=4)
    Shards(tmp_path, "rows")
    noted = (tmp_path / shards.VERIFIED).read_bytes()
    for use in (lambda: Shards(tmp_path, "rows"), lambda: write_shards(tmp_path, "rows", {}, 8, rows, shard_size=4)):
        (tmp_path / shards.VERIFIED).write_bytes(left)
        use()
        assert (tmp_path / shards.VERIFIED).read_bytes() == noted


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"count": 10**30}, "tells of 1000000000000000000000000000000 rows, more than can be"),
        ({"count": "4"}, "count in .*manifest.json is '4', which is no count"),
        ({"shard_size": 0}, "shard_size in .*manifest.json is 0"),
        ({"shard_size": None}, "shard_size in .*manifest.json is None"),
    ],
)
def test_a_damaged_manifest_is_told(changed, words, tmp_path: Path):
    write_shards(tmp_path, "rows", {}, 4, lambda rows: {"rows": torch.arange(len(rows))}, shard_size=4)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | changed))
    with pytest.raises(ValueError, match=words):
        Shards(tmp_path, "rows")


def test_what_a_manifest_lacks_is_told(tmp_path: Path):
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "rows", "count": 4}))
    with pytest.raises(ValueError, match="manifest.json does not say the shard_size; it was damaged or edited"):
        Shards(tmp_path, "rows")
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="manifest.json holds a list and is no manifest"):
        write_shards(tmp_path, "rows", {}, 4, lambda rows: {}, shard_size=4)
