"""Latent perturbation: exact counts, real neighbors, the schedule, and the released code's numbers."""

import pytest
import torch
import torch.nn.functional as F

from robustok.tokenizer.perturbation import (
    Draw,
    NeighborTable,
    Perturbation,
    ReleasedPerturbation,
    chosen_tokens,
    draw_as_released,
    draw_replacements,
    neighbors,
    perturb,
    replace_as_released,
)
from robustok.tokenizer.quantizer import VQ, VectorQuantizer, straight_through


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codebook(k: int = 32, d: int = 4) -> torch.Tensor:
    return F.normalize(torch.randn(k, d, generator=seeded(0)), dim=1)


def test_neighbors_are_the_nearest_others_in_order():
    codes = codebook()
    near = neighbors(codes, 5)
    for code in range(len(codes)):
        distances = (codes - codes[code]).norm(dim=1)
        others = [i for i in distances.argsort().tolist() if i != code]
        assert near[code].tolist() == others[:5]


def test_of_several_codebooks_each_code_has_its_neighbors_in_its_own():
    one, other = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))
    near = neighbors(torch.cat([one, other]), 5, books=2)
    assert torch.equal(near, torch.cat([neighbors(one, 5), 12 + neighbors(other, 5)]))
    assert torch.equal(NeighborTable(books=2)(torch.cat([one, other]), 5), near)
    with pytest.raises(ValueError, match="a code among 12 has 1 to 11"):
        neighbors(torch.cat([one, other]), 12, books=2)


def test_a_code_is_not_its_own_neighbor_even_beside_a_twin():
    codes = torch.tensor([[0.0], [0.0], [1.0]])
    assert neighbors(codes, 1).flatten().tolist() == [1, 0, 0]


@pytest.mark.parametrize("delta", [0, 32])
def test_more_neighbors_than_codes_are_refused(delta):
    with pytest.raises(ValueError, match=f"delta = {delta} .* among 32 has 1 to 31"):
        neighbors(codebook(), delta)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.1), (0.5, 0.5), (0.3, 1.0), (0.06, 0.26), (0.0, 1.0), (1.0, 0.0)])
def test_exactly_the_shares_are_replaced_by_neighbors(alpha, beta):
    near = neighbors(codebook(), 6)
    tokens = torch.randint(32, (10, 16), generator=seeded(1))
    noisy = perturb(tokens, near, alpha, beta, generator=seeded(2))
    changed = noisy != tokens
    hit = changed.any(dim=1)
    assert hit.sum() == (round(beta * 10) if round(alpha * 16) else 0)
    assert (changed.sum(dim=1)[hit] == round(alpha * 16)).all()
    assert (near[tokens] == noisy[:, :, None]).any(dim=2)[changed].all()


def test_every_image_place_and_neighbor_is_drawn_equally_often():
    rounds, b, n, m = 1500, 5, 4, 3
    chosen, rank = torch.zeros(b, n), torch.zeros(m)
    generator = seeded(3)
    for _ in range(rounds):
        drawn = draw_replacements(b, n, m, alpha=0.5, beta=0.4, generator=generator)
        chosen += drawn.chosen
        rank += torch.bincount(drawn.rank[drawn.chosen], minlength=m)
    # each place is chosen with probability 0.4 * 0.5; five standard deviations of that count
    assert (chosen / rounds - 0.2).abs().max() < 5 * (0.2 * 0.8 / rounds) ** 0.5
    assert (rank / rank.sum() - 1 / m).abs().max() < 5 * (1 / m * (1 - 1 / m) / rank.sum()) ** 0.5


@pytest.mark.parametrize(
    ("b", "n", "alpha", "beta"),
    [(4, 2, 1.0, 0.1), (5, 2, 1.0, 0.1), (1, 2, 1.0, 0.3), (2, 3, 0.1, 1.0), (2, 1, 0.5, 1.0), (3, 4, 0.1, 0.1)],
)
def test_shares_too_small_for_one_hold_in_expectation(b, n, alpha, beta):
    """round(beta b) or round(alpha n) is 0 in each case: without more, perturbation would be off for ever."""
    rounds, generator = 300, seeded(6)
    chosen = torch.stack([chosen_tokens(b, n, alpha, beta, generator=generator) for _ in range(rounds)]).float()
    images = chosen.any(dim=2).sum(dim=1)
    assert images.max() <= max(1, round(beta * b))
    if round(alpha * n) == 0:
        assert chosen.sum(dim=2).max() == 1
    expected = alpha * beta * b * n
    error = chosen.sum(dim=(1, 2)).std() / rounds**0.5
    assert abs(chosen.sum() / rounds - expected) < 5 * error
    # and none is preferred
    share = chosen.mean(dim=0)
    assert (share - alpha * beta).abs().max() < 5 * (share.mean() / rounds) ** 0.5


