"""Main training: what the decoder sees, what is left clean, and the course of a tiny run."""

import copy
from dataclasses import replace

import pytest
import torch
from tests.training.tiny import coarse

from robustok.data.images import FashionMNIST
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.runtime.logging import MetricsLog
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.perturbation import Perturbation, ReleasedPerturbation
from robustok.tokenizer.quantizer import BSQ, EMAVQ, FSQ, LFQ, VQ, MultiScaleVQ, ResidualVQ, SimVQ
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig
from robustok.training.loop import Loop
from robustok.training.micro_batch import whole_batch
from robustok.training.objective import Objective
from robustok.training.optim import Optim
from robustok.training.tokenizer_training import TokenizerStage, TokenizerTraining, train_tokenizer
from robustok.training.with_codebook import CodebookWarning

PART = Conv(stem=4, channels=(16, 32), blocks=1, attention=False)
TINY = TokenizerTraining(
    tokenizer=TokenizerConfig(
        image_size=32, encoder=PART, decoder=PART, quantizer=VQ(codebook_size=32, width=8, revive_after=5)
    ),
    loop=Loop(steps=8, batch_size=16, log_every=1, save_every=0),
    perturbation=Perturbation(beta=0.5, delta=4),
    objective=Objective(perceptual=0.0, adversarial=0.0),
    semantic=0.0,
    optim=Optim(lr=2e-3),
    precision="fp32",
)


@pytest.fixture(scope="module")
def images():
    return FashionMNIST("train").subset(torch.arange(64))


def batch(images, b: int = 16) -> torch.Tensor:
    return images.images(torch.arange(b))


def test_the_decoder_sees_the_drawn_share_of_images_perturbed(images):
    stage, x = TokenizerStage(TINY), batch(images)
    seen, clean = [], []
    stage.model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    stage.model.quantizer.register_forward_hook(lambda _, __, quantized: clean.append(quantized.codes.detach()))
    stage.step(x, 0)
    changed = (seen[0] - clean[0]).abs().amax(dim=2) > 1e-4
    assert changed.all(dim=1).sum() == 8  # alpha 1: all tokens of half of the images
    assert changed.any(dim=1).sum() == 8


def test_accumulating_perturbs_the_same_images_of_the_whole_batch(images):
    x = batch(images)

    def seen_by(config: TokenizerTraining) -> torch.Tensor:
        stage, seen = TokenizerStage(config), []
        stage.model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
        stage.step(x, 0)
        return torch.cat(seen)

    whole = seen_by(TINY)
    parts = seen_by(replace(TINY, optim=replace(TINY.optim, micro_batches=8)))  # 2 images at a time
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)


def test_a_small_batch_is_perturbed_as_often_as_its_share_says(images):
    """Of 4 images at beta 0.1 one in 40 % of the steps; round(0.4) would be none, ever."""
    stage = TokenizerStage(replace(TINY, perturbation=Perturbation(beta=0.1, delta=4)))
    counts = torch.tensor([float(stage.latents.draw(4, step)["chosen"].any(dim=1).sum()) for step in range(200)])
    assert counts.unique().tolist() == [0, 1]
    assert abs(counts.mean() - 0.4) < 4 * (0.4 * 0.6 / 200) ** 0.5


def test_codes_that_ask_for_no_gradient_stay(images):
    """Revival places codes anew that were not used for 2 steps, but only codes that learn."""
    torch.manual_seed(0)
    quantizer = VQ(codebook_size=512, width=8, revive_after=2)
    config = replace(TINY, tokenizer=replace(TINY.tokenizer, quantizer=quantizer))
    given = Tokenizer(config.tokenizer)
    before = given.codebook.detach().clone()
    for learns in (False, True):
        given.quantizer.embedding.requires_grad_(learns)
        stage = TokenizerStage(replace(config, tokenizer=None), tokenizer=given)
        revived = sum(float(stage.step(batch(images), step).get("dead_codes", 0)) for step in range(4))
        for codes in (stage.model.codebook, stage.ema.module.codebook):
            assert torch.equal(codes, before) != learns
        assert (revived > 0) == learns


def test_the_codes_of_a_frozen_codebook_are_not_placed_at_the_start(images):
    stage = TokenizerStage(TINY)
    stage.model.quantizer.embedding.requires_grad_(False)
    before = stage.model.codebook.clone()
    stage.step(batch(images), 0)
    assert torch.equal(stage.model.codebook, before)


def test_no_perturbation_leaves_the_codes_alone(images):
    stage = TokenizerStage(replace(TINY, perturbation=Perturbation(beta=0.0)))
    seen, clean = [], []
    stage.model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    stage.model.quantizer.register_forward_hook(lambda _, __, quantized: clean.append(quantized.codes.detach()))
    stage.step(batch(images), 0)
    assert torch.equal(seen[0], clean[0])


