"""The cost of a run: FLOPs against closed forms, bytes against tensors of a stage, times against arithmetic."""

from dataclasses import replace

import pytest
import torch
import training_cost
from torch.utils.flop_counter import FlopCounterMode
from training_cost import BACKWARD, GPUS, HOP, WIRE, Flops, Step, all_reduce, cost, count

from robustok.generators.autoregressive import Autoregressive
from robustok.layers import Block
from robustok.presets.recipes import DECODERS, TOKENIZERS, recipe
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.generator_training import GeneratorStage, GeneratorTraining
from robustok.training.loop import Loop
from robustok.training.tokenizer_training import TokenizerStage

H100 = GPUS["H100"]
GENERATOR = Autoregressive(codebook_size=64, tokens=16, classes=100, width=32, depth=2, heads=2)
TRAINING = GeneratorTraining(generator=GENERATOR, loop=Loop(steps=10, batch_size=8), precision="fp32")


def test_a_transformer_block_has_the_flops_of_the_closed_form():
    """Forward 24 b n c^2 for the linear layers and 4 b n^2 c for attention, backward twice as many."""
    b, n, c = 2, 16, 64
    with torch.device("meta"):
        block, x = Block(c, 4), torch.zeros(b, n, c, requires_grad=True)
    with Flops() as forward, FlopCounterMode(display=False) as peer:
        y = block(x)
    with Flops() as backward:
        y.sum().backward()
    flops = 24 * b * n * c**2 + 4 * b * n**2 * c
    assert (forward.total, backward.total, peer.get_total_flops()) == (flops, 2 * flops, flops)


def test_a_generators_step_has_the_flops_of_its_layers():
    """Blocks, the head, nothing else: embeddings are looked up."""
    n, c, codes = GENERATOR.tokens, GENERATOR.width, GENERATOR.codebook_size
    lengths = [n, n + 1]  # with or without the label's place
    blocks = [GENERATOR.depth * (24 * m * c**2 + 4 * m**2 * c) for m in lengths]
    heads = [2 * m * c * codes for m in lengths]
    assert count(TRAINING).flops in {3 * (block + head) for block in blocks for head in heads}


def test_what_is_held_is_what_a_trained_stage_holds():
    stage = GeneratorStage(TRAINING)
    zeros = torch.zeros(8, dtype=torch.int64)
    stage.step((torch.zeros(8, 16, dtype=torch.int64), zeros), 9)
    weights = sum(w.nbytes for w in stage.model.parameters())
    moments = sum(t.nbytes for state in stage.optimizer.adamw.state.values() for t in state.values() if t.ndim)
    average = sum(w.nbytes for w in stage.ema.module.parameters())
    step = count(TRAINING)
    assert step.held == {"trained": 2 * weights + moments, "EMA": average, "discriminator": 0}
    assert abs(step.frozen) < 100  # a scalar or two


def test_a_tokenizers_step_is_the_real_one():
    """All networks and losses, counted on meta tensors as on real ones, but for how attention is computed."""
    config = recipe("robustok_imagenet256-smoke", TOKENIZERS)
    config = replace(config, precision="fp32", loop=replace(config.loop, batch_size=2))
    config = replace(config, optim=replace(config.optim, micro_batches=1))
    stage = TokenizerStage(config)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), Flops() as flops:
        stage.step(torch.rand(2, 3, 32, 32) * 2 - 1, config.loop.steps - 1)
    step = count(config)
    assert step.flops == flops.total / 2
    assert step.weights == sum(w.numel() for w in stage.model.parameters() if w.requires_grad)
    assert step.discriminator > 0
    assert step.frozen > 0


def test_a_decoder_is_trained_alone():
    tokenizer = recipe("robustok_imagenet256-smoke", TOKENIZERS).tokenizer
    step = count(recipe("post_robustok-smoke", DECODERS), tokenizer)
    assert step.weights == sum(w.numel() for w in Tokenizer(tokenizer).decoder.parameters())
    with pytest.raises(ValueError, match="a PostTraining without a new model's config cannot be counted"):
        count(recipe("post_robustok-smoke", DECODERS))


STEP = Step(flops=1e12, weights=10**9, discriminator=10**8, frozen=1e9)


def run(gpus: int, batch: int = 64, micro_batches: int = 1, shard: bool = False):
    config = replace(TRAINING, loop=replace(TRAINING.loop, batch_size=batch), shard=shard)
    config = replace(config, optim=replace(config.optim, micro_batches=micro_batches))
    return cost(STEP, config, H100, gpus, 0.5, 50.0)


def test_time_is_products_over_a_share_of_the_peak():
    alone = run(1)
    assert alone.computing == alone.step == pytest.approx(64 * 1e12 / (0.5 * 989.4e12))
    assert (alone.exchanging, alone.exposed) == (0, 0)
    assert alone.held == 20e9 + 1.6e9 + 1e9  # 16 bytes a weight and 4 of its EMA
    assert run(64).computing == pytest.approx(alone.computing / 64)


def test_an_all_reduce_takes_the_time_of_the_closed_form():
    assert all_reduce(8e9, H100, 1, 50, 9) == 0
    assert all_reduce(8e9, H100, 8, 50, 9) == pytest.approx(2 * 7e9 / (WIRE * 450e9))
    inside, across = 2 * 7e9 / (WIRE * 450e9), 2 * 1e9 * (511 / 512) / (WIRE * 50e9)
    waiting = 2 * 9 * HOP * 7  # up and down a tree of 512 machines, for each of seven pieces
    assert all_reduce(8e9, H100, 4096, 50, 7) == pytest.approx(inside + across + waiting)


def test_exchanges_hide_behind_products():
    ddp = run(8, batch=512)
    assert ddp.exchanging == pytest.approx(all_reduce(4.4e9, H100, 8, 50, 1))
    assert ddp.exposed == 0
    assert ddp.held == run(1).held + 4e9  # gradients on their way
    short = run(64)
    assert short.exposed == pytest.approx(short.exchanging - BACKWARD * short.computing)
    parts = run(8, batch=512, micro_batches=8)  # of which only the last one hides anything
    assert parts.exposed == pytest.approx(parts.exchanging - BACKWARD * parts.computing / 8)
    fsdp = run(8, shard=True, micro_batches=2)
    assert fsdp.held == 20e9 / 8 + 1.6e9 + 1e9
    assert fsdp.exchanging == pytest.approx(2 * all_reduce(8e9, H100, 8, 50, 1) / 2)


def test_the_command_prints_a_column_for_each_number_of_gpus(capsys):
    training_cost.main(["rar_l-smoke", "--gpus", "1,8", "--loop.steps", "20", "--utilization", "0.2"])
    page = capsys.readouterr().out
    assert "rar_l-smoke on H100, at 20% of 989.4 TFLOP/s: an estimate" in page
    assert "20 steps of 16 images" in page
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert rows[0] == ["GPUs", "1", "8"]
    assert rows[2] == ["images a GPU", "16", "2"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--gpus 32", "32 GPUs cannot share a batch of 16 images"),
        ("--gpus 0", "0 GPUs cannot share a batch"),
        ("--utilization 2", "--utilization is above 0 and at most 1"),
        ("--loop.step 3", "step"),
        ("--gpu GTX", "invalid choice: 'GTX'"),
    ],
)
def test_what_makes_no_sense_is_refused(words, error, capsys):
    with pytest.raises(SystemExit):
        training_cost.main(["rar_l-smoke", *words.split()])
    assert error in capsys.readouterr().err
