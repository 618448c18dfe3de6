"""TiTok's masked generators beside their authors' code: logits, drawn tokens, files there and back; post-training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from tests.adapters.parity import check_there_and_back
from tests.adapters.test_every_family import CODES, PARTS, made
from tests.training.tiny import POST, extract, images
from torch import Tensor

import robustok
from robustok.adapters.files import read_checkpoint
from robustok.adapters.model_names import Source
from robustok.adapters.published_generators import default_sampling, published_generator
from robustok.adapters.rar import RAR
from robustok.adapters.titok_generators import TiTokBERT, TiTokGenerator, TiTokUViT
from robustok.generators import sampling as sampling_module
from robustok.generators.autoregressive import Autoregressive
from robustok.generators.fit import check_fit
from robustok.generators.masked import Masked
from robustok.generators.protocol import lacking, makes
from robustok.generators.unmasking import MaskedSampling, masked_after, sample_masked
from robustok.presets.defaults import post_training_for
from robustok.training import held_out

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
FAMILIES = {"ImageBert": TiTokBERT, "UViTBert": TiTokUViT}
BOTH = pytest.mark.parametrize("kind", FAMILIES)
TINY = {"codebook_size": CODES, "tokens": 5, "classes": 10, "width": 32, "heads": 2, "mlp_ratio": 2.0}


class Peer(NamedTuple):
    """What `titok_peer.py` wrote."""

    family: type[TiTokGenerator]
    weights: dict[str, Tensor]
    io: dict[str, Tensor]
    sizes: dict[str, int]
    generated: list[dict[str, Any]]  # arguments of their `generate`

    def model(self) -> TiTokGenerator:
        return self.family.from_state(self.weights, heads=self.sizes["num_attention_heads"])


def peer(kind: str) -> Peer:
    with safe_open(Path(__file__).with_name(f"titok_{kind}.safetensors"), "pt") as file:
        about, held = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {n.removeprefix("weights."): w for n, w in held.items() if n.startswith("weights.")}
    return Peer(FAMILIES[kind], weights, held, json.loads(about["sizes"]), json.loads(about["generated"]))


def ours(theirs: dict[str, Any], steps: int) -> MaskedSampling:
    """Their settings as ours."""
    how, schedule = {"mask_schedule": "arccos", "noise_on": "logits"}, theirs.get("guidance_decay", "constant")
    return MaskedSampling(
        steps=steps,
        choice_temperature=theirs["randomize_temperature"],
        guidance=theirs["guidance_scale"] + (schedule != "power-cosine"),
        schedule=schedule,
        power=theirs.get("guidance_scale_pow", 3.0),
        temperature_annealing=theirs["softmax_temperature_annealing"],
        **how,
    )


def tiny(family: type[TiTokGenerator]) -> TiTokGenerator:
    torch.manual_seed(0)
    return family(Masked(**TINY, depth=3)).eval()


@BOTH
@torch.no_grad()
def test_logits(kind):
    it = peer(kind)
    model, tokens, labels = it.model(), it.io["tokens"], it.io["labels"]
    assert (makes(model), lacking(model)) == ("tokens", [])
    torch.testing.assert_close(model.predict_masked(tokens, labels), it.io["logits"], **CLOSE)
    nobody = torch.full_like(labels, model.null_class)
    torch.testing.assert_close(model.predict_masked(tokens, nobody), it.io["logits_null"], **CLOSE)
    assert (it.io["logits"] - it.io["logits_null"]).abs().amax(dim=2).min() > 0.01  # they can tell labels apart


@BOTH
@pytest.mark.parametrize("number", range(5))
def test_drawn_tokens(kind, number, monkeypatch):
    """The same random numbers give the same tokens, in the schedules of guidance, masks, noise and temperature."""
    it = peer(kind)
    uniform, wanted = it.io[f"uniform_{number}"].double(), it.io[f"drawn_{number}"]
    assert number < len(it.generated)
    monkeypatch.setattr(sampling_module, "uniforms", lambda seed, samples, n: uniform.flatten(1)[list(samples)])
    drawn = sample_masked(it.model(), it.io["labels"], ours(it.generated[number], uniform.shape[1]), seed=0)
    assert torch.equal(drawn, wanted)


def test_settings_each_change_what_is_drawn():
    """So that the test above can tell them apart."""
    model = peer("ImageBert").model()
    labels, base = torch.arange(3), MaskedSampling(steps=6, guidance=3.0, choice_temperature=2.0)
    changes = [{}, {"mask_schedule": "arccos"}, {"noise_on": "logits"}, {"temperature_annealing": True}]
    drawn = [sample_masked(model, labels, replace(base, **change), seed=0) for change in changes]
    assert all(not torch.equal(other, drawn[0]) for other in drawn[1:])


@BOTH
def test_all_sizes_but_heads_are_in_the_weights(kind, tmp_path):
    it = peer(kind)
    sizes = it.sizes
    depth = sizes["num_hidden_layers"] + (kind == "UViTBert")
    ratio = sizes["intermediate_size"] / sizes["hidden_size"]
    how = {"codebook_size": 13, "tokens": 12, "classes": 3, "width": sizes["hidden_size"], "mlp_ratio": ratio}
    assert it.model().config == Masked(**how, depth=depth, heads=sizes["num_attention_heads"])
    with pytest.raises(ValueError, match="weights 16 wide do not tell their attention heads; pass heads"):
        it.family.from_state(it.weights)
    torch.save(it.weights, tmp_path / "pytorch_model.bin")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model": {"generator": sizes}}))
    assert robustok.load_generator(tmp_path).config.heads == 2
    config.write_text(json.dumps({"model": "something else"}))
    assert robustok.load_generator(tmp_path / "pytorch_model.bin", heads=4).config.heads == 4
    with pytest.raises(ValueError, match="heads"):
        robustok.load_generator(tmp_path / "pytorch_model.bin", heads=3)


PUBLISHED = [
    (TiTokBERT, "titok-l-32", {"tokens": 32, "width": 768, "depth": 24}, 177_202_432),
    (TiTokBERT, "titok-b-64", {"tokens": 64, "width": 768, "depth": 24}, 177_227_008),
    (TiTokUViT, "titok-s-128", {"tokens": 128, "width": 1024, "depth": 21}, 294_990_848),
]


@pytest.mark.parametrize(("family", "name", "size", "weights"), PUBLISHED)
def test_the_published_sizes(family, name, size, weights):
    """Sizes of the authors' configuration; the weights of their own classes, made with it, are as many."""
    config = Masked(codebook_size=4096, classes=1000, heads=16, **size)
    with torch.device("meta"):
        model = family(config)
    assert family.config_from_state(model.to_state()) == config
    assert sum(w.numel() for w in model.to_state().values()) == weights
    steps = model.presets[name].sampling.steps
    assert len(masked_after(config.tokens, steps, "arccos")) == steps


