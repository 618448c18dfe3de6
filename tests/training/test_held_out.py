"""Other spaces bear witness: a decoder that is worse in one of them, beyond the noise, is not kept, and it is told."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from tests.training.tiny import POST, coarse, generator, held_out, images, pairs, tokenizer
from torch import nn

from robustok.evaluation.features.extractor import CustomExtractor
from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance
from robustok.evaluation.scores.reference import Reference
from robustok.shapes import Features, Pixels, to_pixels
from robustok.tokenizer.protocol import codes_of
from robustok.training import post_training
from robustok.training.decoder_stage import train_decoder, weights_between
from robustok.training.held_out import HeldOut, Witness
from robustok.training.post_training import post_train


def negative(pixels: torch.Tensor) -> torch.Tensor:
    return 255 - coarse(pixels)


def brighter(decoder: nn.Module, by: float) -> nn.Module:
    """One whose images are the decoder's and something on top."""
    other = copy.deepcopy(decoder)
    with torch.no_grad():
        [bias for bias in other.parameters() if bias.shape == (3,)][-1].add_(by)
    return other


def flat(decoder: nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in decoder.parameters()])


def judged_by(images_of_witness: torch.Tensor) -> HeldOut:
    """Held-out images as everywhere, and a witness whose real images are others."""
    check, space = held_out(), CustomExtractor(coarse, "witness")
    features = space(images_of_witness)
    real = Reference(stats=FeatureStats.of(features), sample=features, images={}, space=space.describe())
    check.witnesses = [Witness(space, real)]
    return check


def decoded(check: HeldOut, by: float) -> torch.Tensor:
    source = tokenizer()
    with torch.no_grad():
        return to_pixels(source.decode(codes_of(source, check.generated)) + by)


def test_a_decoder_is_worse_where_its_images_are_farther_off_beyond_the_noise():
    check = judged_by(decoded(held_out(), 0.2))
    original = check.tokenizer.decoder
    assert check.worse_in(brighter(original, 0.1)) == {}
    assert check.worse_in(original) == {}
    worse = check.worse_in(brighter(original, -0.3))
    assert worse.keys() == {"witness"}
    space, real = check.witnesses[0]
    before, after = (frechet_distance(FeatureStats.of(space(decoded(check, by))), real.stats) for by in (0.0, -0.3))
    assert worse["witness"].startswith(f"{before:.4g} to {after:.4g} ")
    assert "beyond the noise" in worse["witness"]
    assert check.tokenizer.decoder is original


def test_a_distance_that_is_known_is_not_measured_anew():
    """Tries, run and control each begin with what the original is worth; another decoder is looked at."""
    check, looks = held_out(), []

    def measured(pixels: Pixels) -> Features:
        looks.append(len(pixels))
        return coarse(pixels)

    check.extract = CustomExtractor(measured, check.extract.name)
    original = check.tokenizer.decoder
    before = check(original)
    assert sum(looks) == len(check.generated)
    assert check(copy.deepcopy(original)) == before
    assert sum(looks) == len(check.generated)
    assert check(brighter(original, 0.1)) != before
    assert sum(looks) == 2 * len(check.generated)


def test_some_samples_are_of_all_classes_though_these_come_one_after_another():
    """As the images of a folder do: the first 100 of 400 would be of one class out of four."""
    check = held_out()
    check.generated = torch.arange(4).repeat_interleave(100)[:, None].expand(-1, 16)
    few = check.of_some(100)
    assert few.generated[:, 0].bincount().tolist() == pytest.approx([25] * 4, abs=12)
    assert torch.equal(check.of_some(1_000).generated, check.generated)
    rows = check.picture(check.tokenizer.decoder, 8)
    assert len(rows) == 16
    assert len(rows[:8].flatten(1).unique(dim=0)) > 1


def test_the_original_is_kept_where_the_spaces_disagree(tmp_path):
    """The witness' real images are what the original makes, so that every other decoder is worse."""
    check = judged_by(decoded(held_out(), 0.0))
    result = train_decoder(POST, tokenizer(), pairs(tmp_path), images(), tmp_path / "run", held_out=check, quiet=True)
    assert result.step == 0
    assert result.after == result.before > result.last
    assert "worse, beyond the noise" in result.worse_in["witness"]
    source = tokenizer()
    assert all(torch.equal(source.state_dict()[name], own) for name, own in result.tokenizer.state_dict().items())
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["post_training"]
    assert (saved["step"], saved["worse_in"]) == (0, result.worse_in)
    assert saved["refused_step"] > 0


