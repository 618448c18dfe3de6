"""The image terms: gradients as if computed in one piece, and a discriminator that learns before it charges."""

from dataclasses import replace

import pytest
import torch
from tests.training.tiny import MAIN
from torch import nn

from robustok.backbones.lite import Lite
from robustok.backbones.vgg import VGGHED
from robustok.data.images import FashionMNIST
from robustok.losses.adversarial import adaptive_weight, generator_loss
from robustok.losses.augmentation import Augmentation
from robustok.losses.discriminator import FeatureDiscriminator, PatchGAN
from robustok.losses.perceptual import Perceptual, gram_distance
from robustok.training import objective
from robustok.training.discriminator_training import Adversarial, DiscriminatorTrainer
from robustok.training.objective import ImageLoss, Objective
from robustok.training.optim import Optim
from robustok.training.tokenizer_training import TokenizerStage

ADVERSARIAL = Adversarial(
    discriminator=PatchGAN(width=16, halvings=2),
    optim=Optim(lr=1e-3),
    disc_start=0.2,
    gan_start=0.5,
    augmentation=Augmentation(probability=0.0),
)
OBJECTIVE = Objective(l1=0.3, l2=1.0, perceptual=0.7, perceptual_stages=2, adversarial=0.5, adversary=ADVERSARIAL)
CPU = torch.device("cpu")


def setting() -> tuple[nn.Conv2d, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    decoder = nn.Conv2d(4, 3, 3, padding=1)
    return decoder, torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 4, 32, 32)


def image_loss(objective: Objective = OBJECTIVE, steps: int = 10) -> ImageLoss:
    return ImageLoss(objective, steps, seed=0, device=CPU, precision="fp32")


def activations(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """What each layer of a PatchGAN puts out, up to the one that makes the logits."""
    found = [images]
    for layer in model.layers[:-1]:
        found.append(layer(found[-1]))
    return [output for layer, output in zip(model.layers, found[1:], strict=False) if isinstance(layer, nn.LeakyReLU)]


@pytest.mark.parametrize(
    ("adaptive", "gram", "consistency"), [(True, 0.0, 0.0), (False, 0.0, 0.0), (True, 3.0, 0.0), (True, 3.0, 2.0)]
)
def test_gradient_is_that_of_the_weighted_sum(adaptive: bool, gram: float, consistency: float):
    objective = replace(
        OBJECTIVE, gram=gram, consistency=consistency, adversary=replace(ADVERSARIAL, adaptive=adaptive)
    )
    decoder, target, codes = setting()
    ours = image_loss(objective)
    loss, terms = ours.loss(target, decoder(codes), decoder.weight, step=9)
    loss.backward()
    got = decoder.weight.grad.clone()
    decoder.zero_grad()

    output = decoder(codes)
    near = 0.3 * (output - target).abs().mean() + (output - target).square().mean()
    near = near + 0.7 * Perceptual(Lite(), 2)(target, output)
    network = ours.discriminator.model
    if gram:
        near = near + gram * gram_distance(Lite()(target, 2).stages, Lite()(output, 2).stages)
    if consistency:
        pairs = list(zip(activations(network, target), activations(network, output), strict=True))
        assert len(pairs) == 3
        near = near + consistency * sum((real - fake).abs().mean() for real, fake in pairs) / len(pairs)
    fooled = generator_loss(network(output))
    pulls = [torch.autograd.grad(term, decoder.weight, retain_graph=True)[0] for term in (near, fooled)]
    weight = 0.5 * (adaptive_weight(*pulls) if adaptive else 1.0)
    whole = near + weight * fooled
    whole.backward()
    torch.testing.assert_close(loss, whole.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms["adversarial_weight"], torch.as_tensor(weight), rtol=1e-4, atol=0)
    torch.testing.assert_close(got, decoder.weight.grad, rtol=1e-4, atol=1e-6)
    assert terms.keys() >= {name for name in ("gram", "consistency") if getattr(objective, name)}


def test_the_balance_of_the_adversarial_term_has_a_limit():
    """A discriminator whose gradient is small would otherwise be followed many times as far as its weight says."""
    decoder, target, codes = setting()

    def weight(**limit):
        objective = replace(OBJECTIVE, adversary=replace(ADVERSARIAL, **limit))
        return image_loss(objective).loss(target, decoder(codes), decoder.weight, step=9)[1]["adversarial_weight"]

    free = weight().item()
    assert weight(adaptive_max=free).item() == pytest.approx(0.5 * free)  # 0.5 is the objective's own weight
    assert weight(adaptive_max=3 * free).item() == pytest.approx(free)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="adaptive_max is .* give 1 where"):
            replace(ADVERSARIAL, adaptive_max=wrong)