@BOTH
def test_there_and_back(kind, tmp_path):
    it = peer(kind)
    check_there_and_back(it.family, it.weights, tmp_path, heads=2)
    old = dict(it.weights)
    if kind == "ImageBert":
        old["model.embeddings.position_ids"] = torch.arange(13)[None]
        it.family.from_state(old, heads=2).to_checkpoint(tmp_path / "old.safetensors")
        assert TiTokBERT.from_checkpoint(tmp_path / "old.safetensors", heads=2).to_state().keys() == old.keys()


@BOTH
def test_wrong_files_say_what_they_are(kind, tmp_path):
    it, own = peer(kind), FAMILIES[kind]
    other = FAMILIES[next(name for name in FAMILIES if name != kind)]
    with pytest.raises(ValueError, match=f"no checkpoint of {other.family}: this looks like {own.family}"):
        other.from_state(it.weights, heads=2)
    rar = RAR(Autoregressive(codebook_size=5, tokens=4, classes=2, width=16, depth=1, heads=1, modulated=True))
    with pytest.raises(ValueError, match=f"no checkpoint of {own.family}: this looks like rar"):
        own.from_state(rar.to_state())
    lost = next(name for name in it.weights if "mlp.fc2" in name or "layer.1.output.dense" in name)
    with pytest.raises(ValueError, match=lost):
        own.from_state({name: w for name, w in it.weights.items() if name != lost}, heads=2)
    with pytest.raises(ValueError, match="keys missing"):
        own.from_state({name: w for name, w in it.weights.items() if name != own.places}, heads=2)
    with pytest.raises(ValueError, match="14 rows, .*13 codes, a mask, classes and no class were expected"):
        own.from_state(it.weights | {own.codes: it.weights[own.codes][:14]}, heads=2)
    with pytest.raises(ValueError, match="12 tokens of 13 codes, the tokenizer makes 5 tokens of 24 codes"):
        check_fit(it.model(), made("titok"))
    it.model().to_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="holds a generator, not a tokenizer"):
        robustok.load_tokenizer(tmp_path / "model.safetensors")


