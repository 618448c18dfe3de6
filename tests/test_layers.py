"""Attention against its formula, the KV cache against no cache, adaLN and LayerScale at their start, positions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustok import layers
from robustok.layers import (
    MLP,
    Attention,
    Block,
    KVCache,
    SwiGLU,
    attend,
    axial_angles,
    build_norm,
    modulate,
    rotate,
    rotation,
    sincos_positions,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomized(module):
    """With weights of no special kind, so that no zero or one hides a mistake."""
    for i, parameter in enumerate(module.parameters()):
        parameter.data = random(*parameter.shape, seed=i) / math.sqrt(parameter.shape[-1])
    return module


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_softmax_of_scaled_products(causal):
    attention, x = randomized(Attention(12, 3)), random(2, 5, 12)
    queries, keys, values = attention.qkv(x).chunk(3, dim=-1)
    heads = []
    for head in (slice(0, 4), slice(4, 8), slice(8, 12)):
        scores = queries[..., head] @ keys[..., head].mT / 2  # sqrt(4)
        if causal:
            scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(-1) @ values[..., head])
    torch.testing.assert_close(attention(x, causal=causal), attention.proj(torch.cat(heads, -1)))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_bfloat16_is_the_same_but_coarser(causal):
    def outcome(dtype: torch.dtype) -> list[Tensor]:
        queries, keys, values = (random(2, 3, 9, 4, seed=i).bfloat16().to(dtype).requires_grad_() for i in range(3))
        output = attend(queries, keys, values, causal=causal)
        output.backward(random(*output.shape, seed=3).bfloat16().to(dtype))
        return [output, queries.grad, keys.grad, values.grad]

    for fine, coarse in zip(outcome(torch.float32), outcome(torch.bfloat16), strict=True):
        assert coarse.dtype == torch.bfloat16
        # 8 bits; scores, weights, products and their gradients are each rounded
        torch.testing.assert_close(coarse.float(), fine, atol=8 * 2**-8 * fine.abs().max().item(), rtol=0)


def test_qk_norm_forgets_the_size_of_queries_and_keys():
    torch.manual_seed(0)
    attention, x = Attention(8, 2, qk_norm=True, bias=False), random(1, 4, 8)
    before = attention(x)
    attention.qkv.weight.data[:16] *= 100
    torch.testing.assert_close(attention(x), before, rtol=1e-4, atol=1e-5)  # up to the norm's epsilon


def test_rotary_scores_depend_on_the_distance_along_each_axis():
    query, key = random(1, 1, 1, 8), random(1, 1, 1, 8, seed=1)

    def score(at: tuple[float, float], other: tuple[float, float]) -> Tensor:
        angles = axial_angles(torch.tensor([at, other]), 8)
        q, k = rotate(torch.cat([query, key], dim=2), rotation(angles))[0, 0]
        return q @ k

    torch.testing.assert_close(score((1.0, 2.0), (3.0, 7.0)), score((11.0, 20.0), (13.0, 25.0)))
    assert (score((1.0, 2.0), (3.0, 7.0)) - score((2.0, 1.0), (7.0, 3.0))).abs() > 1e-2


def test_rotation_turns_pairs_of_neighbors_by_their_angles():
    x, angles = random(1, 1, 1, 4), torch.tensor([[0.3, -2.0]])
    as_complex = torch.view_as_complex(x.view(2, 2)) * torch.polar(torch.ones(2), angles[0])
    torch.testing.assert_close(rotate(x, rotation(angles)).flatten(), torch.view_as_real(as_complex).flatten())
    torch.testing.assert_close(axial_angles(torch.tensor([[3.0]]), 4), torch.tensor([[3.0, 3.0 / 100]]))


def test_an_attention_is_given_the_rotation_of_its_positions():
    attention, x = randomized(Attention(8, 2)), random(1, 3, 8)
    turned = attention(x, rotation=rotation(axial_angles(torch.arange(3.0).unsqueeze(1), 4)))
    torch.testing.assert_close(attention(x, rotation=rotation(torch.full((3, 2), 0.7))), attention(x))  # no distances
    assert (turned - attention(x)).abs().max() > 1e-3


def test_a_head_needs_a_pair_of_channels_for_each_axis():
    with pytest.raises(ValueError, match="a head of 6 channels has no pairs for 2 axes; choose other width or heads"):
        axial_angles(torch.zeros(1, 2), 6)


def test_swiglu_and_rms_norm_are_their_formulas():
    mlp, x = randomized(SwiGLU(4, 3)), random(2, 5, 4)
    a, b = (x @ mlp.fc1.weight.T + mlp.fc1.bias).split(3, dim=-1)
    torch.testing.assert_close(mlp(x), mlp.fc2(a * a.sigmoid() * b))
    mean_square = x.square().mean(-1, keepdim=True) + 1e-6
    torch.testing.assert_close(build_norm("rms", 4)(x), x / mean_square.sqrt())
    assert not list(build_norm("layer", 4, affine=False).parameters())


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width 10 is not a multiple of 4 heads; choose heads that divide it"):
        Attention(10, 4)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("step", [3, 64])
def test_a_cache_changes_nothing(modulated, step, monkeypatch):
    monkeypatch.setattr(KVCache, "STEP", step)  # the cache takes more memory once, or many times, within a block too
    block, n = randomized(Block(8, 2, qk_norm=True, modulated=modulated)), 11
    x = random(2, n, 8)
    modulation = block.modulation(random(2, n, 8, seed=1)) if block.modulation else None
    cache, parts = KVCache(n), []
    for start, end in [(0, 2), (2, 3), (3, 7), *((i, i + 1) for i in range(7, n))]:
        part = modulation[:, start:end] if modulation is not None else None
        parts.append(block(x[:, start:end], part, causal=True, cache=cache))
    assert cache.filled == n
    torch.testing.assert_close(torch.cat(parts, 1), block(x, modulation, causal=True))


@pytest.mark.parametrize("amx", [False, True])  # decides how one query is served, not whether it can be
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_a_cache_of_blocks_and_single_positions_is_attention_to_all_before(causal, dtype, amx, monkeypatch):
    fused, fast = [], F.scaled_dot_product_attention
    monkeypatch.setattr(KVCache, "STEP", 4)
    monkeypatch.setattr(layers, "has_amx", lambda: amx)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, *a, **k: (fused.append(q), fast(q, *a, **k))[1])
    cache, (q, k, v) = KVCache(10), (random(2, 3, 10, 8, seed=i).to(dtype) for i in range(3))
    for start, end in [(0, 3), (3, 4), (4, 9), (9, 10)]:
        here = slice(start, end)
        out = cache.attend(q[:, :, here], k[:, :, here], v[:, :, here], causal=causal, scale=0.5)
        seen = torch.arange(end) <= torch.arange(start, end).unsqueeze(1)
        scores = (q[:, :, here].float() @ k[:, :, :end].float().mT * 0.5).masked_fill(causal & ~seen, -math.inf)
        wanted = scores.softmax(-1) @ v[:, :, :end].float()
        tolerance = 1e-5 if dtype == torch.float32 else 8 * 2**-8 * wanted.abs().max().item()
        torch.testing.assert_close(out.float(), wanted, atol=tolerance, rtol=0)
    assert sum(q.shape[2] == 1 for q in fused) == (2 if amx else 0)


@pytest.mark.parametrize("modulated", [False, True])
def test_the_last_position_alone_is_the_last_of_all_and_the_cache_has_all(modulated):
    block, x = randomized(Block(8, 2, qk_norm=True, layer_scale=0.5, modulated=modulated)), random(2, 7, 8)
    modulation = block.modulation(random(2, 7, 8, seed=1)) if block.modulation else None
    wanted, cache = block(x, modulation, causal=True), KVCache(7)
    for start, end in [(0, 3), (3, 4), (4, 7)]:
        part = None if modulation is None else modulation[:, start:end]
        out = block(x[:, start:end], part, causal=True, cache=cache, last=True)
        torch.testing.assert_close(out, wanted[:, end - 1 : end])


def test_a_cache_takes_equal_parts_of_memory_and_none_for_a_last_position_alone():
    cache, rooms = KVCache(257), []
    for _ in range(257):
        cache.attend(*(torch.zeros(1, 1, 1, 2) for _ in range(3)), causal=True)
        rooms.append(cache.room)
    assert sorted(set(rooms)) == [65, 130, 195, 260]


def test_a_block_is_two_residual_branches():
    block, x = randomized(Block(8, 2, mlp_ratio=3.0)), random(2, 4, 8)
    middle = x + block.attention(block.norm1(x))
    torch.testing.assert_close(block(x), middle + block.mlp(block.norm2(middle)))
    assert block.mlp.fc1.weight.shape == (24, 8)


def test_a_modulated_block_starts_as_the_identity():
    block, x = Block(8, 2, modulated=True), random(2, 4, 8)
    assert torch.equal(block(x, block.modulation(random(2, 4, 8, seed=1))), x)


def test_layer_scale_weighs_both_branches():
    plain, scaled = randomized(Block(8, 2)), Block(8, 2, layer_scale=0.0)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    x = random(2, 4, 8)
    assert torch.equal(scaled(x), x)
    for layer in (scaled.scale1, scaled.scale2):
        nn.init.ones_(layer.gamma)
    torch.testing.assert_close(scaled(x), plain(x))


def test_modulate_scales_by_one_more_and_shifts():
    x, shift, scale = torch.full((1, 1, 2), 3.0), torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.0]]])
    assert modulate(x, shift, scale).tolist() == [[[5.5, 3.0]]]


def test_mlp_uses_the_exact_gelu():
    mlp = MLP(1, 1)
    for parameter, value in zip(mlp.parameters(), (1.0, 0.0, 1.0, 0.0), strict=True):
        parameter.data.fill_(value)
    assert mlp(torch.full((1, 1, 1), 0.7)).item() == pytest.approx(0.7 * 0.5 * (1 + math.erf(0.7 / math.sqrt(2))))


def test_positions_tell_row_and_column_and_their_distance():
    table = sincos_positions(3, 5, 8).unflatten(0, (3, 5))
    assert torch.equal(table[0, 0], torch.tensor([0.0, 0, 1, 1, 0, 0, 1, 1]))
    assert table[2, 1].tolist() == pytest.approx(
        [
            math.sin(2),
            math.sin(0.02),
            math.cos(2),
            math.cos(0.02),
            math.sin(1),
            math.sin(0.01),
            math.cos(1),
            math.cos(0.01),
        ]
    )
    # a product depends on the offset alone
    torch.testing.assert_close(table[0, 1] @ table[1, 3], table[1, 2] @ table[2, 4])


def test_positions_need_a_width_of_fours():
    with pytest.raises(ValueError, match="width 10 is not a multiple of 4"):
        sincos_positions(2, 2, 10)
