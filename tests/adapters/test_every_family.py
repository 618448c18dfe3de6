"""What robustok does to tokenizers, done to those of each family: scored, perturbed, post-trained, exported."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.training.tiny import MAIN, POST, coarse, extract, images

import robustok
from robustok.adapters import recognized
from robustok.adapters.files import read_checkpoint
from robustok.adapters.llamagen_vq import LlamaGenVQ, LlamaGenVQConfig
from robustok.adapters.maetok import MAETok, MAETokConfig
from robustok.adapters.maskgit import MaskGITVQGAN, MaskGITVQGANConfig
from robustok.adapters.robustok_vit import RobusTokConfig, RobusTokViT
from robustok.adapters.titok import Proxy, TiTok, TiTokConfig
from robustok.adapters.var_vq import Codes, VARTokenizer, VARTokenizerConfig
from robustok.adapters.vit import Transformer
from robustok.adapters.vqgan import VQGAN
from robustok.data.latent_cache import encode_images
from robustok.data.pairs import make_pairs
from robustok.evaluation.features.extractor import CustomExtractor
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.generators.sampling import Sampling
from robustok.runtime.seeding import stream
from robustok.tokenizer.perturbation import NeighborTable, Perturbation
from robustok.tokenizer.protocol import as_module, codebook_of
from robustok.training.decoder_stage import train_decoder
from robustok.training.held_out import HeldOut
from robustok.training.tokenizer_training import TokenizerStage

SIDE, CODES = 32, 24
NETWORK = VQGAN(channels=(32, 32, 32), blocks=1, latent=8, stem=32)
MASKGIT = replace(NETWORK, dialect="maskgit")
VIT = {"width": 16, "depth": 1, "heads": 2, "hidden": 32}
PARTS = ("decoder.", "pixel_decoder.")  # of a checkpoint that post-training may change


def robustok_vit() -> RobusTokViT:
    part = Transformer(**VIT)
    sizes = {"encoder": part, "decoder": part, "semantic": None, "codebook_size": CODES, "code_width": 6}
    return RobusTokViT(RobusTokConfig(image_size=SIDE, patch=8, **sizes))


def titok(proxy: Proxy | None) -> TiTok:
    part = Transformer(**VIT)
    sizes = {"encoder": part, "decoder": part, "codebook_size": CODES, "code_width": 6, "tokens": 5}
    return TiTok(TiTokConfig(image_size=SIDE, patch=8, decoder_patch=8, proxy=proxy, **sizes))


def maetok() -> MAETok:
    part = Transformer(**VIT)
    sizes = {"encoder": part, "decoder": part, "tokens": 5, "channels": 6, "rotary": 16}
    return MAETok(MAETokConfig(image_size=SIDE, patch=8, mean=0.2, std=2.0, **sizes))


MAKE: dict[str, Callable[[], Any]] = {
    "llamagen-vq": lambda: LlamaGenVQ(
        LlamaGenVQConfig(image_size=SIDE, network=NETWORK, codebook_size=CODES, code_width=4, remembered=7)
    ),
    "maskgit-vqgan": lambda: MaskGITVQGAN(MaskGITVQGANConfig(image_size=SIDE, network=MASKGIT, codebook_size=CODES)),
    "robustok": robustok_vit,
    "titok legacy": lambda: titok(Proxy(codebook_size=9, hidden=16, network=replace(MASKGIT, channels=(32,) * 4))),
    "titok": lambda: titok(None),
    "var-vq": lambda: VARTokenizer(
        VARTokenizerConfig(
            network=NETWORK, codes=Codes(scales=(1, 2, 4, 8), codebook_size=CODES, width=8), remembered=4
        )
    ),
    "maetok": maetok,
}
DISCRETE = [name for name in MAKE if name != "maetok"]


def made(name: str) -> Any:
    """Transformers' weights far from where they start, which is where all images come out alike."""
    torch.manual_seed(0)
    model = MAKE[name]().eval()
    if name in ("robustok", "titok legacy", "titok", "maetok"):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.25)
    if name == "titok legacy":
        model.decoder.head.codes.normal_()  # the proxy's codes are no parameters
    return model


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_it_is_a_tokenizer_as_robustok_knows_them(name):
    tokenizer = made(name)
    assert (codebook_of(as_module(tokenizer)) is not None) == (name in DISCRETE)
    batch = images().images(torch.arange(3))
    latents = tokenizer.encode(batch)
    if name in DISCRETE:
        quantized = tokenizer.quantize(latents)
        assert quantized.tokens.shape == (3, tokenizer.tokens_per_image)
        torch.testing.assert_close(tokenizer.lookup(quantized.tokens), quantized.codes, rtol=1e-4, atol=1e-5)
        assert tokenizer.decode(quantized.codes).shape == batch.shape
    else:
        assert latents.shape[:2] == (3, tokenizer.tokens_per_image)
        assert tokenizer.decode(latents).shape == batch.shape


@pytest.mark.parametrize("name", DISCRETE)
def test_pfid_of_every_discrete_family(name):
    scores = score_tokenizer(made(name), images(12), CustomExtractor(coarse), batch_size=6)
    found = {score.metric: score.value for score in scores}
    assert math.isfinite(found["pfid"])
    assert sum(score.metric == "pfid_cell" for score in scores) == 15


