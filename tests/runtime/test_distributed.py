import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.multiprocessing.spawn import start_processes

from robustok.runtime import distributed
from robustok.runtime.words import TOLD


def test_on_one_process_nothing_happens():
    value = torch.arange(3.0, requires_grad=True)
    assert distributed.mean(value) is value
    assert distributed.gather(value) is value
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)


def work(rank: int, folder: str) -> None:
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    dist.barrier()
    own = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + 10 * rank
    own.requires_grad_()
    together = distributed.gather(own)
    weights = torch.arange(8.0).view(4, 2) * (rank + 1)  # each rank's loss asks something else
    (together * weights).sum().backward()
    uneven = torch.arange(2.0 + rank).add(10 * rank).requires_grad_()
    joined = distributed.gather(uneven, (2, 3))
    (joined * torch.arange(5.0)).sum().backward()
    torch.save(
        {
            "uneven": joined.detach(),
            "uneven_gradient": uneven.grad,
            "in_places": distributed.in_places(
                torch.tensor([[1.0], [2.0]]) + 10 * rank, torch.tensor([3, 1]) - rank, 4
            ),
            "averaged": [[p.grad.tolist() for p in layer.parameters()] for layer in averaged(rank)],
            "place": (distributed.rank(), distributed.world_size(), distributed.is_main()),
            "mean": distributed.mean(own),
            "gathered": together.detach(),
            "gradient": own.grad,
        },
        f"{folder}/{rank}.pt",
    )
    dist.destroy_process_group()


def averaged(rank: int) -> list[nn.Module]:
    """Two equal models after three backward passes: one whose gradients are averaged in small buckets, one's own."""
    models = []
    for bucket in (8, 1_000_000):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        model.register_parameter("unused", nn.Parameter(torch.ones(2)))
        gradients = distributed.AveragedGradients(model.parameters(), bucket)
        for step in range(3):
            model.zero_grad()
            for part in range(2):  # accumulated: only what is whole travels
                gradients.expect(last=part == 1)
                images = torch.full((1, 2), step + part + 1.0 + rank)
                model(images).sum().backward()
            gradients.finish()
        assert model.unused.grad is None
        models += [model[0], model[1]]
    return models


def test_two_processes_average_gather_and_share_gradients(tmp_path: Path):
    start_processes(work, (str(tmp_path),), nprocs=2, start_method="forkserver")
    for rank in (0, 1):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert result["place"] == (rank, 2, rank == 0)
        assert torch.equal(result["mean"], torch.tensor([[6.0, 7.0], [8.0, 9.0]]))
        assert torch.equal(result["gathered"][:, 0], torch.tensor([1.0, 3.0, 11.0, 13.0]))
        asked = torch.arange(8.0).view(4, 2) * (1 + 2)  # the sum over both ranks' losses
        assert torch.equal(result["gradient"], asked[2 * rank : 2 * rank + 2])
        assert torch.equal(result["uneven"], torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0]))
        assert torch.equal(result["uneven_gradient"], 2 * torch.arange(5.0)[2 * rank : 2 + 3 * rank])
        assert torch.equal(result["in_places"].flatten(), torch.tensor([12.0, 2.0, 11.0, 1.0]))
        # of the sum over both parts, averaged over ranks: inputs 3 and 4 of rank 0, 4 and 5 of rank 1
        torch.manual_seed(0)
        alone = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        (alone(torch.tensor([[3.0, 3.0], [4.0, 4.0], [4.0, 4.0], [5.0, 5.0]])).sum() / 2).backward()
        wanted = [parameter.grad for parameter in alone.parameters()]
        for layers in (result["averaged"][:2], result["averaged"][2:]):
            got = [torch.tensor(gradient) for layer in layers for gradient in layer]
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a process that torchrun started alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in alone.items():
        monkeypatch.setenv(name, str(value))


def test_without_torchrun_there_is_one_process():
    with distributed.processes():
        assert not dist.is_initialized()
    assert distributed.gather_objects("alone") == ["alone"]
    assert distributed.from_main(lambda: 3) == 3


def test_torchrun_processes_are_together_for_the_while(torchrun):
    with distributed.processes():
        assert dist.is_initialized()
        with distributed.processes():  # already together
            assert distributed.gather_objects("alone") == ["alone"]
        assert dist.is_initialized()
        assert distributed.from_main(lambda: 3) == 3
    assert not dist.is_initialized()


def test_refuses_more_processes_than_gpus(torchrun, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="process 3 on a machine with 2 GPUs; start it with --nproc-per-node 2"):
        distributed.processes().__enter__()
    assert not dist.is_initialized()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def failing(rank: int, folder: str, ports: tuple[int, ...]) -> None:
    """Both processes fail alike; then one does while the other waits for it; then one is killed."""
    told = []
    for case, port in enumerate(ports):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
        try:
            with distributed.processes():
                dist.barrier()
                if case == 0:
                    raise ValueError("a setting is wrong")
                if case == 1 and rank == 1:
                    raise ValueError("an image is broken")
                if case == 2 and rank == 1:
                    (Path(folder) / "1.json").write_text(json.dumps(told))
                    os.kill(os.getpid(), signal.SIGKILL)
                dist.barrier()
        except (ValueError, RuntimeError) as error:
            told.append([type(error).__name__, str(error), getattr(error, "__notes__", [])])
    (Path(folder) / f"{rank}.json").write_text(json.dumps(told))


def test_a_failure_is_told_once_and_a_killed_process_is_noticed(tmp_path: Path):
    context = multiprocessing.get_context("forkserver")
    ports = tuple(free_port() for _ in range(3))
    started = [context.Process(target=failing, args=(rank, str(tmp_path), ports)) for rank in (0, 1)]
    for process in started:
        process.start()
    began = time.monotonic()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, -signal.SIGKILL], time.monotonic() - began
    main, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert main[0] == ["ValueError", "a setting is wrong", []]
    assert other[0] == ["ValueError", "a setting is wrong", [TOLD]]
    assert other[1] == ["ValueError", "an image is broken", ["process 1 of 2"]]
    for kind, text, _ in main[1:]:
        assert kind == "RuntimeError"
        assert "another process is gone, or did not answer for 1800 s (ROBUSTOK_TIMEOUT sets it)" in text
        assert "the same command goes on from the last save" in text
    assert [notes for *_, notes in main[1:]] == [[TOLD], []]


@pytest.mark.parametrize("text", ["soon", "0", "inf"])
def test_a_timeout_is_a_number_of_seconds(torchrun, monkeypatch, text):
    monkeypatch.setenv(distributed.TIMEOUT, text)
    with pytest.raises(ValueError, match=f"ROBUSTOK_TIMEOUT is '{text}'; give a number of seconds above 0"):
        distributed.processes().__enter__()


def test_what_every_process_has_whole_stays_so_without_sharding():
    value: Any = torch.ones(2)
    assert distributed.whole(value) is value
    assert distributed.cut_like(value, torch.zeros(2)) is value
    assert not distributed.is_sharded(value)
