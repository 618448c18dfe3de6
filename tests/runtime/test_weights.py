"""Weights by name: found, downloaded whole or not at all, checked; and every way in which they cannot be had."""

import hashlib
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robustok.runtime import weights
from robustok.runtime.tensor_files import read_tensors
from robustok.runtime.weights import HubModel, WeightFile, cache_folder, sha256

DATA = bytes(range(256)) * 20_000  # 5 MB, several chunks
WANTED = hashlib.sha256(DATA).hexdigest()


class Shelf(BaseHTTPRequestHandler):
    """Serves /whole, ends /short half-way, sends other bytes as /other, has nothing else."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        data = {"/whole": DATA, "/short": DATA, "/other": DATA[::-1]}.get(self.path)
        self.send_response(200 if data else 404)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write((data or b"")[: len(DATA) // 2 if self.path == "/short" else None])

    def log_message(self, *words: object) -> None: ...


@pytest.fixture
def shelf() -> Iterator[str]:
    Shelf.asked = []
    server = HTTPServer(("127.0.0.1", 0), Shelf)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBUSTOK_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path / "cache"


def weight_file(url: str) -> WeightFile:
    return WeightFile(title="a net", names=("net.pth", "old.pth"), url=url, sha256=WANTED, size=len(DATA))


def test_downloaded_once_then_found(shelf: str, cache: Path):
    net = weight_file(f"{shelf}/whole")
    assert net.located() is None
    assert net.path() == net.path() == cache / "net.pth"
    assert (cache / "net.pth").read_bytes() == DATA
    assert Shelf.asked == ["/whole"]
    assert [path.name for path in cache.iterdir()] == ["net.pth"]


@pytest.mark.parametrize("place", ["cache/old.pth", "torch/checkpoints/net.pth"])
def test_found_by_its_other_name_and_in_the_cache_of_torch_hub(tmp_path: Path, place: str):
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(DATA)
    assert weight_file("http://127.0.0.1:9/").path() == tmp_path / place


@pytest.mark.parametrize(
    ("page", "reason"),
    [("short", "what came has the SHA-256"), ("other", "what came has the SHA-256"), ("none", "HTTP Error 404")],
)
def test_half_a_file_is_never_left(shelf: str, cache: Path, page: str, reason: str):
    with pytest.raises(
        ValueError, match=rf"a net could not be downloaded \({reason}.*download .*5.12 MB\) to .*net.pth"
    ):
        weight_file(f"{shelf}/{page}").path()
    assert list(cache.iterdir()) == []


def test_a_download_that_is_stopped_leaves_nothing(shelf: str, cache: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(weights.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        weight_file(f"{shelf}/whole").path()
    assert list(cache.iterdir()) == []


def test_without_a_network_it_says_which_file_to_put_where():
    url = "http://127.0.0.1:9/net.pth"  # a port that nothing listens on
    remedy = f"download {url} (5.12 MB) to {cache_folder() / 'net.pth'}"
    with pytest.raises(ValueError) as caught:
        weight_file(url).path()
    assert str(caught.value).endswith(f"; {remedy}")
    assert "\n" not in str(caught.value)


def test_another_file_of_that_name_is_refused(cache: Path):
    cache.mkdir()
    (cache / "net.pth").write_bytes(b"something else")
    with pytest.raises(
        ValueError, match=f"net.pth is not a net: its SHA-256 is .*, not {WANTED[:16]}...; remove it, then"
    ):
        weight_file("http://127.0.0.1:9/").path()
    (cache / "net.pth").write_bytes(DATA)  # is looked at anew
    assert weight_file("http://127.0.0.1:9/").path() == cache / "net.pth"
    assert sha256(cache / "net.pth") == WANTED


HUB = HubModel(title="a model", repository="some/model")


def test_a_hub_model_lies_in_a_folder_of_its_name(cache: Path):
    (cache / "some--model").mkdir(parents=True)
    assert HUB.located() is None
    (cache / "some--model" / "pytorch_model.bin").touch()
    assert HUB.path() == cache / "some--model"


def test_a_hub_model_is_found_in_the_hub_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    known = {"pytorch_model.bin": str(tmp_path / "snapshot" / "pytorch_model.bin")}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, name: known.get(name))
    assert HUB.path() == tmp_path / "snapshot"


def test_a_hub_model_is_downloaded_with_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        if name == "model.safetensors":
            raise LocalEntryNotFoundError("no such file")
        return str(tmp_path / "snapshot" / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert HUB.path() == tmp_path / "snapshot"
    assert asked == [("some/model", name) for name in ("config.json", "model.safetensors", "pytorch_model.bin")]


def test_without_a_network_a_hub_model_s_files_are_named(cache: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    def fail(repository: str, name: str) -> str:
        raise huggingface_hub.errors.OfflineModeIsEnabled("Cannot reach the hub.\nMore about it.")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ValueError) as caught:
        HUB.path()
    assert str(caught.value) == (
        "a model could not be downloaded (Cannot reach the hub.); download config.json and model.safetensors "
        f"(or pytorch_model.bin) of https://huggingface.co/some/model to {cache / 'some--model'}"
    )


def test_by_default_weights_are_kept_in_the_home_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ROBUSTOK_WEIGHTS")
    assert cache_folder() == Path.home() / ".cache" / "robustok"


def test_tensors_from_every_kind_of_file(tmp_path: Path):
    state = {"a.weight": torch.arange(3.0)}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    torch.save({"model": state, "step": 3}, tmp_path / "wrapped.pth")
    torch.save({"state_dict": state}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "a.pth", "wrapped.pth", "legacy.pth"):
        assert torch.equal(read_tensors(tmp_path / name)["a.weight"], state["a.weight"])


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this ran",)


def test_files_that_hold_anything_else_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.save({"a": Hostile()}, tmp_path / "hostile.pth")
    (tmp_path / "pickle.bin").write_bytes(pickle.dumps(Hostile(), protocol=2))
    whole = tmp_path / "whole.pth"
    torch.save({"a": torch.zeros(1000)}, whole)
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:1000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "empty.pth").touch()
    for name, trouble in {
        "hostile.pth": r"is a pickle of more than tensors \(.*print\), whose code was not run; get it as safetensors",
        "pickle.bin": "is a pickle of more than tensors",
        "cut.pth": r"was cut short or damaged \(.+\); copy or download it again",
        "cut.safetensors": "was cut short or damaged; copy or download it again",
        "empty.pth": "is not a safetensors file",
    }.items():
        with pytest.raises(ValueError, match=f"{name} {trouble}") as caught:
            read_tensors(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert "this ran" not in capsys.readouterr().out
    for i, (other, what) in enumerate(
        {"a list": [torch.zeros(1)], "a dictionary of step": {"step": 3}, "a dict": {}}.items()
    ):
        torch.save(what, tmp_path / f"{i}.pth")
        with pytest.raises(ValueError, match=f"{i}.pth holds {other}, and no weights; they are expected flat or under"):
            read_tensors(tmp_path / f"{i}.pth")
    with pytest.raises(ValueError, match="there is no file .*nowhere.pth"):
        read_tensors(tmp_path / "nowhere.pth")


def test_published_hashes_begin_as_the_files_names_say():
    from robustok.backbones.vgg import LIN_LAYERS, VGG16
    from robustok.evaluation.features.spaces.inception import WEIGHTS

    for file in (WEIGHTS, VGG16):
        assert all(file.sha256[:8] in name for name in file.names)
    for file in (WEIGHTS, VGG16, LIN_LAYERS):
        assert len(bytes.fromhex(file.sha256)) == 32
        assert file.url.endswith(file.names[0])
        assert replace(file) == file
