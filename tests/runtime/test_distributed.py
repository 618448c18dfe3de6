import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.multiprocessing.spawn import start_processes

from robustok.runtime import distributed


def test_on_one_process_nothing_happens():
    value = torch.arange(3.0, requires_grad=True)
    assert distributed.mean(value) is value
    assert distributed.gather(value) is value
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    distributed.barrier()


def work(rank: int, folder: str) -> None:
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    distributed.barrier()
    own = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + 10 * rank
    own.requires_grad_()
    together = distributed.gather(own)
    weights = torch.arange(8.0).view(4, 2) * (rank + 1)  # each rank's loss asks something else
    (together * weights).sum().backward()
    torch.save(
        {
            "place": (distributed.rank(), distributed.world_size(), distributed.is_main()),
            "mean": distributed.mean(own),
            "gathered": together.detach(),
            "gradient": own.grad,
        },
        f"{folder}/{rank}.pt",
    )
    dist.destroy_process_group()


def test_two_processes_average_gather_and_share_gradients(tmp_path: Path):
    multiprocessing.get_context("forkserver").set_forkserver_preload(["torch._dynamo"])
    start_processes(work, (str(tmp_path),), nprocs=2, start_method="forkserver")
    for rank in (0, 1):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert result["place"] == (rank, 2, rank == 0)
        assert torch.equal(result["mean"], torch.tensor([[6.0, 7.0], [8.0, 9.0]]))
        assert torch.equal(result["gathered"][:, 0], torch.tensor([1.0, 3.0, 11.0, 13.0]))
        asked = torch.arange(8.0).view(4, 2) * (1 + 2)  # the sum over both ranks' losses
        assert torch.equal(result["gradient"], asked[2 * rank : 2 * rank + 2])


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
