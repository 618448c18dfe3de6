"""Post-training pairs: what is kept, what a pair depends on, where the making goes on, what is refused."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.training.continuous import Patches
from torch import Tensor

from robustok.data.images import FashionMNIST
from robustok.data.latent_cache import encode_images
from robustok.data.pairs import FEW, LARGE_GROUP, SMALL_GROUP, Pairs, generated, make_pairs, mask_group
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.flow import FlowSampling
from robustok.generators.generate import sample
from robustok.generators.sampling import Sampling, draw_codes, guide, probabilities, uniforms
from robustok.generators.unmasking import MaskedSampling, masked_after
from robustok.runtime.seeding import derive
from robustok.tokenizer.quantizer import Quantized

COUNT, N, CODES = 60, 24, 10


class Digits:
    """Tokens of sixty images: codes 0 to 4, at random."""

    size, image_size, tokens_per_image, flip = 1, 1, N, True
    classes, labels, codebook = ("a", "b", "c"), torch.arange(COUNT) % 3, torch.zeros(CODES, 1)

    def __len__(self) -> int:
        return COUNT

    def images(self, indices: Tensor) -> Tensor:
        return indices.float().view(-1, 1, 1, 1).expand(-1, 3, 1, 1)

    def training_images(self, indices, draws):
        raise AssertionError

    subset = training_images

    def describe(self) -> dict[str, str]:
        return {"name": "digits"}

    def encode(self, images: Tensor) -> Tensor:
        all_tokens = torch.randint(5, (COUNT, N), generator=torch.Generator().manual_seed(0))
        return all_tokens[images[:, 0, 0, 0].long()].float().unsqueeze(2)

    def quantize(self, latents: Tensor) -> Quantized:
        return Quantized(latents, latents[..., 0].long(), latents.new_zeros(()))

    def decode(self, codes: Tensor) -> Tensor:
        raise AssertionError

    def fingerprint(self) -> str:
        return "tokenizer"


class Counter:
    """A generator of codes 5 to 9 alone, so that one sees which tokens are its own."""

    tokens_per_image, codebook_size, null_class, device = N, CODES, 3, torch.device("cpu")
    blocks = (1,) * N

    def __init__(self, name: str = "counter", stop_after: float = math.inf):
        self.name, self.left, self.images = name, stop_after, 0

    def predictor(self, labels: Tensor):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.images += len(labels)
        logits = torch.tensor([-math.inf] * 5 + [0.0] * 5).expand(len(labels), 1, -1)
        return lambda tokens: logits

    def fingerprint(self) -> str:
        return self.name


@pytest.fixture
def make(tmp_path_factory):
    digits = Digits()
    cache = encode_images(digits, digits, tmp_path_factory.mktemp("tokens"))
    arguments = {"sigma": 0.7, "sampling": Sampling(), "count": 50, "seed": 3, "shard_size": 20, "batch_size": 8}

    def make(generator, folder, **changes) -> Pairs:
        return make_pairs(generator, cache, folder, **{**arguments, **changes})

    make.cache = cache
    return make


def everything(pairs: Pairs):
    return pairs.batch(torch.arange(len(pairs)))


def test_a_share_sigma_of_real_tokens_is_kept(make, tmp_path):
    pairs = make(Counter(), tmp_path)
    tokens, images, labels = everything(pairs)
    assert (len(pairs), pairs.sigma, pairs.fingerprint) == (50, 0.7, "tokenizer")
    assert len(images.unique()) == 50
    assert torch.equal(labels, images % 3)
    kept = tokens < 5
    assert torch.equal(tokens[kept], make.cache.plain(images)[kept])
    assert len(kept.unique(dim=0)) == 1  # a group keeps the same positions
    assert abs(kept.float().mean() - 0.7) < 4 * math.sqrt(0.7 * 0.3 / N)


def test_a_group_keeps_the_same_positions_and_draws_no_others(unchecked):
    """Each mask alone is as if its image had its own: uniform over positions, of a binomial count; tokens are those of
    the plain loop with that mask."""
    numbers = range(FEW + 3 * LARGE_GROUP)
    groups = torch.tensor([mask_group(number) for number in numbers])
    often = groups.bincount()
    assert groups.diff().unique().tolist() == [0, 1]
    assert often.tolist() == [SMALL_GROUP] * (FEW // SMALL_GROUP) + [LARGE_GROUP] * 3
    b, n, sigma, noise = 300, 12, 0.7, derive(5, "pairs, tokens")
    torch.manual_seed(0)
    model = AutoregressiveModel(Autoregressive(codebook_size=9, tokens=n, classes=2, width=16, depth=1, heads=1))
    for parameter in model.parameters():
        parameter.data *= 5  # so that tokens depend on each other
    own, labels, sampling = torch.arange(b * n).view(b, n) % 9, torch.arange(b) % 2, Sampling(guidance=2.0)
    cache, how = SimpleNamespace(plain=lambda chosen: own[chosen], labels=labels), {"mode": "sdedit", "progress": None}
    how |= {"sampling": sampling, "sigma": sigma, "seed": 5, "first": 0, "batch_size": 256}
    tokens, asked = generated(model.eval(), cache, torch.arange(b), **how), []
    keep = torch.cat([uniforms(derive(5, "pairs, keep"), [mask_group(i)], n) < sigma for i in range(b)])
    assert torch.equal(tokens[keep], own[keep])
    plain = model.predictor(torch.cat([labels, torch.full_like(labels, model.null_class)]))
    latest, numbers = None, uniforms(noise, range(b), n)
    for place in range(n):
        logits = guide(*plain(latest)[:, 0].chunk(2), 2.0)
        drawn = torch.where(
            keep[:, place], own[:, place], draw_codes(probabilities(logits, sampling), numbers[:, place])
        )
        assert torch.equal(tokens[:, place], drawn)
        latest = drawn.repeat(2).unsqueeze(1)
    predictor = model.predictor
    model.predictor = lambda labels: (lambda predict: lambda latest: (asked.append(1), predict(latest))[1])(
        predictor(labels)
    )
    generated(model, cache, torch.arange(b), **how)
    assert len(asked) == sum((~keep[i]).sum() for i in range(0, b, SMALL_GROUP))


def test_masks_of_groups_are_distributed_as_masks_of_images():
    many, n, sigma = 4000, 24, 0.7
    keep = uniforms(derive(0, "pairs, keep"), range(many), n) < sigma  # of as many groups
    deviation = math.sqrt(sigma * (1 - sigma) / many)
    assert (keep.float().mean(dim=0) - sigma).abs().max() < 4.5 * deviation  # any position
    both = (keep.float().T @ keep.float() / many)[*torch.triu_indices(n, n, 1)]
    assert (both - sigma**2).abs().max() < 5 * math.sqrt(sigma**2 * (1 - sigma**2) / many)  # any two of them
    counts = keep.sum(dim=1).bincount(minlength=n + 1) / many
    wanted = torch.tensor([math.comb(n, k) * sigma**k * (1 - sigma) ** (n - k) for k in range(n + 1)])
    assert (counts - wanted).abs().sum() / 2 < 0.05  # the total variation of as many draws is 0.02


def test_sigma_one_is_real_and_needs_no_generator(make, tmp_path):
    tokens, images, _ = everything(make(None, tmp_path, sigma=1.0))
    assert torch.equal(tokens, make.cache.plain(images))
    generator = Counter()
    again = make(generator, tmp_path, sigma=1.0, sampling=Sampling(guidance=9.0))  # the same pairs
    assert torch.equal(everything(again).generated, tokens)
    assert generator.images == 0


def test_sigma_zero_is_all_generated(make, tmp_path):
    assert (everything(make(Counter(), tmp_path, sigma=0.0)).generated >= 5).all()


def test_a_pair_depends_on_seed_and_number_alone(make, tmp_path):
    tokens, images, _ = everything(make(Counter(), tmp_path / "a"))
    fewer = everything(make(Counter(), tmp_path / "b", count=30, shard_size=7, batch_size=3))
    assert torch.equal(fewer.generated, tokens[:30])
    assert torch.equal(fewer.images, images[:30])
    more = everything(make(Counter(), tmp_path / "c", sigma=0.9))
    assert torch.equal(more.images, images)
    assert (more.generated < 5)[tokens < 5].all()  # what a smaller sigma keeps, a larger one keeps too
    other = everything(make(Counter(), tmp_path / "d", seed=4))
    assert not torch.equal(other.images, images)


def test_it_goes_on_where_it_was_stopped(make, tmp_path):
    whole = everything(make(Counter(), tmp_path / "a"))
    with pytest.raises(KeyboardInterrupt):
        make(Counter(stop_after=4), tmp_path / "b")  # the fourth batch is in the second shard
    heard: list[int] = []
    rest = Counter()
    resumed = everything(make(rest, tmp_path / "b", progress=heard.append))
    assert rest.images == 50 - 20
    assert heard == [20, 28, 36, 40, 40, 48, 50, 50]
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole, strict=True))


@pytest.mark.parametrize("sigma", [-0.1, 1.01, math.nan])
def test_sigma_is_a_share(make, tmp_path, sigma):
    with pytest.raises(ValueError, match="sigma is .*; it is the share that stays real, choose one between 0 and 1"):
        make(Counter(), tmp_path, sigma=sigma)


def test_what_does_not_fit_is_refused(make, tmp_path):
    with pytest.raises(ValueError, match="61 pairs were asked for, but there are 60 images; choose 1 to 60"):
        make(Counter(), tmp_path, count=61)
    with pytest.raises(ValueError, match="sigma below 1 needs a generator"):
        make(None, tmp_path)
    stranger = Counter()
    stranger.codebook_size = 99
    with pytest.raises(
        ValueError, match="makes 24 tokens of 99 codes, the cache holds 24 tokens of 10 codes; give the cache that"
    ):
        make(stranger, tmp_path)
    stranger = Counter()
    stranger.trained_on = "another"
    with pytest.raises(ValueError, match="trained on tokenizer another, not on tokenizer; give that tokenizer, whose"):
        make(stranger, tmp_path)


class Filling:
    """The same that fills in masks."""

    tokens_per_image, codebook_size, null_class, device = N, CODES, 3, torch.device("cpu")

    def __init__(self):
        self.asked = []

    def predict_masked(self, tokens: Tensor, labels: Tensor) -> Tensor:
        self.asked.append((tokens == CODES).sum(dim=1).unique().tolist())
        return torch.tensor([-math.inf] * 5 + [0.0] * 5).expand(len(tokens), N, -1)

    def fingerprint(self) -> str:
        return "filling"


def test_a_masked_generator_fills_in_what_is_not_kept(make, tmp_path):
    sampling, filling = MaskedSampling(steps=8), Filling()
    tokens, images, labels = everything(make(filling, tmp_path / "pairs", sampling=sampling, batch_size=50))
    kept = tokens < 5
    assert torch.equal(tokens[kept], make.cache.plain(images)[kept])
    assert len(kept.unique(dim=0)) == 1
    left = int((~kept[0]).sum())  # a group has as many masked, and takes the steps that leave fewer
    after = [count for count in masked_after(N, 8) if count < left]
    assert filling.asked == [[count] for _ in range(3) for count in (left, *after[:-1])]  # three shards
    wider = everything(make(filling, tmp_path / "wider", sampling=sampling, sigma=0.9))
    assert torch.equal(wider.generated[kept], tokens[kept])
    clean = everything(make(filling, tmp_path / "clean", sampling=sampling, sigma=1.0))
    assert torch.equal(clean.generated, make.cache.plain(images))
    none = everything(make(filling, tmp_path / "none", sampling=sampling, sigma=0.0))
    assert torch.equal(none.generated, sample(filling, labels, sampling, seed=derive(3, "pairs, tokens")))
    again = everything(make(filling, tmp_path / "again", sampling=sampling, batch_size=3))
    assert torch.equal(again.generated, tokens)


class Still:
    """A generator of latents whose velocity is the noise level: from level t, all numbers fall by t^2 / 2."""

    latent_shape, null_class, device = (16, 12), 10, torch.device("cpu")

    def velocity(self, latents: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return t[:, None, None].expand_as(latents)

    def fingerprint(self) -> str:
        return "still"


def test_latents_are_noised_and_followed_from_there(tmp_path):
    images = FashionMNIST("train").subset(torch.arange(20))
    cache = encode_images(Patches(), images, tmp_path / "latents")
    arguments = {"sampling": FlowSampling(steps=50), "count": 12, "seed": 0}
    pairs = make_pairs(Still(), cache, tmp_path / "pairs", sigma=0.9, **arguments)
    latents, chosen, _ = everything(pairs)
    own, level = cache.plain(chosen), 0.1
    # what is left: 0.9 of the latent, 0.1 of the noise, and less than 0.1 of the velocity's way
    assert (latents - 0.9 * own).std() == pytest.approx(level, rel=0.1)
    with torch.autocast("cpu", torch.bfloat16):  # as a stage may sample
        coarse = everything(make_pairs(Still(), cache, tmp_path / "coarse", sigma=0.9, shard_size=5, **arguments))
    torch.testing.assert_close(coarse.generated, latents, atol=0.01, rtol=0.01)
    again = everything(
        make_pairs(Still(), cache, tmp_path / "again", sigma=0.9, shard_size=5, batch_size=2, **arguments)
    )
    assert torch.equal(again.generated, latents)
    clean = everything(make_pairs(None, cache, tmp_path / "clean", sigma=1.0, **arguments))
    assert torch.equal(clean.generated, own)
    assert torch.equal(clean.images, chosen)
    with pytest.raises(
        ValueError, match="a Still is not sampled as a Sampling says; generators of tokens take Sampling"
    ):
        make_pairs(Still(), cache, tmp_path / "no", sigma=0.9, **arguments | {"sampling": Sampling()})
    stranger = Still()
    stranger.trained_on = "c0ffee"
    with pytest.raises(
        ValueError, match=rf"trained on tokenizer c0ffee, not on {cache.fingerprint}; give that tokenizer"
    ):
        make_pairs(stranger, cache, tmp_path / "no", sigma=0.9, **arguments)
    stranger.trained_on = cache.fingerprint
    stranger.latent_shape = (4, 4)
    with pytest.raises(
        ValueError, match=r"makes latents of shape \(4, 4\), the cache holds latents of shape \(16, 12\)"
    ):
        make_pairs(stranger, cache, tmp_path / "no", sigma=0.9, **arguments)


def test_latents_in_one_pass_are_the_generators_guess_from_the_same_noise(tmp_path):
    cache = encode_images(Patches(), FashionMNIST("train").subset(torch.arange(20)), tmp_path / "latents")
    arguments = {"sampling": FlowSampling(steps=50), "count": 12, "seed": 0}
    sampled = everything(make_pairs(Still(), cache, tmp_path / "sdedit", sigma=0.8, **arguments))
    pairs = make_pairs(Still(), cache, tmp_path / "one", sigma=0.8, mode="one-pass", batch_size=5, **arguments)
    assert (pairs.mode, Pairs(tmp_path / "sdedit").mode) == ("one-pass", "sdedit")
    guessed = everything(pairs)
    assert torch.equal(guessed.images, sampled.images)
    # the velocity is t, so from t = 0.2 a guess goes down by t^2, and many steps by t^2 / 2 and half a step more
    down = sampled.generated - guessed.generated
    assert down.mean() == pytest.approx(0.2**2 / 2 - 0.2 / 100, rel=1e-2)
    assert down.std() < 1e-3
    with pytest.raises(ValueError, match="was made with pair_mode one-pass, not None; choose another folder"):
        make_pairs(Still(), cache, tmp_path / "one", sigma=0.8, **arguments)


def test_tokens_are_not_made_in_one_pass(make, tmp_path, unchecked):
    with pytest.raises(
        ValueError, match="pair_mode is 'one-pass', which is for latents: tokens have no mean; leave it at"
    ):
        make(Counter(), tmp_path, mode="one-pass")
    with pytest.raises(ValueError, match="pair_mode is 'ddim'; choose 'sdedit' or 'one-pass'"):
        make(Counter(), tmp_path, mode="ddim")


def test_latents_that_are_not_finite_are_no_pairs(tmp_path):
    cache = encode_images(Patches(), FashionMNIST("train").subset(torch.arange(4)), tmp_path / "latents")
    arguments = {"sampling": FlowSampling(steps=2), "count": 4, "seed": 0, "sigma": 0.5}

    class Exploding(Still):
        def __init__(self, speed: float):
            self.speed = speed

        def velocity(self, latents: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            return torch.full_like(latents, self.speed)

    with pytest.raises(ValueError, match="sampling ended in NaN or infinity; use less guidance, more steps, or other"):
        make_pairs(Exploding(math.nan), cache, tmp_path / "nan", **arguments)
    with pytest.raises(ValueError, match=r"not finite in float16 \(the largest is .*e\+05\); scale the tokenizer's"):
        make_pairs(Exploding(-4e5), cache, tmp_path / "large", **arguments)


def test_pairs_made_otherwise_are_refused(make, tmp_path):
    make(Counter(), tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "earlier").mkdir()
    earlier = {name: value for name, value in manifest.items() if name != "masks"}
    (tmp_path / "earlier" / "manifest.json").write_text(json.dumps(earlier))
    with pytest.raises(ValueError, match="made with masks None, not one for each group of pairs; choose another fold"):
        make(Counter(), tmp_path / "earlier")  # whose pairs had a mask each
    with pytest.raises(ValueError, match="made with generator counter, not another; choose another folder, or delete"):
        make(Counter("another"), tmp_path)
    with pytest.raises(ValueError, match="made with sigma 0.7, not 0.8"):
        make(Counter(), tmp_path, sigma=0.8)
    with pytest.raises(ValueError, match="made with sampling .*'temperature': 1.0.* not .*'temperature': 1.1"):
        make(Counter(), tmp_path, sampling=replace(Sampling(), temperature=1.1))
    (tmp_path / "00001-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="00001-of-00003.safetensors is missing"):
        Pairs(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": "tokens"}')
    with pytest.raises(ValueError, match="holds tokens, not pairs"):
        Pairs(tmp_path)