@pytest.mark.parametrize("name", DISCRETE)
def test_main_training_with_perturbation_of_every_discrete_family(name, tmp_path):
    given = made(name)
    config = replace(
        MAIN, tokenizer=None, perturbation=Perturbation(alpha=1.0, beta=1.0, delta=3), semantic=0.0, precision="fp32"
    )
    stage = TokenizerStage(config, tokenizer=given)
    stage.set_reference(images())
    batch = images().images(torch.arange(8))
    clean = stage.model.quantize(stage.model.encode(batch))
    # what the decoder sees: other codes than the image's own, with a gradient that reaches the encoder
    near = NeighborTable()(stage.model.codebook, 3)
    noisy = near[clean.tokens, torch.zeros_like(clean.tokens)]
    latents = stage.model.encode(batch)
    seen = stage.model.straight_through(latents, stage.model.lookup(noisy))
    torch.testing.assert_close(seen, stage.model.lookup(noisy), rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(seen.square().sum(), latents)
    assert gradient.abs().sum() > 0
    for step in range(2):
        terms = stage.step(batch, step)
        assert torch.isfinite(terms["loss"])
        assert not terms["skipped"]
    before, after = given.to_state(), stage.model.to_state()
    moved = {key.split(".")[0] for key, tensor in after.items() if not torch.equal(tensor, before[key])}
    assert {"encoder", "decoder", "quantize"} <= moved
    stage.model.save_pretrained(tmp_path)
    again = robustok.load_tokenizer(tmp_path)
    assert again.fingerprint() == stage.model.fingerprint() != given.fingerprint()


@pytest.mark.parametrize("name", MAKE)
def test_post_training_changes_the_decoder_alone_and_its_export_loads_back(name, tmp_path):
    given, seen = made(name), images(32)
    cache = encode_images(given, seen, tmp_path / "cache")
    pairs = make_pairs(None, cache, tmp_path / "pairs", sigma=1.0, sampling=Sampling(), count=24, seed=0)
    if name in DISCRETE:
        shape = (32, given.tokens_per_image)
        drawn = torch.randint(CODES, shape, generator=stream(0, "drawn"))
    else:
        drawn = cache.plain(torch.arange(32)) + 0.1
    held_out = HeldOut(given, drawn, Reference.of(seen, extract()).stats, extract())
    short = replace(POST, loop=replace(POST.loop, steps=3), validate_every=1)
    result = train_decoder(short, given, pairs, seen, tmp_path / "run", held_out=held_out, quiet=True)
    assert result.step > 0  # a decoder with random weights is easily improved on
    before, after = given.to_state(), result.tokenizer.to_state()
    moved = {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}
    assert moved
    assert all(key.startswith(PARTS) for key in moved), moved
    for path in (tmp_path / "decoder.pt", tmp_path / "decoder.safetensors"):
        result.tokenizer.to_checkpoint(path)
    folder = robustok.load_tokenizer(tmp_path / "run")
    codes = given.lookup(drawn[:2]) if name in DISCRETE else drawn[:2]
    with torch.no_grad():
        torch.testing.assert_close(folder.decode(codes), result.tokenizer.decode(codes))
    for path in (tmp_path / "decoder.pt", tmp_path / "decoder.safetensors"):
        exported = read_checkpoint(path).state
        assert exported.keys() == after.keys()
        assert all(torch.equal(tensor, after[key]) for key, tensor in exported.items())


@pytest.mark.parametrize("name", MAKE)
def test_a_family_is_recognized_by_what_its_smallest_members_have_too(name):
    """One residual block a level, one layer, few levels: the names that a larger member has on top are not there."""
    model = made(name)
    state = model.to_state()
    assert recognized(state) is type(model)
    told = {"heads": 2} if name in ("robustok", "titok legacy", "titok", "maetok") else {}
    if name in ("llamagen-vq", "maskgit-vqgan"):
        told = {"image_size": SIDE}
    elif name == "var-vq":
        told = {"scales": (1, 2, 4, 8)}
    elif name == "maetok":
        told |= {"mean": 0.2, "std": 2.0}
    elif name == "titok":
        told["normalized"] = True
    assert type(model).from_state(state, **told).config == model.config


@pytest.mark.parametrize("network", [NETWORK, MASKGIT], ids=["taming", "maskgit"])
@pytest.mark.parametrize("levels", [1, 2])
def test_networks_of_few_levels_are_recognized(network, levels):
    network = replace(network, channels=network.channels[:levels])
    family: Any = MaskGITVQGAN if network.dialect == "maskgit" else LlamaGenVQ
    config = family.config_type(image_size=SIDE, network=network, codebook_size=CODES)
    state = family(config).to_state()
    assert recognized(state) is family
    assert family.from_state(state, image_size=SIDE).config == config


SEVERAL = {
    "llamagen-vq": "ema",  # its reconstruction script asks for ema, then model, then state_dict
    "robustok": "ema",
    "maetok": "ema",
    "maskgit-vqgan": "model",
}


@pytest.mark.parametrize("name", SEVERAL)
def test_of_several_weights_in_a_file_those_are_read_that_its_authors_score_and_it_is_told(name, tmp_path):
    model = made(name)
    theirs = model.to_state()
    other = {key: 0 * weight for key, weight in theirs.items()}
    held = {"model": other, "ema": other, "steps": 7} | {SEVERAL[name]: theirs}
    torch.save(held, tmp_path / "both.pt")
    told = {"heads": 2} if name in ("robustok", "maetok") else {"image_size": SIDE}
    if name == "maetok":
        told |= {"mean": 0.2, "std": 2.0}
    loaded = robustok.load_tokenizer(tmp_path / "both.pt", **told)
    assert loaded.fingerprint() == model.fingerprint()
    assert loaded.source.weights == SEVERAL[name]
    loaded.to_checkpoint(tmp_path / "again.pt")
    assert robustok.load_tokenizer(tmp_path / "again.pt", **told).fingerprint() == model.fingerprint()
    torch.save({"model": theirs}, tmp_path / "one.pt")
    assert robustok.load_tokenizer(tmp_path / "one.pt", **told).source.weights is None
