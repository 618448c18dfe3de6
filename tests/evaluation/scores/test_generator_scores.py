import re
import warnings

import pytest
import torch
from tests.evaluation.scored import CODES, Blocks, Grays, Noise, shades

from robustok.evaluation.metrics.pfid import BLOCK
from robustok.evaluation.scores import generator_scores
from robustok.evaluation.scores.difference import unlike
from robustok.evaluation.scores.generator_scores import score_generator
from robustok.evaluation.scores.image_scores import score_images, score_pixels
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.flow import FlowSampling
from robustok.generators.sampling import Sampling


@pytest.fixture(scope="module")
def images() -> Noise:
    return Noise(2 * BLOCK + 20)


def test_generator_is_scored_on_its_samples(images):
    reference, labels = Reference.of(images, shades), torch.arange(70) % 2
    config = Autoregressive(codebook_size=CODES, tokens=4, classes=2, width=64, depth=1, heads=1)
    generator = AutoregressiveModel(config)
    seen = []

    def run(batch_size):
        return score_generator(
            generator,
            Blocks(),
            reference,
            labels,
            shades,
            sampling=Sampling(),
            seed=3,
            batch_size=batch_size,
            progress=lambda *both: seen.append(both),
        )

    scores = run(30)
    assert seen == [(30, 70), (60, 70), (70, 70)]
    assert scores[0].metric == "gfid"
    assert scores[0].seeds == (3,)
    assert scores[0].protocol["sampling"]["temperature"] == 1.0
    assert {str(score.protocol["precision"]) for score in scores} == {"{'sampled': 'float32', 'decoded': 'float32'}"}
    with torch.autocast("cpu", torch.bfloat16):
        (other,) = (score for score in run(70) if score.metric == "gfid")
    assert other.protocol["precision"] == {"sampled": "bfloat16", "decoded": "bfloat16"}
    assert "precision.sampled 'float32' once and 'bfloat16' the other time" in map(str, unlike(scores[0], other))
    assert scores[0].value == pytest.approx(run(70)[0].value, rel=1e-9)


def test_a_protocol_says_that_samples_were_compiled_which_may_be_compared(images, monkeypatch):
    reference, labels, asked = Reference.of(images, shades), torch.arange(20) % 2, []
    config = Autoregressive(codebook_size=CODES, tokens=4, classes=2, width=64, depth=1, heads=1)
    generator, real = AutoregressiveModel(config), generator_scores.sample
    monkeypatch.setattr(
        generator_scores, "sample", lambda *rest, compile, **how: (asked.append(compile), real(*rest, **how))[1]
    )

    def run(compile):
        return score_generator(
            generator, Blocks(), reference, labels, shades, sampling=Sampling(), batch_size=10, compile=compile
        )[0]

    plain, compiled = run(None), run("inductor")
    assert asked == [None, None, "inductor", "inductor"]
    assert "sampled_by" not in plain.protocol
    assert compiled.protocol["sampled_by"] == "inductor"
    assert not unlike(plain, compiled)  # other samples of one distribution


class Still:
    """A generator of latents that the noise becomes unchanged."""

    latent_shape, null_class, device = (4, 1), 2, torch.device("cpu")

    def velocity(self, latents, t, labels):
        return 0 * latents

    def fingerprint(self):
        return "still"


def test_a_generator_of_latents(images):
    reference, labels = Reference.of(images, shades), torch.arange(70) % 2

    def run(batch_size=30, sampling=None):
        sampling = sampling or FlowSampling(steps=2)
        return score_generator(
            Still(), Grays(), reference, labels, shades, sampling=sampling, seed=3, batch_size=batch_size
        )

    scores = run()
    assert scores[0].metric == "gfid"
    assert scores[0].images == 70
    assert scores[0].protocol["sampling"]["steps"] == 2
    assert scores[0].value == pytest.approx(run(70)[0].value, rel=1e-9)
    with pytest.raises(
        ValueError, match="a Still is not sampled as a Sampling says; generators of tokens take Sampling"
    ):
        run(sampling=Sampling())


@pytest.mark.parametrize(
    ("scale", "count", "told"),
    [
        (3.0, 20, True),
        (3.0, 19, False),  # few may all be bright
        (0.3, 20, False),  # collapsed
        (None, 20, False),
    ],
)
def test_warns_once_of_a_decoder_that_makes_images_from_0_to_1(images, scale, count, told):
    class Sigmoid(Grays):
        def decode(self, codes):
            return super().decode(codes) if scale is None else (scale * super().decode(codes)).sigmoid()

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        labels, how = torch.zeros(count, dtype=torch.int64), {"sampling": FlowSampling(steps=2), "batch_size": 5}
        score_generator(Still(), {"after": Sigmoid()}, Reference.of(images, shades), labels, shades, **how)
    words = r"generated images go from 1\d\d to 2\d\d of 255 by the decoder 'after', as if 0 were black .* \[-1, 1\]"
    assert [bool(re.match(words, str(one.message))) for one in seen] == [True] * told


def test_refuses_too_few_images(images):
    reference = Reference.of(images, shades)
    for count, text in ((0, "0 images"), (1, "1 image")):
        few = Noise(count)
        for score in (lambda few: Reference.of(few, shades), lambda few: score_images(few, reference, shades)):
            with pytest.raises(ValueError, match=f"{text} cannot be scored; give at least two"):
                score(few)
    with pytest.raises(ValueError, match="0 images cannot be scored; give at least two"):
        score_tokenizer(Blocks(), Noise(0), shades)
    with pytest.raises(ValueError, match="no images to score; give at least two"):
        score_pixels([], reference, shades)
    with pytest.raises(ValueError, match="one image has no covariance"):
        score_pixels([images.pixels[:1]], reference, shades)
    with pytest.raises(ValueError, match="no images to score"):
        score_generator(Still(), Grays(), reference, torch.arange(0), shades, sampling=FlowSampling())