@pytest.mark.parametrize(("tolerated", "share"), [(0.9, 0.75), (0.6, 0.5), (0.3, 0.25), (0.1, 0.0)])
def test_where_the_best_is_worse_in_another_space_the_farthest_that_is_not_is_kept(tmp_path, tolerated, share):
    """A witness that bears no decoder which is farther off the original than a share of the way to the best."""
    source, check = tokenizer(), held_out()
    original, asked = flat(source.decoder), list[torch.Tensor]()

    def worse_in(decoder: nn.Module) -> dict[str, str]:
        asked.append(flat(decoder) - original)
        return {"witness": "worse"} if asked[-1].norm() > tolerated * asked[0].norm() else {}

    check.worse_in = worse_in
    folder = tmp_path / "run"
    result = train_decoder(POST, source, pairs(tmp_path), images(), folder, held_out=check, quiet=True)
    saved = json.loads((folder / "config.json").read_text())["post_training"]
    assert result.worse_in == saved["worse_in"] == {"witness": "worse"}
    assert saved["refused_step"] > 0
    torch.testing.assert_close(flat(result.tokenizer.decoder) - original, share * asked[0])
    assert result.after == saved["after"] == pytest.approx(check(result.tokenizer.decoder))
    if share:
        assert (result.share, saved["share"], result.step) == (share, share, saved["refused_step"])
        assert result.after < result.before
        told = f"the decoder {share:.0%} of the way from the original to that of step {result.step} kept"
    else:
        assert (result.share, result.step, "share" in saved) == (1.0, 0, False)
        told = "so the original is kept (witness: worse)"
    assert told in result.in_words()


def test_what_lies_between_is_not_kept_where_it_is_farther_off_than_the_original(tmp_path):
    check = held_out()
    asked, measured = list[nn.Module](), list[float]()

    class Farther(HeldOut):
        def __call__(self, decoder: nn.Module) -> float:
            measured.append(super().__call__(decoder))
            return 2 * measured[0] if asked else measured[-1]  # of what lies between

        def worse_in(self, decoder: nn.Module) -> dict[str, str]:
            asked.append(decoder)
            return {"witness": "worse"} if len(asked) == 1 else {}

    check = Farther(check.tokenizer, check.generated, check.reference, check.extract)
    result = train_decoder(POST, tokenizer(), pairs(tmp_path), images(), tmp_path / "run", held_out=check, quiet=True)
    assert (len(asked), result.step, result.after) == (1, 0, result.before)


def test_whole_numbers_among_weights_are_the_bests():
    original, best = {"w": torch.zeros(2), "seen": torch.tensor(3)}, {"w": torch.ones(2), "seen": torch.tensor(9)}
    between = weights_between(original, best, 0.25)
    assert between["w"].tolist() == [0.25, 0.25]
    assert int(between["seen"]) == 9


def test_witnesses_are_named_by_the_config_and_see_the_held_out_images(tmp_path, monkeypatch):
    real = post_training.extractor
    spaces = {"negative": CustomExtractor(negative, "negative"), "coarse": CustomExtractor(coarse, "coarse")}
    monkeypatch.setattr(post_training, "extractor", lambda name, device: spaces.get(name) or real(name, device))
    config = replace(POST, loop=replace(POST.loop, steps=1), pairs=16, held_out=16, witnesses=("negative",))
    found = post_train(config, tokenizer(), generator(), images(), tmp_path, features="coarse", quiet=True)
    (witness,) = found.held_out.witnesses
    assert witness.extract.name == "negative"
    torch.testing.assert_close(255 - witness.reference.stats.mean, found.held_out.reference.mean)
    assert not found.held_out.of_some(4).witnesses
    with pytest.raises(ValueError, match="there is no feature space 'nowhere'"):
        post_train(replace(config, witnesses=("nowhere",)), tokenizer(), generator(), images(), tmp_path / "b")