FEATURES = replace(ADVERSARIAL, discriminator=FeatureDiscriminator(stages=(1, 2), width=16))


@pytest.mark.parametrize(("perceptual", "more"), [(0.7, {}), (0.0, {}), (0.7, {"gram": 1.0, "consistency": 1.0})])
def test_terms_that_look_at_the_same_maps_share_them_and_change_nothing(perceptual, more, monkeypatch):
    objective = replace(OBJECTIVE, perceptual=perceptual, frechet=0.1, adversary=FEATURES, **more)
    decoder, target, codes = setting()
    looked, forward = [], Lite.forward
    monkeypatch.setattr(Lite, "forward", lambda *a: looked.append(1) or forward(*a))

    def steps(shared: bool) -> tuple[list[torch.Tensor], int]:
        ours = image_loss(objective)
        assert ours.one_look
        ours.set_reference(FashionMNIST("validation").subset(torch.arange(20)))
        ours.one_look = shared
        looked.clear()
        found = []
        for step in (6, 7, 8):
            output = decoder(codes)
            loss, terms = ours.loss(target, output, decoder.weight, step)
            found += [loss.detach(), *terms.values(), torch.autograd.grad(loss, decoder.weight)[0]]
            found += ours.discriminator_backward(target, output, step).values()
            ours.discriminator_step(step)
        return [*found, *ours.discriminator.model.state_dict().values()], len(looked)

    (once, few), (apart, many) = steps(True), steps(False)
    assert (few, many) == (3 * 2, 3 * (4 + bool(perceptual) + bool(more)))
    torch.testing.assert_close(once, apart, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"network": VGGHED()},
        {"perceptual_stages": 1},
        {"perceptual_size": 48},
        {"adversary": replace(FEATURES, augmentation=Augmentation())},
        {"adversary": ADVERSARIAL},
        {"adversarial": 0.0},
        {"perceptual": 0.0},
    ],
)
def test_maps_are_shared_only_where_they_are_the_same(change):
    objective = replace(OBJECTIVE, **{"adversary": FEATURES, **change})
    assert not image_loss(objective).one_look


def test_networks_see_target_and_output_moved_alike():
    decoder, target, codes = setting()
    apart, seen = replace(OBJECTIVE, l1=0.0, l2=0.0, adversarial=0.0, shift=3), Perceptual(Lite(), 2)
    ours, output = image_loss(apart), decoder(codes)
    drawn = {ours._shift(step) for step in range(200)}
    assert drawn == {(right, down) for right in range(4) for down in range(4)}
    assert image_loss()._shift(0) == (0, 0)
    for step in range(3):
        right, down = ours._shift(step)

        def by_hand(x: torch.Tensor, right: int = right, down: int = down) -> torch.Tensor:
            rows, columns = ((torch.arange(32) - by).abs() for by in (down, right))
            return x[:, :, rows][..., columns]

        loss, _ = ours.loss(target, output, decoder.weight, step)
        expected = 0.7 * seen(by_hand(target), by_hand(output))
        torch.testing.assert_close(loss.detach(), expected.detach(), rtol=1e-5, atol=1e-6)
        of_loss, of_expected = (torch.autograd.grad(x, decoder.weight, retain_graph=True)[0] for x in (loss, expected))
        torch.testing.assert_close(of_loss, of_expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="perceptual_size is 0; it must be at least 1"):
        Objective(perceptual_size=0)
    with pytest.raises(ValueError, match="shift is -1; give a number of pixels"):
        replace(OBJECTIVE, shift=-1)


