"""What a demo says of copies: AuthPct in the codes of its tokenizer, pair by pair."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.tiny import AUTOENCODER, GENERATOR, MAIN, POST, cache, images, tokenizer

from robustok.data.images import FashionMNIST
from robustok.data.latent_cache import LatentCache, encode_images
from robustok.demo.compared import Compared
from robustok.demo.config import Demo, DemoImages
from robustok.demo.scores import copy_scores, reference_of
from robustok.evaluation.decoding import encoded
from robustok.evaluation.features.spaces.embedded import lite0
from robustok.evaluation.scores.score import Score
from robustok.tokenizer.autoencoder import Autoencoder

REAL = FashionMNIST("validation").subset(torch.arange(20))
HOW = {"sampling": "as it was"}
SETS = DemoImages(images(), REAL, REAL, REAL)
DEMO = Demo(main=MAIN, generator=GENERATOR, post=POST)


def test_a_damaged_reference_is_made_anew(tmp_path: Path):
    reference_of(SETS, tmp_path, lite0())
    path = tmp_path / "reference.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + bytes(8))
    reference_of(SETS, tmp_path, lite0())
    assert path.read_bytes() == whole


def copies(model: Any, drawn: torch.Tensor, known: LatentCache) -> list[Score]:
    labels = torch.zeros(len(drawn), dtype=torch.int64)
    about: Any = {"config": DEMO, "images": SETS, "cache": known, "decoders": {"before": model}, "labels": labels}
    return copy_scores(Compared(drawn=drawn, how=HOW, **about))


def authentic(made: np.ndarray, known: np.ndarray) -> float:
    """The percentage of `made` that are farther from their nearest of `known` than that is from its nearest other."""
    apart = np.linalg.norm(made[:, None] - known[None], axis=2)
    among = np.linalg.norm(known[:, None] - known[None], axis=2) + np.diag([np.inf] * len(known))
    own = apart.argmin(axis=1)
    return 100 * float(np.mean(among[own].min(axis=1) < apart[np.arange(len(made)), own]))


def test_of_tokens_their_codes_are_compared_with_those_of_all_training_images(tmp_path: Path):
    model, known = tokenizer(), cache(tmp_path)
    every = known.plain(torch.arange(64))
    drawn = torch.randint(32, (16, known.tokens_per_image), generator=torch.Generator().manual_seed(0))
    drawn[::2] = every[:8]  # half of them are copies
    codes = [model.codebook[tokens].detach().flatten(1).double().numpy() for tokens in (drawn, every)]
    own, held_out = copies(model, drawn, known)
    assert own.metric == "authpct"
    assert own.value == pytest.approx(authentic(*codes))
    assert own.interval[0] < own.value <= 50 < own.interval[1]
    real = model.codebook[encoded(model, SETS.scored.images(torch.arange(16)))].detach().flatten(1).double().numpy()
    assert held_out.metric == "authpct_held_out"
    assert held_out.value == pytest.approx(authentic(real, codes[1]))
    about = {"features": "codes of the tokenizer", "train": SETS.train.describe()}
    assert (own.images, own.protocol) == (16, HOW | about)
    assert (held_out.images, held_out.protocol) == (16, about)
    (every_one, _) = copies(model, every, known)
    assert (every_one.value, every_one.images) == (0, 20)


def test_of_a_tokenizer_without_codes_latents_are_compared(tmp_path: Path):
    torch.manual_seed(0)
    model = Autoencoder(AUTOENCODER.tokenizer).eval()
    known = encode_images(model, SETS.train, tmp_path / "latents")
    every = known.plain(torch.arange(64))
    drawn = torch.cat([every[:8], every[:12] + torch.randn(12, *every.shape[1:]) * 20 * every.std()])
    own, held_out = copies(model, drawn, known)
    assert own.value == 60  # but for 8 of 20
    assert own.protocol["features"] == "latents of the tokenizer"
    real = encoded(model, SETS.scored.images(torch.arange(20))).flatten(1).double().numpy()
    assert held_out.value == pytest.approx(authentic(real, every.flatten(1).double().numpy()))
