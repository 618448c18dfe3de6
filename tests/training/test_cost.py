"""The cost of a run: counts against closed forms and against real steps, formulas of time and memory, errors."""

import json
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from robustok.generators.autoregressive import Autoregressive
from robustok.layers import Block
from robustok.presets.recipes import DECODERS, TOKENIZERS, recipe
from robustok.tokenizer.autoencoder import Autoencoder
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.cost.accelerators import ACCELERATORS, Accelerator, accelerator
from robustok.training.cost.counted_step import CountedStep, Held, count_step
from robustok.training.cost.counting import Counted, Counting, as_on_a_gpu
from robustok.training.cost.estimate import (
    WIRE,
    Cluster,
    PeakMemory,
    Work,
    all_reduce_seconds,
    estimate,
    exchanges,
    largest_batch,
    memory,
    seconds_for,
)
from robustok.training.generator_training import GeneratorStage, GeneratorTraining
from robustok.training.loop import Loop
from robustok.training.main_training import TokenizerStage
from robustok.training.post_training import DecoderStage
from robustok.training.speed import Speed

H100 = ACCELERATORS["H100"]


def tiny(precision="fp32", width=32, depth=2, batch=8):
    generator = Autoregressive(
        codebook_size=64, tokens=16, classes=100, width=width, depth=depth, heads=2, modulated=True
    )
    return GeneratorTraining(generator=generator, loop=Loop(steps=10, batch_size=batch), precision=precision)


