"""VAR predicts scale by scale as its authors' does; its files come back; it needs its tokenizer's codes and learns."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.adapters.parity import assert_as_published, published_keys, weights_file

from robustok.adapters.var import SAMPLING, VAR, VARConfig
from robustok.adapters.var_vq import SCALES_256, Codes, VARTokenizer, VARTokenizerConfig
from robustok.adapters.vqgan import VQGAN
from robustok.generators.protocol import lacking, makes
from robustok.generators.sampling import Sampling, guidance_scales, guide, probabilities, sample_tokens


def tokenizer_of(parity):
    config = parity("var_vq")[0]["config"]
    fields = {"scales": config["v_patch_nums"], "smoothing": config["quant_resi"]}
    return VARTokenizer.from_checkpoint(weights_file("var_vq"), **fields)


def loaded(parity):
    meta, io = parity("var")
    return VAR.from_checkpoint(weights_file("var"), tokenizer=tokenizer_of(parity)), io, meta


def tokens_of(io, meta):
    return torch.cat([io[f"codes_scale{i}"] for i in range(len(meta["config"]["patch_nums"]))], dim=1)


def small(**fields):
    torch.manual_seed(0)
    codes = Codes(scales=(1, 2, 3), codebook_size=12, width=4)
    network = VQGAN(channels=(32, 32), blocks=1, latent=4, stem=32)
    tokenizer = VARTokenizer(VARTokenizerConfig(network=network, codes=codes)).eval()
    return VAR.beside(tokenizer, **({"width": 64, "depth": 2, "classes": 3} | fields)), tokenizer


@torch.no_grad()
def test_teacher_forced_logits(parity):
    model, io, meta = loaded(parity)
    tokens = tokens_of(io, meta)
    assert_as_published(model.quantizer.next_inputs(tokens), io, meta, "teacher_input")
    assert_as_published(model(tokens, io["labels"]), io, meta, "teacher_forced_logits")
    config = meta["config"]
    assert (makes(model), lacking(model)) == ("tokens", [])
    assert model.blocks == tuple(side**2 for side in config["patch_nums"])
    assert (model.tokens_per_image, model.null_class) == (tokens.shape[1], config["num_classes"])
    assert (model.config.heads, model.config.depth) == (config["num_heads"], config["depth"])


@torch.no_grad()
def test_greedy_generation(parity):
    model, io, meta = loaded(parity)
    labels, tokenizer = io["labels"], tokenizer_of(parity)
    for cfg in meta["generation"]["cfg"]:
        tag = f"cfg{cfg}".replace(".", "p")
        config = Sampling(top_k=1, guidance=1 + cfg, schedule="ramp")
        tokens = sample_tokens(model, labels, config, seed=0)
        assert torch.equal(tokens, io[f"gen_tokens_{tag}"])
        predict, latest, seen = (
            model.predictor(torch.cat([labels, torch.full_like(labels, model.null_class)])),
            None,
            [],
        )
        for scale, part in zip(guidance_scales(config, len(model.blocks)), tokens.split(model.blocks, 1), strict=True):
            guided = guide(*predict(latest).flatten(0, 1).chunk(2), scale)
            seen.append(guided.softmax(dim=1).unflatten(0, part.shape))
            latest = part.repeat(2, 1)
        assert_as_published(torch.cat(seen, dim=1), io, meta, f"gen_probs_{tag}")
        images = (tokenizer.decode(tokenizer.lookup(tokens)).clamp(-1, 1) + 1) / 2
        assert_as_published(images, io, meta, f"gen_image_{tag}")


def test_filters(parity):
    meta, io = parity("var")
    logits = io["filter_logits"].flatten(0, 1)
    for name in (name for name in io if name.startswith("filter_top")):
        limits = dict(_limit(part) for part in name.split("_")[1:])
        kept = probabilities(logits, Sampling(**limits)) > 0
        assert_as_published(kept.view_as(io[name]), io, meta, name)


def _limit(part):
    """("top_k", 5) of "topk5", ("top_p", 0.8) of "topp0p8"."""
    kind, number = part[:4], part[4:].replace("p", ".")
    return ("top_k", int(number)) if kind == "topk" else ("top_p", float(number))


def test_a_file_comes_back_bit_by_bit(parity, tmp_path):
    model, _, _ = loaded(parity)
    theirs = load_file(weights_file("var"))
    torch.save(theirs, tmp_path / "var.pth")  # as published; its mask holds minus infinity
    again = VAR.from_checkpoint(tmp_path / "var.pth", tokenizer=tokenizer_of(parity))
    again.to_checkpoint(tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back) == list(theirs)
    assert all(torch.equal(back[name], theirs[name]) and back[name].dtype == theirs[name].dtype for name in theirs)
    again.save_pretrained(tmp_path / "folder")
    whole = VAR.from_pretrained(tmp_path / "folder")  # needs no tokenizer any more
    assert (whole.config, whole.fingerprint()) == (model.config, model.fingerprint())
    whole.to_checkpoint(tmp_path / "back.safetensors")
    assert load_file(tmp_path / "back.safetensors").keys() == theirs.keys()


def test_the_published_model_fits(parity):
    published = parity("var")[0]["fullsize"]["var_d{N}"]
    tokenizer = VARTokenizer.from_state(*published_keys("var_vq").values())
    for name, keys in published_keys("var").items():
        model = VAR.from_state(keys, tokenizer=tokenizer, scales=published["patch_nums"])
        ours = {name: (weight.shape, weight.dtype) for name, weight in model.to_state().items()}
        assert ours == {name: (weight.shape, weight.dtype) for name, weight in keys.items()}
        depth = int(name.rpartition("_d")[2])
        assert (model.config.depth, model.config.heads, model.config.width) == (depth, depth, 64 * depth)
        assert model.config == VARConfig() or depth != 16
        assert model.tokens_per_image == 680


@pytest.mark.parametrize("fields", [{"shared": True}, {"normalized": False}], ids=str)
@torch.no_grad()
def test_variants_predict_alike_at_once_and_scale_by_scale(fields, tmp_path):
    model, tokenizer = small(**fields)
    for weight in model.parameters():  # gates start at zero, which would hide a mistake
        weight += 0.05 * torch.randn(weight.shape)
    state = {name: weight.clone() for name, weight in model.to_state().items()}
    save_file(state, tmp_path / "var.safetensors")
    model.quantizer.load_state_dict(tokenizer.quantizer.state_dict())
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    again = VAR.from_checkpoint(tmp_path / "var.safetensors", tokenizer=tokenizer)
    assert again.config == model.config
    tokens = torch.randint(12, (2, 14), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3])
    at_once = again(tokens, labels)
    predict, seen = model.predictor(labels), []
    for latest in (None, *tokens.split(model.blocks, dim=1)[:-1]):
        seen.append(predict(latest))
    torch.testing.assert_close(torch.cat(seen, dim=1), at_once)
    changed = tokens.clone()
    changed[:, 5:] = (tokens[:, 5:] + 1) % 12  # the last scale: none sees it
    assert torch.equal(again(changed, labels), at_once)


def test_guidance_of_the_authors_is_ours():
    """(1 + t) labelled - t unlabelled, t rising from 0 to their cfg; 1.5 in the presets."""
    labelled, unlabelled = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    scales = guidance_scales(SAMPLING, 4)
    for i, scale in enumerate(scales):
        t = 1.5 * i / 3
        torch.testing.assert_close(guide(labelled, unlabelled, scale), (1 + t) * labelled - t * unlabelled)
    assert all(preset.sampling == SAMPLING for preset in VAR.presets.values())


def test_it_learns_and_its_codes_stay():
    model, tokenizer = small(label_dropout=0.5)
    tokens = torch.randint(12, (4, 14), generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0])
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=3e-3)
    losses = []
    for _ in range(30):
        loss = model.loss(tokens, labels, model.draw(len(labels), generator=torch.Generator().manual_seed(2)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(12), abs=0.5)
    assert losses[-1] < losses[0] / 2
    assert torch.equal(model.quantizer.embedding, tokenizer.quantizer.embedding)
    nobody = torch.full_like(labels, model.null_class)
    generator = torch.Generator().manual_seed(2)
    withheld = torch.rand(4, generator=generator) < 0.5
    logits = model(tokens, torch.where(withheld, nobody, labels))
    same = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    torch.testing.assert_close(
        model.loss(tokens, labels, model.draw(len(labels), generator=torch.Generator().manual_seed(2))), same
    )


def test_samples_keep_what_is_saved_state():
    model, _ = small()
    labels, tokens = torch.tensor([0, 2]), torch.randint(12, (2, 14), generator=torch.Generator().manual_seed(3))
    keep = torch.rand(2, 14, generator=torch.Generator().manual_seed(4)) < 0.5
    drawn = sample_tokens(model, labels, SAMPLING, seed=0, keep=keep, tokens=tokens)
    assert torch.equal(drawn[keep], tokens[keep])
    assert not torch.equal(drawn, tokens)


def test_the_tokenizer_may_be_named(parity, tmp_path):
    model, _, _ = loaded(parity)
    named = VAR.from_checkpoint(weights_file("var"), tokenizer=weights_file("var_vq"))
    assert named.fingerprint() == model.fingerprint()
    with pytest.raises(ValueError, match=r"is no checkpoint of var-vq: this looks like var"):
        VAR.from_checkpoint(weights_file("var"), tokenizer=weights_file("var"))


def test_refusals(parity):
    with pytest.raises(
        ValueError, match=r"which its own files lack; pass tokenizer=, a VARTokenizer or its file vae_ch"
    ):
        VAR.from_checkpoint(weights_file("var"))
    other = VARTokenizer.from_checkpoint(weights_file("var_vq"), scales=SCALES_256)
    with pytest.raises(
        ValueError, match=r"maps with sides \(1, 2, 3.* and the tokenizer makes \(1, 2, 3, 4, 5, 6,.*load"
    ):
        VAR.from_checkpoint(weights_file("var"), tokenizer=other)
    state = load_file(weights_file("var"))
    state["lvl_1L"] = torch.tensor([[0, 1, 1, 1]])
    with pytest.raises(ValueError, match=r"lvl_1L tells of scales of \[1, 3\] tokens, which form no square maps"):
        VAR.from_state(state, tokenizer=tokenizer_of(parity))
    state = load_file(weights_file("var"))
    del state["head.bias"]
    with pytest.raises(ValueError, match=r"no checkpoint of var: 1 keys missing \(head.bias\)"):
        VAR.from_state(state, tokenizer=tokenizer_of(parity))