def test_discriminator_trains_before_the_decoder_meets_it():
    decoder, target, codes = setting()
    ours = image_loss()
    learnt, charged = [], []
    for step in range(10):
        output = decoder(codes)
        charged.append("adversarial" in ours.loss(target, output, decoder.weight, step)[1])
        learnt.append("discriminator" in ours.discriminator_backward(target, output, step))
        ours.discriminator_step(step)
    assert learnt == [False] * 2 + [True] * 8
    assert charged == [False] * 5 + [True] * 5


def test_the_decoder_never_meets_a_discriminator_that_took_no_step():
    trainer = DiscriminatorTrainer(replace(ADVERSARIAL, disc_start=0.0, gan_start=0.0), 10, 0, CPU)
    assert [trainer.gan_started(step) for step in (0, 1)] == [False, True]


def test_discriminator_learns_to_tell_real_from_decoded():
    _, target, _ = setting()
    ours = image_loss(steps=60)
    output = 0.2 * target
    for step in range(12, 60):
        terms = ours.discriminator_backward(target, output, step)
        ours.discriminator_step(step)
    assert terms["logits_real"] > terms["logits_fake"] + 0.5


def test_a_weight_of_zero_leaves_the_term_out():
    decoder, target, codes = setting()
    ours = image_loss(Objective(l1=1.0, l2=0.0, perceptual=0.0, adversarial=0.0))
    loss, terms = ours.loss(target, decoder(codes), decoder.weight, step=9)
    assert terms.keys() == {"l1"}
    torch.testing.assert_close(loss.detach(), terms["l1"])
    assert ours.discriminator_backward(target, target, 9) == ours.discriminator_step(9) == {}


def test_a_term_of_weight_zero_is_not_computed(monkeypatch: pytest.MonkeyPatch):
    decoder, target, codes = setting()
    for name in ("gram_distance", "feature_matching"):
        monkeypatch.setattr(objective, name, lambda *_, name=name: pytest.fail(f"{name} has no weight"))
    ours, looked = image_loss(), []
    ours.discriminator.model.register_forward_hook(lambda *_: looked.append(1))
    ours.loss(target, decoder(codes), decoder.weight, step=9)
    assert len(looked) == 1


def test_the_gram_term_alone_has_the_network_it_needs():
    decoder, target, codes = setting()
    ours = image_loss(Objective(l2=0.0, perceptual=0.0, gram=3.0, adversarial=0.0))
    loss, terms = ours.loss(target, decoder(codes), decoder.weight, step=0)
    assert terms.keys() == {"gram"}
    torch.testing.assert_close(loss.detach(), 3 * terms["gram"])
    assert ours.loss(target, target, decoder.weight, step=0)[0] == 0


