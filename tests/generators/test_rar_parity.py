"""Our generator with RAR's own weights gives RAR's numbers: logits, loss, greedy samples, kept tokens."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.sampling import Sampling, guidance_scales, guide, probabilities, sample_tokens

PARITY = Path(os.environ.get("ROBUSTOK_PARITY", Path(__file__).parents[3] / "shared" / "parity"))

# Where ours differs from RAR's names; embeddings and positions, which RAR keeps in longer tables, are cut below.
RENAMES = {
    "blocks.": "layers.",
    "attn.": "attention.",
    "adaln_before_head.adaLN_modulation.1": "modulation.linear",
    "adaLN_modulation.1": "modulation.linear",
    "lm_head": "head",
}


def renamed(name: str) -> str:
    for theirs, ours in RENAMES.items():
        name = name.replace(theirs, ours)
    return name


def converted(weights: dict[str, Tensor], config: Autoregressive) -> dict[str, Tensor]:
    """RAR's state_dict under our names. Its mask token and the spare rows of its position tables go."""
    k, n = config.codebook_size, config.tokens
    rest = dict(weights)
    embeddings = rest.pop("embeddings.weight")  # codes, mask token, classes, no class
    return {
        "start": rest.pop("cls_token")[0],
        "token_embedding.weight": embeddings[:k],
        "label_embedding.weight": embeddings[k + 1 :],
        "positions": rest.pop("pos_embed")[0, : n + 2],
        "targets": rest.pop("target_aware_pos_embed")[0, 2 : n + 2],
        "steps": rest.pop("timesteps_embeddings")[0, : n + 1],
        **{renamed(name): weight for name, weight in rest.items()},
    }


def config_of(generator: dict[str, int], codebook_size: int) -> Autoregressive:
    return Autoregressive(
        codebook_size=codebook_size,
        tokens=generator["image_seq_len"],
        classes=generator["condition_num_classes"],
        width=generator["hidden_size"],
        depth=generator["num_hidden_layers"],
        heads=generator["num_attention_heads"],
        mlp_ratio=generator["intermediate_size"] / generator["hidden_size"],
        modulated=True,
    )


@pytest.fixture
def rar(parity, parity_weights) -> tuple[AutoregressiveModel, dict[str, Tensor], dict]:
    meta, io = parity("rar")
    shape = meta["config"]["model"]
    config = config_of(shape["generator"], shape["vq_model"]["codebook_size"])
    model = AutoregressiveModel(config).eval()
    model.load_state_dict(converted(parity_weights("rar"), config))
    return model, io, meta


class Recorded:
    """A generator whose logits are kept, to see the probabilities of each step."""

    def __init__(self, model: AutoregressiveModel):
        self.model, self.logits = model, []
        self.codebook_size, self.tokens_per_image = model.codebook_size, model.tokens_per_image
        self.no_label, self.device, self.fingerprint = model.no_label, model.device, model.fingerprint
        self.blocks = model.blocks

    def predictor(self, labels: Tensor) -> Callable[[Tensor | None], Tensor]:
        predict = self.model.predictor(labels)

        def recorded(tokens: Tensor | None) -> Tensor:
            self.logits.append(predict(tokens))
            return self.logits[-1]

        return recorded

    def probabilities(self, config: Sampling) -> Tensor:
        """What each step would have drawn from at this temperature and guidance, (b n k)."""
        logits = [logits.squeeze(1) for logits in self.logits]
        scales = guidance_scales(config, len(logits))
        if all(scale == 1 for scale in scales):
            guided = logits
        else:
            guided = [guide(*both.chunk(2), scale) for both, scale in zip(logits, scales, strict=True)]
        return torch.stack([probabilities(x, Sampling(temperature=config.temperature)) for x in guided], dim=1)


@torch.no_grad()
def test_teacher_forced_logits_and_loss(rar):
    model, io, _ = rar
    tokens, labels, orders = io["tokens"], io["labels"], io["orders"]
    close = {"atol": 1e-4, "rtol": 1e-4}  # the fixture's own
    # RAR also computes logits after the last token, which nobody uses
    torch.testing.assert_close(model(tokens, labels), io["raster_logits"][:, :-1], **close)
    nobody = torch.full_like(labels, model.no_label)
    torch.testing.assert_close(model(tokens, nobody), io["raster_logits_uncond"][:, :-1], **close)
    permuted = model(tokens, labels, orders)
    torch.testing.assert_close(permuted, io["permuted_logits"][:, :-1], **close)
    assert torch.equal(tokens.gather(1, orders), io["permuted_labels"])
    loss = torch.nn.functional.cross_entropy(permuted.flatten(0, 1), io["permuted_labels"].flatten())
    torch.testing.assert_close(loss, io["permuted_loss"][0], **close)


def rar_sampling(entry: dict[str, float]) -> Sampling:
    """RAR's guidance_scale 0 means none; its power 0 means constant, as ours does."""
    return Sampling(
        temperature=entry["randomize_temperature"],
        top_k=1,
        guidance=entry["guidance_scale"] or 1.0,
        schedule="power-cosine",
        power=entry["guidance_scale_pow"],
    )


def test_greedy_generation(rar):
    model, io, meta = rar
    for entry in meta["generation"]:
        recorded, config = Recorded(model), rar_sampling(entry)
        tokens = sample_tokens(recorded, io["labels"], config, seed=0)
        assert torch.equal(tokens, io[f"gen_tokens_{entry['tag']}"])
        wanted = io[f"gen_probs_{entry['tag']}"]
        torch.testing.assert_close(recorded.probabilities(config), wanted, atol=1e-4, rtol=1e-3)


def test_generation_around_kept_tokens(rar):
    model, io, meta = rar
    for share in meta["preservation"]["prob"]:
        recorded, config = Recorded(model), rar_sampling(meta["preservation"])
        tag = f"p{share}".replace(".", "p")
        keep = io[f"preserve_mask_{tag}"]
        assert torch.equal(keep, io["preserve_u"][..., 0] < share)
        tokens = sample_tokens(recorded, io["labels"], config, seed=0, keep=keep, tokens=io["tokens"])
        assert torch.equal(tokens, io[f"preserve_tokens_{tag}"])
        wanted = io[f"preserve_probs_{tag}"]
        torch.testing.assert_close(recorded.probabilities(config), wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("file", "codes"), [("maskgit1024", 1024), ("robustok4096", 4096)])
def test_the_published_model_fits(parity, file, codes):
    meta, _ = parity("rar")
    published = json.loads((PARITY / "rar" / f"fullsize_keys_RAR-B_{file}.json").read_text())
    shape = {**meta["fullsize"]["RAR-B"], **meta["fullsize"]["common"]}
    config = config_of(shape, codes)
    with torch.device("meta"):
        weights = {name: torch.empty(entry["shape"]) for name, entry in published.items()}
        ours = AutoregressiveModel(config).state_dict()
    assert {name: weight.shape for name, weight in converted(weights, config).items()} == {
        name: weight.shape for name, weight in ours.items()
    }
