"""What a velocity depends on, every option, patches, the loss and its draws, files, and that it learns."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from tests.unchecked import check
from torch import Generator, Tensor

from robustok.generators.diffusion_transformer import (
    DiffusionTransformer,
    DiffusionTransformerModel,
    _from_patches,
    time_features,
)
from robustok.generators.flow import FlowSampling, sample_latents
from robustok.generators.flow_matching import TrainingTimes
from robustok.tokenizer.encoder import patchify, to_sequence

LIGHTNING = DiffusionTransformer(tokens=16, channels=3, classes=2, width=16, depth=2, heads=2)
SIT = replace(LIGHTNING, patch=2, mlp="gelu", norm="layer", rotary=False, qk_norm=False, variance=True)
ONE_D = replace(LIGHTNING, tokens=5, layout="sequence", shifts=False)
ALL = pytest.mark.parametrize("config", [LIGHTNING, SIT, ONE_D], ids=["lightning", "sit", "sequence"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


def build(config: DiffusionTransformer) -> DiffusionTransformerModel:
    """With weights of no special kind: a new model's adaLN and head are zero and would hide mistakes."""
    model = DiffusionTransformerModel(config)
    for i, parameter in enumerate(model.parameters()):
        parameter.data = 0.3 * random(*parameter.shape, seed=i)
    return model.eval()


@ALL
def test_a_velocity_depends_on_all_latents_the_noise_level_and_the_label(config):
    model, labels, t = build(config), torch.tensor([0, 2]), torch.tensor([0.3, 0.8])
    latents = random(2, *model.latent_shape)
    velocity = model.velocity(latents, t, labels)
    assert velocity.shape == latents.shape
    assert (model.velocity(latents, t + 0.1, labels) - velocity).abs().amax(dim=(1, 2)).min() > 1e-4
    assert (model.velocity(latents, t, 1 - labels.clamp(max=1)) - velocity).abs().amax(dim=(1, 2)).min() > 1e-4
    changed = latents.clone()
    changed[:, 3] += 1
    assert ((model.velocity(changed, t, labels) - velocity).abs().amax(dim=2) > 1e-6).all()
    torch.testing.assert_close(model.velocity(latents[:1], t[:1], labels[:1]), velocity[:1])


@ALL
def test_a_new_model_says_zero_and_loses_what_there_is(config):
    model, latents = DiffusionTransformerModel(config), 3 * torch.ones(400, config.tokens, config.channels)
    labels = torch.zeros(400).long()
    assert not model(latents, torch.full((400,), 0.5), labels).any()
    loss = model.loss(latents, labels, model.draw(len(labels), generator=Generator().manual_seed(0)))
    assert loss.item() == pytest.approx(1 + 9, abs=4 * math.sqrt((2 + 4 * 9) / latents.numel()))  # E (e - 3)^2


def test_patches_are_as_the_tokenizer_cuts_them():
    images = random(2, 3, 6, 6)
    assert torch.equal(_from_patches(patchify(images, 2), 6, 2, 3), to_sequence(images))
    twice = torch.cat([images, random(2, 3, 6, 6, seed=1)], dim=1)
    cut = twice.view(2, 6, 3, 2, 3, 2).permute(0, 2, 4, 3, 5, 1).reshape(2, 9, -1)
    assert torch.equal(_from_patches(cut, 6, 2, 3), to_sequence(images))  # what is beyond the channels goes


def test_positions_tell_places_apart():
    for config in (LIGHTNING, ONE_D):
        model, same = build(config), torch.ones(1, config.tokens, config.channels)
        velocity = model(same, torch.tensor([0.5]), torch.tensor([0]))[0]
        assert torch.cdist(velocity, velocity).fill_diagonal_(1).min() > 1e-4