def test_a_u_vit_has_an_odd_number_of_blocks():
    with pytest.raises(ValueError, match="depth is 2; a U-ViT has as many blocks after the middle one as before it"):
        TiTokUViT(Masked(**TINY, depth=2))


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, name, *_ in PUBLISHED])
def test_published_files_are_sampled_as_published(family, name):
    model, entry = tiny(family), family.presets[name]
    size, tokens = name.removeprefix("titok-").split("-")
    assert default_sampling(model) == family.sampling != entry.sampling
    repository, torch_file = f"generator_titok_{size}{tokens}_imagenet", f"generator_titok_{size}{tokens}.bin"
    commit = Path("cache/snapshots/0123")
    for source in (
        Source(commit, f"yucornetto/{repository}", "0123"),
        Source(commit / "model.safetensors", f"yucornetto/{repository}", "0123"),
        Source(Path(repository)),
        Source(Path(repository) / "model.safetensors"),
        Source(Path(torch_file)),
        Source(commit / torch_file, "fun-research/TiTok", "0123"),
    ):
        model.source = source
        assert default_sampling(model) == entry.sampling
        assert published_generator(model).gfid == entry.gfid
    for source in (Source(commit, f"else/{repository}", "0123"), Source(Path("model.safetensors"))):
        model.source = source
        assert default_sampling(model) == family.sampling


def test_the_published_settings():
    """Of configs/infer/TiTok and sample_imagenet_titok.py."""
    theirs = {
        "titok-l-32": (8, {"randomize_temperature": 9.5, "guidance_scale": 4.5, "guidance_decay": "linear"}, 2.77),
        "titok-b-64": (8, {"randomize_temperature": 11.0, "guidance_scale": 3.0, "guidance_decay": "linear"}, 2.48),
        "titok-s-128": (
            64,
            {"randomize_temperature": 2.8, "guidance_scale": 6.9, "guidance_decay": "power-cosine"},
            1.97,
        ),
    }
    presets = TiTokBERT.presets | TiTokUViT.presets
    assert presets.keys() == {*theirs, *(f"{name}-torch" for name in theirs)}
    for name, (steps, how, gfid) in theirs.items():
        wanted = ours(how | {"softmax_temperature_annealing": True}, steps)
        wanted = wanted if wanted.schedule == "power-cosine" else replace(wanted, power=1.0)  # which asks for none
        for entry in (presets[name], presets[f"{name}-torch"]):
            assert (entry.sampling, entry.gfid) == (wanted, gfid)


@pytest.mark.parametrize("family", FAMILIES.values())
def test_a_sample_depends_on_its_seed_and_number_alone(family):
    model, labels = tiny(family), torch.arange(5) % 2
    for weight in model.parameters():
        weight.data *= 5
    how = replace(next(iter(family.presets.values())).sampling, steps=4)
    whole = sample_masked(model, labels, how, seed=5)
    parts = [sample_masked(model, labels[i : i + 2], how, seed=5, first=i, batch_size=1) for i in range(0, 5, 2)]
    assert torch.equal(torch.cat(parts), whole)
    keep = torch.rand(5, 5, generator=torch.Generator().manual_seed(1)) < torch.arange(5)[:, None] / 4
    kept = sample_masked(model, labels, how, seed=6, keep=keep, tokens=whole)
    assert torch.equal(kept[keep], whole[keep])
    assert not torch.equal(kept, whole)


@pytest.mark.parametrize("family", FAMILIES.values())
def test_it_learns(family):
    model, tokens, labels = tiny(family).train(), torch.arange(5).repeat(8, 1), torch.arange(8) % 2
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for step in range(12):
        loss = model.loss(tokens, labels, model.draw(8, generator=torch.Generator().manual_seed(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("family", FAMILIES.values())
def test_post_training_of_a_titok_s_decoder_for_its_generator(family, tmp_path, monkeypatch):
    """From files, by the functions that a user calls: load, sample, post-train, and write back."""
    monkeypatch.setattr(held_out, "SURE", 0.0)  # standard errors; eight images tell no decoder from chance
    made("titok legacy").save_pretrained(tmp_path / "titok")
    tiny(family).to_checkpoint(tmp_path / "generator.bin")
    tokenizer = robustok.load_tokenizer(tmp_path / "titok")
    generator = robustok.load_generator(tmp_path / "generator.bin", tokenizer=tokenizer, heads=2)
    assert robustok.sample(generator, tokenizer, [0, 1, 1], steps=3, guidance=2.0).shape == (3, 3, 32, 32)
    chosen = post_training_for(tokenizer, generator, 32)
    assert (chosen.sampling, chosen.sigma) == (family.sampling, "auto")
    generator.source = Source(Path(next(iter(family.presets.values())).weights.rpartition("/")[2]))
    published = default_sampling(generator)
    assert post_training_for(tokenizer, generator, 32).sampling == published != family.sampling
    config = replace(POST, loop=replace(POST.loop, steps=3), validate_every=1, sampling=replace(published, steps=3))
    how = {"sigma": 0.6, "pairs": 16, "held_out": 8, "features": extract()}
    better = robustok.post_train(tokenizer, generator, images(32), tmp_path / "run", config=config, **how)
    better.to_checkpoint(tmp_path / "tuned.safetensors")
    before, after = tokenizer.to_state(), read_checkpoint(tmp_path / "tuned.safetensors").state
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert moved
    assert all(name.startswith(PARTS) for name in moved)
