"""Shards behind an address: fetched whole, gone on with, kept within a limit, from a server on this machine."""

import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tests.data import some_shards

from robustok.data import downloads, open_images
from robustok.data.loading import training_batch
from robustok.data.user_cache import data_folder

EVERYTHING = torch.arange(some_shards.COUNT)


class Handler(SimpleHTTPRequestHandler):
    """A server of files that gives parts, counts whole requests, and breaks off when it is told to."""

    asked: ClassVar[Counter] = Counter()
    break_off = 0  # answers that end after half of their bytes
    whole_size = True  # whether the answer for a part tells the size of the whole
    length = True  # whether any answer tells its own
    more = 0  # bytes that are sent beyond the file's

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, wanted = path.read_bytes(), self.headers.get("Range")
        first, last = (part and int(part) for part in wanted.removeprefix("bytes=").split("-")) if wanted else (0, "")
        part = data[first : len(data) if last == "" else last + 1] + bytes(Handler.more if last == "" else 0)
        self.send_response(206 if wanted else 200)
        if wanted:
            size = len(data) if Handler.whole_size else "*"
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{size}")
        if Handler.length:
            self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{hash(data)}"')
        self.end_headers()
        if last == "":
            Handler.asked[path.name, first] += 1
            if Handler.break_off:
                Handler.break_off -= 1
                part = part[: len(part) // 2]
        self.wfile.write(part)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of shards, and the folder that they lie in."""
    some_shards.write_tars(tmp_path / "there")
    monkeypatch.setenv("ROBUSTOK_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "PAUSE", 0.001)
    Handler.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "there")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/train-{{000..004}}.tar", tmp_path / "there"
    server.shutdown()
    server.server_close()
    thread.join()


def kept() -> list[Path]:
    return sorted(data_folder().glob("shards/*/*.tar"))


def test_shards_are_fetched_once_and_give_what_local_ones_give(server):
    address, there = server
    images, local = open_images(address, 16), open_images(there, 16)
    assert torch.equal(images.images(EVERYTHING), local.images(EVERYTHING))
    assert torch.equal(training_batch(images, 7, 0, 5), training_batch(local, 7, 0, 5))
    assert torch.equal(images.labels, local.labels)
    assert images.describe()["hash"] == local.describe()["hash"]
    open_images(address, 16).images(EVERYTHING)
    assert sorted(Handler.asked.values()) == [1] * 5
    assert [path.read_bytes() for path in kept()] == [path.read_bytes() for path in sorted(there.glob("*.tar"))]


def test_a_download_that_breaks_off_goes_on_where_it_was(server):
    address, there = server
    Handler.break_off = 3
    open_images(address.replace("{000..004}", "002"), 16, labels="none")
    assert [path.read_bytes() for path in kept()] == [(there / "train-002.tar").read_bytes()]
    firsts = [first for _, first in Handler.asked]
    assert firsts[0] == 0
    assert firsts == sorted(set(firsts))  # each later request begins where the last one ended
    assert len(firsts) == 4


def test_a_server_that_keeps_breaking_off_is_given_up_and_what_came_is_kept(server, monkeypatch):
    address, _ = server
    monkeypatch.setattr(downloads, "TRIES", 2)
    monkeypatch.setattr(downloads, "_append", lambda *arguments: (_ for _ in ()).throw(OSError("reset by peer")))
    with pytest.raises(
        ValueError, match=r"train-000.tar cannot be fetched to .* .*; what came is kept, so start again"
    ):
        open_images(address, 16)
    assert kept() == []


def test_a_server_that_tells_no_size_with_a_part_is_asked_for_the_whole(server, monkeypatch):
    """As RFC 9110 allows, `bytes 0-0/*`: the length of that part is not the shard's."""
    address, there = server
    monkeypatch.setattr(Handler, "whole_size", False)
    open_images(address, 16)
    assert [path.read_bytes() for path in kept()] == [path.read_bytes() for path in sorted(there.glob("*.tar"))]
    monkeypatch.setattr(Handler, "length", False)
    with pytest.raises(ValueError, match=r"train-000.tar\?new cannot be fetched \(its server does not tell its size\)"):
        open_images(address.replace("{000..004}.tar", "000.tar?new"), 16)


def test_more_bytes_than_announced_end_the_download(server, monkeypatch):
    address, _ = server
    monkeypatch.setattr(Handler, "more", 1)
    with pytest.raises(ValueError, match=r"train-00\d.tar sent \d+ bytes or more where .* announced; .* start again"):
        open_images(address, 16)
    assert kept() == []


def test_a_shard_that_changed_is_fetched_again(server):
    address, there = server
    one = address.replace("{000..004}", "000")
    assert len(open_images(one, 16)) == 6
    data = some_shards.pictures(2)
    some_shards.write_tar(there / "train-000.tar", {"a.png": data[0], "b.png": data[1]})
    assert len(open_images(one, 16)) == 2
    assert len(kept()) == 1


def test_without_a_network_fetched_shards_still_do(server):
    address, there = server
    before = open_images(address, 16).images(EVERYTHING)
    for path in there.iterdir():
        path.unlink()
    assert torch.equal(open_images(address, 16).images(EVERYTHING), before)
    with pytest.raises(ValueError, match=r"train-009.tar cannot be fetched \(.*404.*\); look at the address"):
        open_images(address.replace("{000..004}", "009"), 16)


def test_what_may_not_stay_makes_room(server, monkeypatch):
    """Three of five shards fit: all must at once without a window, two windows of one shard must with it."""
    address, there = server
    size = (there / "train-000.tar").stat().st_size
    monkeypatch.setenv(downloads.LIMIT, str(3.5 * size / 1e9))
    with pytest.raises(ValueError, match=r"5 shards need .* GB in .* they may take .*; make room, .* give a window"):
        open_images(address, 16)
    images, local = open_images(address, 16, window=1), open_images(there, 16, window=1)
    assert len(kept()) == 3
    for step in range(2 * some_shards.COUNT // 6):
        assert torch.equal(training_batch(images, 6, 0, step), training_batch(local, 6, 0, step))
        assert len(kept()) <= 3
    assert max(Handler.asked.values()) > 1
    index = len(Handler.asked)
    open_images(address, 16, window=1)  # the index is known, so nothing is fetched
    assert len(Handler.asked) == index
    monkeypatch.setenv(downloads.LIMIT, "much")
    with pytest.raises(ValueError, match="ROBUSTOK_DATA_LIMIT is 'much'; give a number of GB above 0"):
        open_images(address, 16, window=1)
