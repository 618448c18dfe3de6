"""LlamaGen's transformer with its own weights gives its numbers, its files come back, and it learns."""

import math

import pytest
import torch
from tests.adapters.parity import PARITY, check_there_and_back, published_shapes, shapes_of, stored

from robustok.adapters.llamagen_gpt import LlamaGenGPT
from robustok.generators.llama import Llama
from robustok.generators.protocol import lacking, makes
from robustok.generators.sampling import Sampling, guide, sample_tokens

CLOSE = {"atol": 1e-4, "rtol": 1e-4}  # the fixture's own


@pytest.fixture
def gpt(parity):
    meta, io = parity("llamagen_gpt")
    config = meta["config"]
    fields = {"heads": config["n_head"], "tokens": config["block_size"]}
    return LlamaGenGPT.from_state(stored("llamagen_gpt"), **fields), io, meta


@torch.no_grad()
def test_teacher_forced_logits_and_loss(gpt):
    model, io, _ = gpt
    tokens, labels = io["tokens"], io["labels"]
    # the original also computes logits after the last token, which nobody uses
    torch.testing.assert_close(model(tokens, labels), io["teacher_forced_logits"][:, :-1], **CLOSE)
    nobody = torch.full_like(labels, model.null_class)
    torch.testing.assert_close(model(tokens, nobody), io["teacher_forced_logits_null"][:, :-1], **CLOSE)
    model.train()
    torch.testing.assert_close(model(tokens, labels), io["train_logits"], **CLOSE)


def test_loss_without_dropped_labels(gpt):
    model, io, _ = gpt
    fields = {"heads": model.config.heads, "tokens": model.config.tokens, "label_dropout": 0.0}
    model = LlamaGenGPT.from_state(stored("llamagen_gpt"), **fields).train()
    loss = model.loss(io["tokens"], io["labels"], model.draw(len(io["labels"]), generator=torch.Generator()))
    torch.testing.assert_close(loss, io["train_loss"][0], **CLOSE)


@torch.no_grad()
def test_greedy_generation(gpt):
    model, io, meta = gpt
    labels = io["labels"]
    for scale in meta["generation"]["cfg_scales"]:
        tag = f"cfg{scale}".replace(".", "p")
        tokens = sample_tokens(model, labels, Sampling(top_k=1, guidance=scale), seed=0)
        assert torch.equal(tokens, io[f"greedy_tokens_{tag}"])
        predict, latest = model.predictor(torch.cat([labels, torch.full_like(labels, model.null_class)])), None
        for i in range(model.tokens_per_image):
            labelled, unlabelled = predict(latest)[:, 0].chunk(2)
            guided = guide(labelled, unlabelled, scale)
            torch.testing.assert_close(guided, io[f"greedy_logits_{tag}"][:, i], **CLOSE)
            latest = tokens[:, i : i + 1].repeat(2, 1)
    for name in (name for name in io if "_interval" in name):
        scale, interval = name.removeprefix("greedy_tokens_cfg").replace("p", ".").split("_interval")
        config = Sampling(top_k=1, guidance=float(scale), guided_steps=int(interval) + 2)
        assert torch.equal(sample_tokens(model, labels, config, seed=0), io[name])


@pytest.mark.parametrize("name", ["GPT-B", "GPT-L"])
def test_the_published_sizes(parity, name):
    size, common = (parity("llamagen_gpt")[0]["fullsize"][key] for key in (name, "common"))
    published = published_shapes(PARITY / "llamagen_gpt" / f"fullsize_keys_{name}.json")
    config = LlamaGenGPT.config_from_state({key: torch.empty(shape, device="meta") for key, shape in published.items()})
    assert (config.width, config.depth, config.heads) == (size["dim"], size["n_layer"], size["n_head"])
    assert (config.codebook_size, config.classes) == (common["vocab_size"], common["num_classes"])
    assert shapes_of(LlamaGenGPT, config) == published


def test_heads_of_every_published_width(parity):
    for name, size in parity("llamagen_gpt")[0]["fullsize"].items():
        if name.startswith("GPT-"):
            with torch.device("meta"):
                hidden = math.ceil(int(8 * size["dim"] / 3) / 256) * 256
                config = Llama(width=size["dim"], depth=1, heads=size["n_head"], hidden=hidden)
                state = LlamaGenGPT(config).to_state()
            assert LlamaGenGPT.config_from_state(state) == config
    with torch.device("meta"):
        state = LlamaGenGPT(Llama(width=96, depth=1, heads=2, hidden=32)).to_state()
    with pytest.raises(ValueError, match="weights 96 wide do not tell their attention heads; pass heads, a divisor"):
        LlamaGenGPT.config_from_state(state)


def test_there_and_back(gpt, tmp_path):
    model, *_ = gpt
    assert (makes(model), lacking(model)) == ("tokens", [])
    fields = {"heads": model.config.heads, "tokens": model.config.tokens}
    check_there_and_back(LlamaGenGPT, stored("llamagen_gpt"), tmp_path, **fields)
    old = stored("llamagen_gpt") | {"freqs_cis": torch.randn(17, 8, 2)}
    torch.save(old, tmp_path / "old.pt")
    LlamaGenGPT.from_checkpoint(tmp_path / "old.pt", **fields).to_checkpoint(tmp_path / "new.pt")
    new = torch.load(tmp_path / "new.pt", weights_only=True)
    assert list(new) == list(old)
    assert all(torch.equal(new[name], weight) for name, weight in old.items())


def test_a_files_name_tells_its_pixels(tmp_path):
    config = Llama(codebook_size=5, tokens=16, classes=2, width=32, depth=1, heads=2, hidden=32)
    LlamaGenGPT(config).to_checkpoint(tmp_path / "c2i_S_64.pt")
    assert torch.load(tmp_path / "c2i_S_64.pt", weights_only=True).keys() == {"model"}
    assert LlamaGenGPT.from_checkpoint(tmp_path / "c2i_S_64.pt", heads=2).config == config
    assert LlamaGenGPT.from_checkpoint(tmp_path / "c2i_S_64.pt", heads=2, tokens=9).tokens_per_image == 9
    with pytest.raises(ValueError, match="15 tokens do not form a square; LlamaGen's positions need one, such as 256"):
        LlamaGenGPT.from_checkpoint(tmp_path / "c2i_S_64.pt", heads=2, tokens=15)


def test_it_learns_what_each_class_looks_like():
    torch.manual_seed(0)
    config = Llama(codebook_size=7, tokens=9, classes=3, width=32, depth=2, heads=2, hidden=64)
    model = LlamaGenGPT(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    looks, labels = torch.randint(7, (3, 9)), torch.arange(24) % 3
    first = model.loss(looks[labels], labels, model.draw(len(labels), generator=torch.Generator().manual_seed(0)))
    assert first.item() == pytest.approx(math.log(7))  # the head starts at zero
    for step in range(120):
        loss = model.loss(looks[labels], labels, model.draw(len(labels), generator=torch.Generator().manual_seed(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(sample_tokens(model, torch.arange(3), Sampling(guidance=2.0, top_k=1), seed=0), looks)