def test_codebook_and_semantic_terms_do_not_see_the_perturbation(images):
    """Paper: only reconstruction terms see perturbed codes. The released code's semantic term sees them too."""
    x = batch(images)
    config = replace(TINY, semantic=0.1, semantic_size=32)

    def first_terms(perturbation: Perturbation) -> dict[str, torch.Tensor]:
        return TokenizerStage(replace(config, perturbation=perturbation)).step(x, 0)

    without = first_terms(Perturbation(beta=0.0))
    with_it = first_terms(Perturbation(beta=1.0, delta=20))
    released = first_terms(ReleasedPerturbation(beta=1.0, delta=20))
    for name in ("codebook", "semantic"):
        torch.testing.assert_close(with_it[name], without[name])
    assert with_it["l2"] > without["l2"] + 1e-3
    torch.testing.assert_close(released["codebook"], without["codebook"])
    assert (released["semantic"] - without["semantic"]).abs() > 1e-4


def test_a_tiny_run_learns_and_uses_its_codebook(images, tmp_path):
    config = replace(TINY, loop=replace(TINY.loop, steps=40), ema_decay=0.9)
    tokenizer = train_tokenizer(config, images, tmp_path, quiet=True)
    rows = MetricsLog(tmp_path).rows()
    assert [row["step"] for row in rows] == list(range(1, 41))
    first, last = (sum(row["l2"] for row in part) for part in (rows[:5], rows[-5:]))
    assert last < 0.7 * first
    assert rows[-1]["codebook_use"] > 0.9
    assert not tokenizer.training
    assert (tmp_path / "model.safetensors").is_file()


def test_an_idle_codebook_is_named_with_its_remedy(images):
    stage = TokenizerStage(
        replace(TINY, tokenizer=replace(TINY.tokenizer, quantizer=VQ(codebook_size=32, width=8, revive_after=0)))
    )
    x = batch(images)
    stage.step(x, 0)
    stage.latents.steps_unused[4:] = 1000
    one_image = x[:1].expand(16, -1, -1, -1).contiguous()  # has 16 tokens, so most codes stay idle
    with pytest.warns(CodebookWarning, match="of the codes were used in the last 100 steps; set .*revive_after"):
        stage.step(one_image, 200)


@pytest.mark.parametrize(("revive_after", "moved"), [(5, 28), (0, 0)])
def test_long_unused_codes_are_placed_anew_unless_switched_off(images, revive_after, moved):
    quantizer = VQ(codebook_size=32, width=8, revive_after=revive_after)
    stage = TokenizerStage(replace(TINY, tokenizer=replace(TINY.tokenizer, quantizer=quantizer)))
    stage.step(batch(images), 0)
    stage.latents.steps_unused[:] = torch.tensor([0] * 4 + [5] * 28)
    latents = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(2, 16, dtype=torch.int64)
    assert stage.latents.after([(tokens, latents)], 1, whole_batch(2).rows)["dead_codes"] == moved
    assert stage.latents.steps_unused[4:].max() == (0 if moved else 6)


def test_a_large_codebook_starts_from_more_images_than_a_batch(images):
    quantizer = VQ(codebook_size=400, width=8)
    stage = TokenizerStage(replace(TINY, tokenizer=replace(TINY.tokenizer, quantizer=quantizer)))
    with pytest.raises(ValueError, match="k-means places 400 codes on at least as many latents, not 256"):
        stage.step(batch(images), 0)
    stage.set_reference(images)
    assert stage.step(batch(images), 0)["codebook_perplexity"] > 50


SMALL = {"codebook_size": 32, "width": 8}
KINDS = {
    "implicit levels": FSQ(levels=(4, 3, 3)),
    "implicit bits": LFQ(bits=5),
    "implicit sphere": BSQ(bits=5),
    "averages": EMAVQ(**SMALL, decay=0.9),
    "linear map": SimVQ(**SMALL),
    "residual": ResidualVQ(**SMALL, levels=2),
    "residual, own averages": ResidualVQ(codebook_size=16, width=8, levels=2, shared=False, decay=0.9),
    "scales": MultiScaleVQ(**SMALL, scales=(1, 2, 4)),
}


def with_quantizer(quantizer) -> TokenizerTraining:
    return replace(TINY, tokenizer=replace(TINY.tokenizer, quantizer=quantizer))


@pytest.mark.parametrize("kind", KINDS)
def test_every_quantizer_is_trained_with_perturbation_and_scored(images, tmp_path, kind):
    config = replace(with_quantizer(KINDS[kind]), loop=replace(TINY.loop, steps=25), ema_decay=0.8)
    tokenizer = train_tokenizer(config, images, tmp_path, quiet=True)
    rows = MetricsLog(tmp_path).rows()
    first, last = (sum(row["l2"] for row in part) for part in (rows[:5], rows[-5:]))
    assert last < 0.8 * first
    assert rows[-1]["codebook_use"] > 0.5
    placed = not kind.startswith("implicit") and kind != "linear map"  # else there is nothing to revive
    assert ("dead_codes" in rows[-1]) == placed
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.fingerprint() == tokenizer.fingerprint()
    scores = {s.metric: s.value for s in score_tokenizer(again, images, coarse, pfid_images=16)}
    assert scores["pfid"] > 0
    assert scores["rfid"] > 0