def test_time_features_are_cosines_then_sines():
    features = time_features(torch.tensor([0.0, 0.7]))
    assert torch.equal(features[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    assert features[1, [0, 64, 128]].tolist() == pytest.approx([math.cos(0.7), math.cos(0.007), math.sin(0.7)])


def test_a_model_of_the_cosine_path_is_asked_as_any_other():
    """A single point as the data: on the linear path its velocity at x_t is (x_t - point) / t."""
    model = DiffusionTransformerModel(replace(LIGHTNING, interpolant="cosine"))
    point = random(1, 16, 3)

    def v_prediction(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        angle = math.pi / 2 * t[:, None, None]
        noise = (x - angle.cos() * point) / angle.sin()
        return math.pi / 2 * (angle.cos() * noise - angle.sin() * point)

    model.forward = v_prediction
    x, t = random(3, 16, 3, seed=1), torch.tensor([0.2, 0.5, 1.0])
    velocity = model.velocity(x, t, torch.zeros(3).long())
    torch.testing.assert_close(velocity, (x - point) / t[:, None, None], atol=1e-5, rtol=1e-5)


def test_the_loss_of_the_cosine_path_is_that_of_v_prediction():
    """Salimans & Ho 2022: v = cos e - sin x at the angle of x_t = cos x + sin e; ours is pi / 2 times as fast."""
    model, labels = build(replace(LIGHTNING, interpolant="cosine", label_dropout=0.0)), torch.arange(8) % 2
    latents = random(8, 16, 3)
    for times in (TrainingTimes(), TrainingTimes(weighting="min-snr", gamma=2.0)):
        loss = model.loss(latents, labels, model.draw(len(labels), times=times, generator=Generator().manual_seed(4)))
        draws = Generator().manual_seed(4)
        t, noise = torch.rand(8, generator=draws), torch.randn(8, 16, 3, generator=draws)
        cos, sin = ((math.pi / 2 * t)[:, None, None].cos(), (math.pi / 2 * t)[:, None, None].sin())
        v = 2 / math.pi * model(cos * latents + sin * noise, t, labels)
        errors = (v - (cos * noise - sin * latents)).square().mean(dim=(1, 2))
        if times.weighting == "min-snr":
            snr = (cos / sin).flatten().square()
            expected = (snr.clamp(max=2) / (snr + 1) * errors).mean()
        else:
            expected = (math.pi / 2) ** 2 * errors.mean()
        torch.testing.assert_close(loss, expected)


def test_normalised_queries_do_not_feel_their_size():
    latents, t, labels = random(2, 16, 3), torch.tensor([0.3, 0.8]), torch.tensor([0, 1])
    for qk_norm in (True, False):
        model = build(replace(LIGHTNING, qk_norm=qk_norm))
        before = model(latents, t, labels)
        for block in model.blocks:
            block.attention.qkv.weight.data[: 2 * 16] *= 10  # queries and keys
            block.attention.qkv.bias.data[: 2 * 16] *= 10
        assert torch.allclose(model(latents, t, labels), before, atol=1e-3) == qk_norm


def test_rotary_positions_tell_the_order_of_the_others():
    """Without the embedded positions, to attention that is not rotary the others are a set."""
    for rotary in (True, False):
        model = build(replace(ONE_D, rotary=rotary, depth=1))
        model.positions.zero_()
        latents, t, labels = random(1, 5, 3), torch.tensor([0.4]), torch.tensor([0])
        swapped = latents[:, [0, 2, 1, 3, 4]]
        same = torch.allclose(model(swapped, t, labels)[:, 0], model(latents, t, labels)[:, 0], atol=1e-6)
        assert same != rotary


def test_a_gated_mlp_has_as_many_weights_as_a_plain_one():
    counts = [
        sum(p.numel() for p in DiffusionTransformerModel(replace(LIGHTNING, width=96, mlp=mlp)).blocks.parameters())
        for mlp in ("swiglu", "gelu")
    ]
    assert counts[0] == pytest.approx(counts[1], rel=0.01)


class Witness(DiffusionTransformerModel):
    """Remembers what it was asked."""

    def forward(self, latents, t, labels):
        self.t, self.labels = t, labels
        return super().forward(latents, t, labels)


def test_the_loss_draws_noise_levels_and_withholds_labels():
    model, b = Witness(replace(ONE_D, label_dropout=0.2)), 1000
    latents, labels = random(b, 5, 3), torch.arange(b) % 2
    times = TrainingTimes(distribution="logit-normal", mean=1.0)
    losses = [
        model.loss(latents, labels, model.draw(len(labels), times=times, generator=Generator().manual_seed(5)))
        for _ in range(2)
    ]
    assert torch.equal(*losses)  # nothing but the generator decides
    withheld = model.labels == model.null_class
    assert torch.equal(model.labels[~withheld], labels[~withheld])
    assert abs(withheld.float().mean() - 0.2) < 4 * math.sqrt(0.2 * 0.8 / b)
    assert abs(model.t.logit().mean() - 1) < 4 / math.sqrt(b)


@ALL
def test_it_comes_back_from_its_folder(config, tmp_path):
    model = build(config)
    model.save_pretrained(tmp_path, trained="not at all")
    loaded = DiffusionTransformerModel.from_pretrained(tmp_path)
    assert loaded.config == config
    assert not loaded.training
    assert loaded.fingerprint() == model.fingerprint()
    assert loaded.trained_on is None
    loaded.trained_on = "a tokenizer"
    loaded.save_pretrained(tmp_path / "again")
    assert DiffusionTransformerModel.from_pretrained(tmp_path / "again").trained_on == "a tokenizer"
    loaded.head.bias.data[0] += 1e-3
    assert loaded.fingerprint() != model.fingerprint()


def test_in_bfloat16_it_is_not_sampled():
    """All is computed in float32, or under autocast; `robustok.sample` makes a copy in float32."""
    with pytest.raises(ValueError, match=r"a DiffusionTransformerModel in torch.bfloat16 .* model.to\(torch.float32\)"):
        sample_latents(build(LIGHTNING).bfloat16(), torch.tensor([0, 1]), FlowSampling(steps=2), seed=0)


def test_latents_of_another_tokenizer_are_refused():
    with pytest.raises(ValueError, match="takes latents of 16 tokens and 3 channels, not 4 and 5; use those of the"):
        build(LIGHTNING).velocity(random(1, 4, 5), torch.tensor([0.5]), torch.tensor([0]))


@pytest.mark.parametrize("t", [-0.01, 1.5, math.nan])
def test_a_velocity_is_asked_for_at_noise_levels_only(t):
    model = build(LIGHTNING)
    with pytest.raises(ValueError, match="t goes from .*; noise levels are between 0, the data, and 1, pure noise"):
        model.velocity(random(1, *model.latent_shape), torch.tensor([t]), torch.tensor([0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth is 0; it must be at least 1"),
        ({"mlp": "relu"}, "mlp is 'relu'; choose from 'gelu', 'swiglu'"),
        ({"layout": "sequence", "patch": 2}, "patch is 2, but a sequence has no squares; set it to 1 or layout to"),
        ({"tokens": 12}, "12 tokens are no square grid of patches of side 1; set layout to 'sequence'"),
        ({"patch": 3}, "16 tokens are no square grid of patches of side 3"),
        ({"label_dropout": 2.0}, "label_dropout is 2.0; it is a share, choose one between 0 and 1"),
    ],
)
def test_a_wrong_config_says_so(change, message):
    fields = {**asdict(LIGHTNING), **change}
    with pytest.raises(ValueError, match=message):
        check(DiffusionTransformer, fields)


@pytest.mark.parametrize(("interpolant", "weighting"), [("linear", "none"), ("cosine", "min-snr")])
def test_it_learns_where_the_latents_of_each_class_are(interpolant, weighting):
    torch.manual_seed(0)
    config = DiffusionTransformer(tokens=4, channels=2, classes=2, width=32, depth=1, heads=2, interpolant=interpolant)
    times = TrainingTimes(weighting=weighting)
    model = DiffusionTransformerModel(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    looks, labels = random(2, 4, 2), torch.arange(64) % 2
    for step in range(100):
        loss = model.loss(
            looks[labels], labels, model.draw(len(labels), times=times, generator=Generator().manual_seed(step))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    samples = sample_latents(model.eval(), torch.arange(8) % 2, FlowSampling(steps=10), seed=0)
    assert (samples - looks.repeat(4, 1, 1)).square().mean() < 0.1 * (looks[0] - looks[1]).square().mean()
