"""Models of other people's that were left in training mode: what is made of them to train on is as they are used."""

import torch
from tests.training.continuous import Patches
from tests.training.tiny import extract, generator, images
from torch import nn

from robustok.data.latent_cache import encode_images
from robustok.evaluation.scores.reference import Reference
from robustok.generators.generate import sample
from robustok.generators.sampling import Sampling
from robustok.shapes import Images, Latents
from robustok.training.held_out import HeldOut


class Forgetful(Patches):
    """A tokenizer that drops half of everything in training mode, in its decoder and before it."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.decoder = nn.Sequential(self.decoder, nn.Dropout(0.5))

    def encode(self, images: Images) -> Latents:
        return self.drop(super().encode(images))

    def decode(self, codes: Latents) -> Images:
        return super().decode(self.drop(codes))


def test_latents_are_those_of_evaluation(tmp_path):
    plain = encode_images(Forgetful().eval(), images(), tmp_path / "plain")
    source = Forgetful().train()
    trained = encode_images(source, images(), tmp_path / "trained")
    rows = torch.arange(len(images()))
    assert torch.equal(plain.plain(rows), trained.plain(rows))
    assert source.training
    assert source.drop.training


def test_decoders_are_compared_as_they_are_used():
    latents = torch.randn(40, 16, 12, generator=torch.Generator().manual_seed(0))
    real = Reference.of(images(), extract())
    distances = [
        HeldOut(model, latents, real, extract())(model.decoder) for model in (Forgetful().eval(), Forgetful().train())
    ]
    assert distances[0] == distances[1]
    check = HeldOut(Forgetful().train(), latents, real, extract())
    picture = check.picture(check.tokenizer.decoder)
    assert torch.equal(*picture.chunk(2))


def test_generators_are_sampled_as_they_are_used():
    maker, labels = generator(), torch.arange(4)
    plain = sample(maker, labels, Sampling(), seed=3)
    modes = []
    for module in maker.modules():
        module.register_forward_pre_hook(lambda module, given: modes.append(module.training))
    assert torch.equal(sample(maker.train(), labels, Sampling(), seed=3), plain)
    assert modes
    assert not any(modes)
    assert maker.training