def test_where_one_can_be_had_nothing_else_is_drawn():
    """The draw of earlier versions, number by number: seeds keep their meaning."""
    generator = seeded(7)
    order, places = torch.rand(16, 1, generator=generator), torch.rand(16, 8, generator=generator)
    wanted = (order.argsort(0).argsort(0) < 2) & (places.argsort(1).argsort(1) < 4)
    assert torch.equal(chosen_tokens(16, 8, 0.5, 0.1, generator=seeded(7)), wanted)


def test_the_released_draw_says_when_it_perturbs_nothing():
    with pytest.raises(ValueError, match=r"first int\(9 x 0.1\) = 0 images .* batch of 10 or more"):
        draw_as_released(9, 4, 3, 1.0, 0.1, generator=seeded(0))
    assert not draw_as_released(9, 4, 3, 1.0, 0.0, generator=seeded(0)).chosen.any()
    assert draw_as_released(10, 4, 3, 1.0, 0.1, generator=seeded(0)).chosen.any(dim=1).sum() == 1


def test_the_same_seed_gives_the_same_tokens_and_another_gives_others():
    near, tokens = neighbors(codebook(), 6), torch.zeros(8, 16, dtype=torch.long)
    first, again, other = (perturb(tokens, near, 1.0, 0.5, generator=seeded(s)) for s in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_fraction_outside_0_to_1_is_refused(name):
    shares = {"alpha": 0.5, "beta": 0.5} | {name: 1.5}
    with pytest.raises(ValueError, match=f"{name} is a fraction from 0 to 1, not 1.5"):
        perturb(torch.zeros(2, 2, dtype=torch.long), neighbors(codebook(), 1), **shares, generator=seeded(0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": -0.1}, "alpha is -0.1; it is a share"),
        ({"final_fraction": 2.0}, "final_fraction is 2.0; it is a share"),
        ({"delta": 0}, "delta is 0; it must be at least 1"),
        ({"anneal_start": 0.7}, "ends at 0.6, before it starts at 0.7"),
    ],
)
def test_a_senseless_perturbation_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Perturbation(**wrong)


def test_annealing_is_linear_between_its_ends_and_constant_outside():
    p = Perturbation(alpha=1.0, delta=100, anneal_start=0.2, anneal_end=0.6, final_fraction=0.3)
    assert [p.at(t) for t in (0.0, 0.2, 0.4, 0.6, 1.0)] == [
        (1.0, 100),
        (1.0, 100),
        (pytest.approx(0.65), 65),
        (pytest.approx(0.3), 30),
        (pytest.approx(0.3), 30),
    ]


def test_annealing_in_no_time_is_a_step():
    p = Perturbation(anneal_start=0.5, anneal_end=0.5, final_fraction=0.0)
    assert p.at(0.49) == (1.0, 100)
    assert p.at(0.5) == (0.0, 1)


def test_table_is_rebuilt_only_when_the_codebook_moves():
    codes, table = codebook(), NeighborTable(tolerance=0.05)
    assert torch.equal(table(codes, 6), neighbors(codes, 6))
    assert torch.equal(table(codes + 1e-4, 3), neighbors(codes, 3))
    assert table.rebuilt == 1
    moved = codes.clone()
    moved[7] = codes[20] + 0.01
    assert torch.equal(table(moved, 6), neighbors(moved, 6))
    assert table.rebuilt == 2
    assert torch.equal(table(moved, 9), neighbors(moved, 9))
    assert table.rebuilt == 3


def test_a_restored_table_is_the_one_that_was_saved():
    codes, table, restored = codebook(), NeighborTable(), NeighborTable()
    table(codes, 6)
    drifted = codes + 1e-3 * torch.randn(codes.shape, generator=seeded(6))
    restored.load_state_dict(table.state_dict())
    before, again = table.state_dict(), restored.state_dict()  # stopped once more before it was asked
    assert torch.equal(before["built_from"], again["built_from"])
    assert before["delta"] == again["delta"] == 6
    assert torch.equal(restored(drifted, 6), table(drifted, 6))
    restored.load_state_dict(NeighborTable().state_dict())
    assert torch.equal(restored(drifted, 6), neighbors(drifted, 6))


def test_released_code_draws_from_the_first_images():
    drawn = draw_as_released(10, 200, 7, alpha=0.5, beta=0.35, generator=seeded(7))
    assert drawn.chosen.any(dim=1).tolist() == [True] * 3 + [False] * 7
    share = drawn.chosen[:3].float().mean()
    assert abs(share - 0.5) < 5 * (0.25 / 600) ** 0.5
    assert drawn.rank.unique().tolist() == list(range(7))


@pytest.mark.parametrize("space", ["l2", "raw"])
@pytest.mark.parametrize("case", range(5))
def test_released_code_is_reproduced(parity, space, case):
    meta, io = parity("robustok_perturb")
    alpha, beta, delta = (meta["config"]["cases"][case][name] for name in ("alpha", "beta", "delta"))
    z = io["z"].flatten(2).transpose(1, 2).requires_grad_()
    latents, codes = z, io["codebook"]
    if space == "l2":
        latents, codes = F.normalize(z, dim=-1), F.normalize(codes, dim=-1)
    b, n, _ = latents.shape
    tokens = io[f"{space}_indices"].view(b, n)
    uniform, rank = (io[f"{space}_case{case}_{name}"].view(b, n) for name in ("rand_uniform", "rand_rank"))
    first = torch.arange(b)[:, None] < int(b * beta)
    noisy = replace_as_released(latents.detach(), tokens, codes, delta, Draw(first & (uniform <= alpha), rank))
    assert torch.equal(noisy.flatten(), io[f"{space}_case{case}_new_indices"])

    output = straight_through(latents, F.embedding(noisy, codes))
    weights = io["grad_w"].flatten(2).transpose(1, 2)
    (output * weights).sum().backward()
    as_map = output.transpose(1, 2).reshape(io["z"].shape)
    torch.testing.assert_close(as_map, io[f"{space}_case{case}_output"], atol=1e-5, rtol=1e-5)
    gradient = z.grad.transpose(1, 2).reshape(io["z"].shape)
    torch.testing.assert_close(gradient, io[f"{space}_case{case}_z_grad"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("space", ["l2", "raw"])
def test_released_quantization_and_ranking_are_reproduced(parity, space):
    _, io = parity("robustok_perturb")
    k, d = io["codebook"].shape
    quantizer = VectorQuantizer(VQ(codebook_size=k, width=d, normalized=space == "l2"))
    quantizer.embedding.data = io["codebook"]
    latents = io["z"].flatten(2).transpose(1, 2)
    quantized = quantizer(latents)
    assert torch.equal(quantized.tokens.flatten(), io[f"{space}_indices"])
    as_map = quantized.codes.transpose(1, 2).reshape(io["z"].shape)
    torch.testing.assert_close(as_map, io[f"{space}_z_q"], atol=1e-5, rtol=1e-5)
    everywhere = torch.ones_like(quantized.tokens, dtype=torch.bool)
    ranked = [
        replace_as_released(
            quantizer.project(latents),
            quantized.tokens,
            quantizer.codebook.detach(),
            k,
            Draw(everywhere, torch.full_like(quantized.tokens, rank)),
        ).flatten()
        for rank in range(k)
    ]
    assert torch.equal(torch.stack(ranked, dim=1), io[f"{space}_neighbours_sorted"])


def test_published_schedule_is_reproduced(parity):
    meta, io = parity("robustok_perturb")
    s = meta["config"]["sched"]
    p = ReleasedPerturbation(
        alpha=s["alpha"],
        delta=s["delta"],
        anneal_start=s["anneal_start"] / s["epochs"],
        anneal_end=s["anneal_end"] / s["epochs"],
        final_fraction=s["end_ratio"],
    )
    progress = [epoch / s["epochs"] for epoch in range(len(io["schedule_alpha"]))]
    alphas, deltas = (torch.tensor(values) for values in zip(*map(p.at, progress), strict=True))
    torch.testing.assert_close(alphas, io["schedule_alpha"].float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(alphas / p.alpha, io["schedule_ratio"].float(), atol=1e-6, rtol=0)
    assert torch.equal(deltas, io["schedule_delta"])


def test_the_released_schedule_jumps_unless_it_ends_at_one_half():
    schedule = {"anneal_start": 0.2, "anneal_end": 0.6, "final_fraction": 0.2}
    p = ReleasedPerturbation(**schedule)
    before_the_end = p.at(0.6 - 1e-6)
    assert before_the_end == (pytest.approx(0.8, abs=1e-5), 80)
    assert p.at(0.6) == (pytest.approx(0.2), 20)
    assert Perturbation(**schedule).at(0.6 - 1e-6)[1] == 20


def test_the_released_code_cuts_the_fraction_of_delta_off():
    paper, released = (kind(delta=99, final_fraction=0.5) for kind in (Perturbation, ReleasedPerturbation))
    assert (paper.at(1.0)[1], released.at(1.0)[1]) == (50, 49)