def test_another_kind_of_discriminator_is_refused(tmp_path):
    DiscriminatorTrainer(ADVERSARIAL, 10, 0, CPU).save(tmp_path)
    same = DiscriminatorTrainer(ADVERSARIAL, 10, seed=1, device=CPU)
    same.begin_with(tmp_path)
    other = DiscriminatorTrainer(replace(ADVERSARIAL, discriminator=PatchGAN(width=32)), 10, 0, CPU)
    with pytest.raises(ValueError, match=r"configure the same one, or begin with a fresh one"):
        other.begin_with(tmp_path)


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="disc_start and gan_start"):
        Adversarial(disc_start=0.5, gan_start=0.2)
    with pytest.raises(ValueError, match="one of them is more"):
        Objective(l1=0.0, l2=0.0, perceptual=0.0, adversarial=0.0)
    with pytest.raises(ValueError, match=r"the adversarial term is alone, .* set adversary.adaptive to False"):
        Objective(l1=0.0, l2=0.0, perceptual=0.0)
    for name in ("gram", "consistency", "frechet"):
        with pytest.raises(ValueError, match=rf"weights of the image terms are 0 or more, .*'{name}': -1"):
            Objective(**{name: -1.0})
    with pytest.raises(ValueError, match="0 or more"):
        Objective(gram=float("nan"))
    with pytest.raises(ValueError, match=r"consistency is 4.0, .* give adversarial a weight, and l1, l2, perceptual"):
        Objective(adversarial=0.0, consistency=4.0)
    with pytest.raises(ValueError, match=r"l1, l2, perceptual or gram one for the time before"):
        Objective(l2=0.0, perceptual=0.0, frechet=1.0, consistency=4.0)
    with pytest.raises(ValueError, match="shift is 32, and images of 32 pixels can be moved by 31 at most; give less"):
        TokenizerStage(replace(MAIN, objective=replace(MAIN.objective, shift=32)))
    with pytest.raises(
        ValueError, match=r"no term between an image and its reconstruction; give l1, l2, perceptual or gram"
    ):
        replace(MAIN, objective=replace(MAIN.objective, l1=0.0, l2=0.0, perceptual=0.0, frechet=1.0))


def test_free_rows_are_judged_as_a_distribution_and_the_others_by_their_targets():
    """In one pass the gradient is the sum of two: pairs without the terms of distributions, free rows with them alone.

    The adaptive weight is off, for it balances all terms.
    """
    adversary = replace(ADVERSARIAL, adaptive=False)
    whole = replace(OBJECTIVE, l1=0.0, frechet=0.5, adversary=adversary)
    images = FashionMNIST("train").subset(torch.arange(16))
    target, decoder = images.images(torch.arange(16)), nn.Conv2d(3, 3, 1)
    near, free = target * 0.9, target.flip(0) * 0.5

    def gradient(objective: Objective, output: torch.Tensor, free: bool) -> tuple[torch.Tensor, dict]:
        ours = image_loss(objective)
        ours.set_reference(images)
        decoder.zero_grad()
        loss, terms = ours.loss(target, decoder(output), decoder.weight, step=9, free=free)
        loss.backward()
        return decoder.weight.grad.clone(), terms

    both, terms = gradient(whole, torch.cat([near, free]), free=True)
    pairs, of_pairs = gradient(replace(whole, adversarial=0.0, frechet=0.0), near, free=False)
    judged, of_free = gradient(replace(whole, l2=0.0, perceptual=0.0), free, free=True)
    torch.testing.assert_close(both, pairs + judged, rtol=1e-4, atol=1e-5)
    for name, term in (of_pairs | of_free).items():
        torch.testing.assert_close(terms[name], term, rtol=1e-4, atol=1e-6)
    assert of_pairs.keys() == {"l2", "perceptual"}


def test_consistency_and_gram_ask_nothing_of_free_rows():
    adversary = replace(ADVERSARIAL, adaptive=False)
    asked = replace(OBJECTIVE, gram=1.0, consistency=1.0, adversary=adversary)
    decoder, target, codes = setting()
    with_free = image_loss(asked).loss(
        target, decoder(torch.cat([codes, codes.flip(0) * 2])), decoder.weight, step=9, free=True
    )[1]
    alone = image_loss(asked).loss(target, decoder(codes), decoder.weight, step=9)[1]
    for name in ("gram", "consistency", "perceptual"):
        torch.testing.assert_close(with_free[name], alone[name], rtol=1e-4, atol=1e-6)
    assert with_free["adversarial"] != alone["adversarial"]


def test_the_discriminator_tells_free_rows_from_real_images():
    ours, seen = image_loss(), []
    ours.discriminator.backward = lambda target, output, *_: seen.append((target, output)) or {}
    target, free = torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 32)
    ours.discriminator_backward(target, torch.cat([target, free]), 9, free=True)
    assert torch.equal(seen[0][0], target)
    assert torch.equal(seen[0][1], free)