@pytest.mark.parametrize("kind", ["averages", "residual, own averages"])
def test_averages_that_codes_follow_are_of_the_whole_batch_and_are_resumed(images, kind):
    """In one piece, in micro-batches, and stopped after each step: codes move alike."""
    x, found = batch(images), []
    for micro_batches, stopping in ((1, False), (4, False), (1, True)):
        config = with_quantizer(KINDS[kind])
        stage = TokenizerStage(replace(config, optim=replace(config.optim, micro_batches=micro_batches)))
        for step in range(3):
            stage.step(x, step)
            if stopping:
                state = copy.deepcopy(stage.state_dict())
                stage = TokenizerStage(config)
                stage.load_state_dict(state)
        assert stage.model.quantizer.embedding.grad is None
        found.append(stage.model.quantizer.averages)
    before = TokenizerStage(config).model.quantizer.averages
    whole, parts, resumed = found
    assert (whole.counts - before.counts).abs().max() > 0.1
    for name in ("counts", "sums"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name))
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name), atol=1e-3, rtol=1e-3)


def test_training_a_given_tokenizer_further_goes_on_from_its_averaged_codes(images):
    stage = TokenizerStage(with_quantizer(KINDS["averages"]))
    for step in range(3):
        stage.step(batch(images), step)
    given = stage.ema.module.requires_grad_(True)
    stage = TokenizerStage(replace(TINY, tokenizer=None), tokenizer=given)
    before = stage.model.quantizer
    last = before.averages.sums / before.averages.counts[:, None]
    stage.latents.start(batch(images), whole_batch(16).rows, images)
    now = before.averages.sums / before.averages.counts[:, None]
    torch.testing.assert_close(now, given.quantizer.embedding, atol=1e-3, rtol=1e-3)
    assert (last - now).abs().max() > 1e-2  # the codes of the last step


def test_codes_of_a_level_have_neighbors_and_replacements_in_their_own_codebook(images):
    stage = TokenizerStage(with_quantizer(KINDS["residual, own averages"]))
    seen = []
    stage.model.lookup, lookup = (lambda tokens: seen.append(tokens) or lookup(tokens)), stage.model.lookup
    stage.step(batch(images), 0)
    near = stage.latents.table(stage.model.codebook, 4)
    assert torch.equal(near // 16, (torch.arange(32) // 16)[:, None].expand(-1, 4))
    assert torch.equal(seen[0] // 16, (torch.arange(32) // 16).expand(16, -1))  # 16 tokens of each level


@pytest.mark.parametrize("kind", ["residual", "scales"])
def test_levels_are_not_perturbed_as_the_released_code_ranks_codes(kind):
    config = replace(with_quantizer(KINDS[kind]), perturbation=ReleasedPerturbation(beta=0.5, delta=4))
    with pytest.raises(ValueError, match="as robustok's own quantizers place them, one token for each.*take Perturb"):
        TokenizerStage(config)


def test_an_idle_linear_map_has_a_remedy_of_its_own(images):
    stage, x = TokenizerStage(with_quantizer(KINDS["linear map"])), batch(images)
    stage.step(x, 0)
    stage.latents.steps_unused[:] = 1000
    with pytest.warns(CodebookWarning, match="take fewer codes of the SimVQ"):
        stage.step(x[:1].expand(16, -1, -1, -1).contiguous(), 200)


def test_a_fixed_codebook_has_its_neighbors_computed_once(images):
    config = replace(TINY, tokenizer=replace(TINY.tokenizer, quantizer=FSQ(levels=(4, 3, 3))))
    stage = TokenizerStage(config)
    for step in range(8):
        stage.step(batch(images), step)
    assert stage.latents.table.rebuilt == 1


def test_an_idle_implicit_codebook_has_a_remedy_of_its_own(images):
    stage = TokenizerStage(replace(TINY, tokenizer=replace(TINY.tokenizer, quantizer=BSQ(bits=5))))
    x = batch(images)
    stage.step(x, 0)
    stage.latents.steps_unused[:] = 1000
    with pytest.warns(CodebookWarning, match="raise the quantizer's entropy weight or its diversity"):
        stage.step(x[:1].expand(16, -1, -1, -1).contiguous(), 200)


def test_a_loss_that_is_not_finite_changes_no_weight(images):
    stage, x = TokenizerStage(TINY), batch(images)
    stage.step(x, 0)
    before = {name: weight.clone() for name, weight in stage.model.named_parameters()}
    stage.latents.steps_unused[:] = 1000  # codes that would be placed anew, on latents that are not finite
    x[0, 0, 0, 0] = float("nan")
    assert stage.step(x, 1)["skipped"] == 1
    after = dict(stage.model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
