"""RAR with its own weights gives its numbers: logits, loss, greedy samples, kept tokens; its files come back."""

from collections.abc import Callable

import pytest
import torch
from tests.adapters.parity import PARITY, check_there_and_back, published_shapes, shapes_of, stored
from torch import Tensor

from robustok.adapters.rar import RAR
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.protocol import lacking, makes
from robustok.generators.sampling import Sampling, guidance_scales, guide, probabilities, sample_tokens


@pytest.fixture
def rar(parity) -> tuple[RAR, dict[str, Tensor], dict]:
    meta, io = parity("rar")
    return RAR.from_state(stored("rar")), io, meta


def test_all_sizes_are_in_the_weights(rar):
    model, _, meta = rar
    sizes = meta["config"]["model"]["generator"]
    assert model.config == Autoregressive(
        codebook_size=meta["config"]["model"]["vq_model"]["codebook_size"],
        tokens=sizes["image_seq_len"],
        classes=sizes["condition_num_classes"],
        width=sizes["hidden_size"],
        depth=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        mlp_ratio=sizes["intermediate_size"] / sizes["hidden_size"],
        modulated=True,
    )


class Recorded:
    """A generator whose logits are kept, to see the probabilities of each step."""

    def __init__(self, model: AutoregressiveModel):
        self.model, self.logits = model, []
        self.codebook_size, self.tokens_per_image = model.codebook_size, model.tokens_per_image
        self.null_class, self.device, self.fingerprint = model.null_class, model.device, model.fingerprint
        self.blocks = model.blocks

    def predictor(self, labels: Tensor) -> Callable[[Tensor | None], Tensor]:
        predict = self.model.predictor(labels)

        def recorded(tokens: Tensor | None) -> Tensor:
            self.logits.append(predict(tokens))
            return self.logits[-1]

        return recorded

    def probabilities(self, config: Sampling, drawn: Tensor) -> Tensor:
        """What each step of the `drawn` ones (n) was drawn from at this temperature and guidance, (b steps k)."""
        logits = [logits.squeeze(1) for logits in self.logits]
        scales = [scale for scale, here in zip(guidance_scales(config, len(drawn)), drawn, strict=True) if here]
        halves = zip(logits, scales, strict=True)  # where the scale is 1 there is no unlabelled half
        guided = [x if scale == 1 else guide(*x.chunk(2), scale) for x, scale in halves]
        return torch.stack([probabilities(x, Sampling(temperature=config.temperature)) for x in guided], dim=1)


@torch.no_grad()
def test_teacher_forced_logits_and_loss(rar):
    model, io, _ = rar
    tokens, labels, orders = io["tokens"], io["labels"], io["orders"]
    close = {"atol": 1e-4, "rtol": 1e-4}  # the fixture's own
    # RAR also computes logits after the last token, which nobody uses
    torch.testing.assert_close(model(tokens, labels), io["raster_logits"][:, :-1], **close)
    nobody = torch.full_like(labels, model.null_class)
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
        drawn = torch.ones(model.tokens_per_image, dtype=torch.bool)
        torch.testing.assert_close(recorded.probabilities(config, drawn), wanted, atol=1e-4, rtol=1e-3)


def test_generation_around_kept_tokens(rar):
    model, io, meta = rar
    for share in meta["preservation"]["prob"]:
        recorded, config = Recorded(model), rar_sampling(meta["preservation"])
        tag = f"p{share}".replace(".", "p")
        keep = io[f"preserve_mask_{tag}"]
        assert torch.equal(keep, io["preserve_u"][..., 0] < share)
        tokens = sample_tokens(recorded, io["labels"], config, seed=0, keep=keep, tokens=io["tokens"])
        assert torch.equal(tokens, io[f"preserve_tokens_{tag}"])
        drawn = ~keep.all(dim=0)  # what all images keep is not predicted
        if drawn.any():
            wanted = io[f"preserve_probs_{tag}"][:, drawn]
            torch.testing.assert_close(recorded.probabilities(config, drawn), wanted, atol=1e-4, rtol=1e-3)
        else:
            assert share == 1
            assert not recorded.logits


@pytest.mark.parametrize(("file", "codes"), [("maskgit1024", 1024), ("robustok4096", 4096)])
def test_the_published_size(parity, file, codes):
    sizes = parity("rar")[0]["fullsize"]["RAR-B"]
    published = published_shapes(PARITY / "rar" / f"fullsize_keys_RAR-B_{file}.json")
    config = RAR.config_from_state({key: torch.empty(shape, device="meta") for key, shape in published.items()})
    assert (config.codebook_size, config.tokens, config.classes) == (codes, 256, 1000)
    assert (config.width, config.depth, config.heads) == (768, 24, sizes["num_attention_heads"])
    assert shapes_of(RAR, config) == published


def test_there_and_back(rar, tmp_path):
    assert (makes(rar[0]), lacking(rar[0])) == ("tokens", [])
    check_there_and_back(RAR, stored("rar"), tmp_path)


def test_presets_are_as_published(parity):
    facts = parity("rar")[0]["fullsize"]
    published = {f"{name.lower()}": facts["sampling_1d_tokenizer"][name] for name in facts["sampling_1d_tokenizer"]}
    for name in ("RAR-B", "RAR-L"):
        published[f"{name.lower()}-robustok"] = facts["sampling_RobusTok"][name]
    assert published.keys() == RAR.presets.keys()
    for name, said in published.items():
        sampling = RAR.presets[name].sampling
        assert (sampling.temperature, sampling.guidance, sampling.power) == (said["T"], said["scale"], said["pow"])
        assert str(RAR.presets[name].gfid) in str(said.get("FID") or said["gFID"])
