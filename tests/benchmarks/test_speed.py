"""The benchmark of speed: its plain loop draws from the same distributions as ours, and all of it runs at toy size."""

import operators
import pytest
import speed
import torch

from robustok import inference
from robustok.generators.sampling import Sampling, sample_tokens


def test_the_plain_loop_is_the_same_sampling(monkeypatch):
    """With the likeliest token in place of a draw, both give the same tokens."""
    torch.manual_seed(0)
    model = speed.rar(speed.QUICK)
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape))
    labels = torch.tensor([3, 999, 3])
    monkeypatch.setattr(torch, "multinomial", lambda p, count: p.argmax(dim=1, keepdim=True))
    ours = sample_tokens(model, labels, Sampling(guidance=speed.GUIDANCE, top_k=1), seed=0)
    assert torch.equal(speed.plain_loop(model, labels), ours)
    assert len(ours.unique()) > 5


def test_products_are_those_that_are_counted(monkeypatch):
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setattr(inference, "_can_pack", lambda dtype: False)  # packed products are not counted
    model = speed.rar(speed.QUICK)
    with FlopCounterMode(display=False) as counter:
        speed.sampler(model, 2, False)()
    linear = sum(flops for kind, flops in counter.get_flop_counts()["Global"].items() if "addmm" in str(kind))
    assert speed.products(model, 2) == pytest.approx(linear, rel=0.15)  # the label's position comes on top


def test_what_is_read_is_each_weight_at_every_token_and_what_came_before():
    """One block 64 wide: 12 x 64 x 64 weights of attention and MLP, and the head."""
    model, (n, batch) = speed.rar(speed.QUICK), (16, 3)
    head = model.head.weight.numel()
    weights, held = 12 * 64**2 + head, sum(2 * 2 * batch * 64 * position for position in range(1, n + 1))
    assert speed.traffic(model, batch, False) == 4 * (n * weights + held)
    assert speed.traffic(model, batch, True) == 2 * (n * weights + held)


@pytest.mark.usefixtures("unchecked")  # the compiler cannot look into checks of annotations
def test_every_row_is_there_at_toy_size(capsys, monkeypatch):
    monkeypatch.setattr(speed, "REPEAT", 1)
    speed.main(["--quick"])
    out = capsys.readouterr().out
    assert "GFLOP/s of a matrix product" in out
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in out.splitlines() if line[:1] == "|"]
    names = [row[0] for row in rows if row[-1][-1:] != "%" or len(row) == 6]
    for end in ("float32", "bfloat16", "float32, the first batch", "bfloat16, the first batch"):
        assert f"compiled sampling, 2 images, {end}" in names
    for start in ("sampling, 2 images, float32", "sampling, 2 images, bfloat16", "Frechet distance"):
        assert sum(name.startswith(start) for name in names) == 1, start
    assert names.count("a step of RAR-L, generator") == sum("beside 1 busy process" in name for name in names) == 1
    parts = [row for row in rows if row[0] == "a step of RobusTok, post-training" and row[-1].endswith("%")]
    assert len(parts) == operators.SHOWN + 1
    assert sum(int(row[-1].rstrip("%")) for row in parts) == pytest.approx(100, abs=operators.SHOWN)  # each is rounded
    for sigma in ("0.9", "0.7", "0.5", "0"):
        assert f"pairs, sigma {sigma}, 2 images, float32" in names
    for row in (row for row in rows if len(row) == 6):
        if row[0].startswith(("sampling, 2", "compiled", "pairs", "a step", "Frechet", "4 JPEGs", "perturbation, K")):
            ours, other, ratio = (float(cell.replace(",", "")) for cell in row[2:5])
            assert ratio * ours == pytest.approx(other, abs=0.06 * (1 + ratio + ours))  # all three are rounded
    assert sum(name.startswith("statistics, of images") for name in names) == 2