def tokens(b, n=16):
    return torch.zeros(b, n, dtype=torch.int64), torch.zeros(b, dtype=torch.int64)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_transformer_block_has_the_products_of_the_closed_form(device):
    """Forward 24 b n c^2 + 4 b n^2 c; backward twice the first, and 5/2 of the second, whose products are redone."""
    b, n, c = 2, 16, 64
    with torch.device(device):
        block, x = Block(c, 4), torch.zeros(b, n, c, requires_grad=True)
    with as_on_a_gpu(), Counting() as forward:
        y = block(x)
    with as_on_a_gpu(), Counting() as backward:
        y.sum().backward()
    linear, attention = 24 * b * n * c**2, 4 * b * n**2 * c
    assert forward.flops == {"fp32": linear + attention}
    assert backward.flops == {"fp32": 2 * linear + 5 * attention // 2}


def test_a_convolution_has_the_products_of_the_closed_form():
    conv, x = nn.Conv2d(3, 8, 3, padding=1), torch.zeros(2, 3, 16, 16, requires_grad=True)
    with Counting() as counted:
        conv(x).sum().backward()
    assert counted.flops["tf32"] == 3 * (2 * 2 * 16 * 16 * 3 * 8 * 9)  # forward, to the input, to the weights


def test_products_under_autocast_are_counted_in_bfloat16():
    linear, x = nn.Linear(8, 4, device="meta"), torch.empty(2, 8, device="meta")
    with as_on_a_gpu(), torch.autocast("meta", torch.bfloat16), Counting() as counted:
        assert linear(x).dtype == torch.bfloat16
        assert nn.functional.layer_norm(linear(x), (4,)).dtype == torch.float32
        with torch.autocast("meta", enabled=False):
            assert linear(x).dtype == torch.float32
    assert counted.flops == {"bf16": 2 * 2 * (2 * 8 * 4), "fp32": 2 * 2 * 8 * 4}


def test_nothing_stays_changed_after_counting():
    before = torch.autocast, torch.optim.AdamW
    with as_on_a_gpu():
        assert torch.optim.AdamW is not before[1]
    assert (torch.autocast, torch.optim.AdamW) == before
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_peak_is_what_is_alive_at_once(device):
    x = torch.zeros(1024, device=device)  # was there before
    with Counting() as counted:
        a = x + 1
        a = a + 1  # two of them alive
        del a
        b = x.view(32, 32)  # shares memory
        (b * 2).add_(1)
    assert counted.peak == 2 * 4096
    assert counted.operations == 4


def test_what_forward_keeps_is_what_autograd_saves():
    layers = nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(64, 64), nn.GELU())))
    x, saved = torch.randn(32, 64), {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = layers(x)
    own = {x.data_ptr(), *(p.data_ptr() for p in layers.parameters())}
    kept = sum(size for place, size in saved.items() if place not in own)
    layers, x = layers.to("meta"), x.to("meta")
    with as_on_a_gpu(), Counting() as counted:
        layers(x)
    assert counted.peak == kept + y.nbytes


MAIN = replace(recipe("robustok_imagenet256-smoke", TOKENIZERS), precision="fp32")
POST = replace(recipe("post_robustok-smoke", DECODERS).post, precision="fp32")
counts = cache(count_step)  # several tests look at the same step


def real_stage(which):
    """A stage in the small: config to count, its tokenizer, the stage, the batch."""
    images = torch.rand(16, 3, 32, 32) * 2 - 1
    match which:
        case "generator":
            return tiny(), None, GeneratorStage(tiny()), tokens(16)
        case "tokenizer":
            return MAIN, None, TokenizerStage(MAIN), images
    touched = torch.zeros(16, 16, dtype=torch.int64)
    return POST, MAIN.tokenizer, DecoderStage(POST, Tokenizer(MAIN.tokenizer)), (touched, images)


@pytest.mark.parametrize("which", ["generator", "tokenizer", "decoder"])
def test_a_counted_step_is_the_real_one(which):
    """FLOPs equal, and the peak up to what CPU kernels allocate for themselves."""
    config, tokenizer, stage, batch = real_stage(which)
    counted = counts(config, 16, tokenizer).counted
    last = config.loop.steps - 1
    stage.step(batch, last)  # now moments are there
    for weight in stage.update.parameters.values():
        weight.grad = torch.zeros_like(weight)
    with Counting() as real:
        stage.step(batch, last)
    assert counted.flops == real.flops
    assert counted.peak == pytest.approx(real.peak, rel=1e-3)


def test_checkpointing_computes_blocks_twice_and_keeps_less():
    config = tiny("bf16", depth=4)
    plain, again = (count_step(replace(config, speed=Speed(checkpointing=on)), 16) for on in (False, True))
    assert 4 / 3 * 0.9 < again.flops / plain.flops < 4 / 3
    assert again.counted.peak < 0.6 * plain.counted.peak
    assert again.held == plain.held


def test_float32_products_take_tf32_where_they_may():
    assert set(count_step(tiny("fp32"), 4).counted.flops) == {"fp32"}
    fast = replace(tiny("fp32"), speed=Speed(tf32=True))
    assert set(count_step(fast, 4).counted.flops) == {"tf32"}
    assert set(count_step(replace(fast, precision="auto"), 4).counted.flops) == {"bf16"}


def test_what_is_held_is_what_a_trained_stage_holds():
    stage = GeneratorStage(tiny())
    stage.step(tokens(8), 9)

    def size(tensors):
        return sum(t.nbytes for t in tensors if t.ndim)

    weights = size(stage.model.parameters())
    moments = size(t for state in stage.update.optimizer.state.values() for t in state.values())
    held = count_step(tiny(), 4).held
    assert held[:-1] == Held(weights, weights, moments, size(stage.average.module.parameters()), 0, 0)[:-1]
    assert held.frozen < 100  # a scalar or two
    assert moments == 2 * weights


def test_a_sharded_generator_is_counted_as_a_whole_one():
    whole, cut = (count_step(replace(tiny(), shard=shard), 4) for shard in (False, True))
    assert (whole.held, whole.flops) == (cut.held, cut.flops)
    assert whole.largest_unit == sum(p.numel() for p in Block(32, 2, qk_norm=True, modulated=True).parameters())


def test_a_tokenizer_without_a_codebook_is_counted_too():
    config = recipe("continuous_imagenet256-smoke", TOKENIZERS)
    counted = count_step(config, 4)
    assert counted.trained == sum(p.numel() for p in Autoencoder(config.tokenizer).parameters())


def test_a_decoder_is_trained_alone():
    main, post = MAIN.tokenizer, POST
    counted = counts(post, 16, main)
    decoder = Tokenizer(main).decoder
    assert counted.trained == sum(p.numel() for p in decoder.parameters())
    assert counted.held.weights == 4 * counted.trained
    assert counted.held.discriminator > 0
    assert counted.held.frozen > counted.held.weights  # encoder, feature networks, the best decoder so far


def test_the_peak_is_a_straight_line_over_the_batch():
    small, middle, large = (counts(tiny("bf16"), b) for b in (16, 32, 64))
    assert PeakMemory.through(small, large).at(32) == pytest.approx(middle.counted.peak, rel=0.01)
    assert [c.flops / c.batch for c in (small, large)] == [pytest.approx(middle.flops / 32)] * 2


def invented(batch, peak, held=(10.0e9, 10.0e9, 20.0e9, 10.0e9, 0.0, 0.0)):
    counted = Counted(peak=peak)
    counted.flops.update({"bf16": batch * 10**12, "tf32": batch * 10**11})
    held = Held(*map(int, held))
    return CountedStep(batch=batch, trained=held.weights // 4, largest_unit=10**8, held=held, counted=counted)


STEPS = [invented(2, 3 * 10**9), invented(4, 5 * 10**9)]  # 1 GB fixed, 1 GB an image


def test_time_is_products_over_a_share_of_the_peak():
    cluster = Cluster(gpu=H100, gpus=1, share=0.5)
    assert seconds_for(STEPS[0], cluster) == pytest.approx(2 * (1 / (0.5 * 989.4) + 0.1 / (0.5 * 494.7)))
    run = estimate(STEPS, Work(steps=3600, batch_size=8), cluster, batch_per_gpu=4)
    assert (run.batch_per_gpu, run.accumulate, run.traffic) == (4, 2, 0)
    assert run.hours == pytest.approx(4 * seconds_for(STEPS[0], cluster))
    assert run.images_per_second == pytest.approx(8 * 3600 / (3600 * run.hours))


def test_memory_is_cut_over_processes_by_fsdp_alone():
    peak = PeakMemory.through(*STEPS)
    assert (peak.fixed, peak.per_image) == (1e9, 1e9)
    alone, ddp, fsdp = (memory(STEPS[0], peak, 3, gpus, how) for gpus, how in ((1, "ddp"), (8, "ddp"), (8, "fsdp")))
    assert sum(alone.values()) == 50e9 + 4e9
    assert sum(ddp.values()) == 50e9 + 10e9 + 4e9  # gradients a second time, on their way
    assert sum(fsdp.values()) == 50e9 / 8 + 8 * 10**8 + 4e9
    cluster = Cluster(gpu=replace(H100, memory=100), gpus=8)
    assert largest_batch(STEPS[0], peak, cluster, "ddp") == 95 - 60 - 1
    assert largest_batch(STEPS[0], peak, replace(cluster, gpu=replace(H100, memory=60)), "ddp") == 0


def test_a_batch_is_cut_into_as_few_equal_parts_as_fit():
    cluster = Cluster(gpu=replace(H100, memory=80), gpus=8)  # 76 GB: 15 images beside 60 + 1
    run = estimate(STEPS, Work(steps=1, batch_size=8 * 32), cluster)
    assert (run.batch_per_gpu, run.accumulate, run.fits) == (11, 3, True)
    assert not estimate(STEPS, Work(steps=1, batch_size=8 * 32), cluster, batch_per_gpu=16).fits


def test_an_all_reduce_takes_the_time_of_the_closed_form():
    one = Cluster(gpu=H100, gpus=8)
    assert all_reduce_seconds(8e9, one) == pytest.approx(2 * 7e9 / (WIRE * 450e9))
    assert all_reduce_seconds(8e9, replace(one, gpus=1)) == 0
    many = [all_reduce_seconds(8e9, replace(one, gpus=gpus)) for gpus in (8, 16, 64, 512, 4096)]
    assert many == sorted(many)
    inside, across = 2 * 7e9 / (WIRE * 450e9), 2 * 1e9 * (511 / 512) / (WIRE * 50e9)
    assert inside + across < many[-1] < inside + across + 0.2  # the rest: messages up and down a tree of 512


def test_gradients_travel_behind_the_backward_pass():
    cluster = Cluster(gpu=H100, gpus=8)
    seconds, sent = exchanges(STEPS[0], Work(steps=1, batch_size=64), cluster, "ddp", 1)
    assert sent == 2 * 10e9 * 7 / 8
    long, short = (estimate(STEPS, Work(steps=1, batch_size=8 * b), cluster, batch_per_gpu=b) for b in (64, 1))
    assert long.seconds_exposed == 0
    assert short.seconds_exposed == pytest.approx(seconds - 2 / 3 * short.seconds_computing)
    _, gathered = exchanges(STEPS[0], Work(steps=1, batch_size=64), cluster, "fsdp", 2)
    assert gathered == 2 * (2 * 5e9 + 10e9) * 7 / 8  # in each of two parts: bf16 weights twice, gradients once
    _, features = exchanges(STEPS[0], Work(steps=1, batch_size=64, gathered=512), cluster, "ddp", 1)
    assert features - sent == 64 * 512 * 7 / 8


@pytest.mark.parametrize("name", ["h100", "H100", "a100-40"])
def test_a_gpu_is_found_in_whatever_case(name):
    assert accelerator(name).bf16 in (989.4, 312)


def test_an_unknown_gpu_is_refused_with_the_list():
    with pytest.raises(ValueError, match="no data of a GPU 'H1000'; choose from H100, H100-PCIe, .*RTX-3090, or desc"):
        accelerator("H1000")


def test_every_gpu_says_where_its_numbers_are_from():
    for name, gpu in ACCELERATORS.items():
        assert gpu.source.startswith("https://"), name
        assert gpu.bf16 == pytest.approx(2 * gpu.tf32, rel=0.03), name  # TF32 runs at half the rate
    with pytest.raises(ValueError, match="memory of a GPU is 0; it must be more than 0"):
        Accelerator(bf16=1, tf32=1, fp32=1, memory=0, bandwidth=1, link=1)


def test_a_cluster_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="0 GPUs; a run needs at least 1"):
        Cluster(gpu=H100, gpus=0)
    with pytest.raises(ValueError, match="share of the peak is 1.5; it is above 0 and at most 1"):
        Cluster(gpu=H100, gpus=1, share=1.5)
    with pytest.raises(ValueError, match="network moves 0 GB/s; it must be more than 0"):
        Cluster(gpu=H100, gpus=1, network=0)
    with pytest.raises(ValueError, match="512 GPUs cannot share a batch of 256 images; take 256 at most, or set a lar"):
        estimate(STEPS, Work(steps=1, batch_size=256), Cluster(gpu=H100, gpus=512))


def test_a_step_without_a_model_is_refused():
    with pytest.raises(
        ValueError, match="the step of a PostTraining cannot be counted as it is: give .* the config of"
    ):
        count_step(recipe("post_robustok-smoke", DECODERS).post, 4)


def test_an_estimate_is_json():
    run = estimate(STEPS, Work(steps=10, batch_size=64), Cluster(gpu=H100, gpus=8))
    plain = json.loads(json.dumps(run.plain()))
    assert plain["gpu_hours"] == pytest.approx(8 * plain["hours"])
    assert math.isfinite(sum(plain["memory"].values()))
