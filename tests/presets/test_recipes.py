"""The full-scale runs: sizes as published, all build without memory, all train in the small, their table is theirs."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.parity import PARITY, published_shapes
from tests.training.tiny import cache as tiny_tokens
from tests.training.tiny import images

from robustok.adapters.robustok_vit import RobusTokConfig, RobusTokViT
from robustok.backbones.dino import DINOv2
from robustok.cli.post_train import PostTrain
from robustok.cli.train_generator import TrainGenerator
from robustok.cli.train_tokenizer import TrainTokenizer
from robustok.data.loading import cached_batch, training_batch
from robustok.generators.autoregressive import Autoregressive
from robustok.generators.diffusion_transformer import DiffusionTransformer
from robustok.generators.llama import Llama
from robustok.generators.masked import Masked
from robustok.names import scaled
from robustok.presets import recipes
from robustok.presets.decoders import post_robustok
from robustok.presets.generators import rar_b, rar_l
from robustok.presets.recipes import DECODERS, GENERATORS, TOKENIZERS, recipe, recipes_table, trained_parameters
from robustok.presets.tokenizers import robustok_imagenet256
from robustok.runtime.configs import from_plain, to_plain
from robustok.tokenizer.autoencoder import AutoencoderConfig
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig
from robustok.training.decoder_stage import DecoderStage
from robustok.training.generator_training import GeneratorStage, build_generator
from robustok.training.objective import Objective
from robustok.training.pretrained import discriminator, perceptual_network, semantic_teacher
from robustok.training.tokenizer_training import TokenizerStage

ALL = TOKENIZERS | GENERATORS | DECODERS
DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"
STEPS = 10


def untrained(config: Any) -> Any:
    """The same with random weights wherever published ones would be read."""
    plain = to_plain(config)

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: changed(part) for name, part in value.items()}
        return "random" if value == "published" else value

    return from_plain(type(config), changed(plain))


@pytest.mark.parametrize(
    ("name", "published"),
    [("llamagen_b", 111), ("llamagen_l", 343), ("sit_xl", 675), ("lightningdit_xl", 675)],
)
def test_sizes_of_generators_are_as_published(name: str, published: int):
    """In millions, as the papers round them."""
    assert round(trained_parameters(GENERATORS[name]("paper")) / 1e6) == published


@pytest.mark.parametrize(("make", "published"), [(rar_b, 261), (rar_l, 461)])
def test_sizes_of_rar_are_as_published_for_its_own_tokens(make: Any, published: int):
    """The published counts are with the 1024 codes of MaskGIT-VQGAN, and with rows of tables that nothing uses."""
    config = make("paper")
    on_maskgit = replace(config, generator=replace(config.generator, codebook_size=1024))
    unused = 1 + (1024 - 2) + 1024 + (100 - 1)  # mask token, positions, targets, steps; see robustok.adapters.rar
    assert (trained_parameters(on_maskgit) + unused * config.generator.width) // 10**6 in (published, published - 1)


def test_rar_b_on_robustok_is_the_published_file():
    path = PARITY / "rar" / "fullsize_keys_RAR-B_robustok4096.json"
    if not path.is_file():
        pytest.skip(f"no parity fixture {path}; set ROBUSTOK_PARITY to the folder that holds rar")
    in_file = sum(torch.Size(shape).numel() for shape in published_shapes(path).values())
    assert trained_parameters(rar_b()) == in_file - (1 + 1022 + 1024 + 99) * 768


def test_size_of_the_tokenizer_is_that_of_the_released_one():
    """But for the rows of two position tables that stand for the class token, which our class token contains."""
    with torch.device("meta"):
        released = RobusTokViT(RobusTokConfig(semantic=None))
    theirs = sum(weight.numel() for weight in released.parameters())
    assert trained_parameters(robustok_imagenet256()) == theirs - 2 * 768
    assert round(theirs / 1e6) == 172


@cache
def built(part: Any) -> None:
    """Build what a part of a config is of, without memory; runs share many parts."""
    with torch.device("meta"):
        match part:
            case Objective():
                perceptual_network(part.network, part.perceptual_stages, part.perceptual_size)
                discriminator(part.adversary.discriminator)
            case DINOv2():
                semantic_teacher(part)
            case TokenizerConfig() | AutoencoderConfig():
                recipes.build(part)
            case Autoregressive() | Llama() | Masked() | DiffusionTransformer():
                build_generator(part)
            case _:
                raise AssertionError(part)


@pytest.mark.parametrize("name", scaled(tuple(ALL)))
def test_every_run_builds_without_memory(name: str):
    config = untrained(recipe(name, ALL))
    stage = getattr(config, "post", config)
    for part in ("tokenizer", "generator", "objective", "teacher", "start"):
        if getattr(stage, part, None) is not None and (part != "teacher" or stage.has_codebook):
            built(getattr(stage, part))
    assert from_plain(type(config), to_plain(config)) == config


def losses(stage: Any, batches: Any) -> list[float]:
    found = [stage.step(batches(step), step) for step in range(STEPS)]
    assert all(terms["skipped"] == 0 for terms in found)
    return [float(terms["loss"]) for terms in found]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_smoke_twins_of_main_training_train(name: str):
    config, pictures = recipe(f"{name}-smoke", TOKENIZERS), images(64)
    stage = TokenizerStage(config)
    stage.set_reference(pictures)
    assert stage.image_loss.discriminator is not None
    before = [weight.clone() for weight in stage.image_loss.discriminator.model.parameters()]
    assert all(map(math.isfinite, losses(stage, lambda step: training_batch(pictures, 16, 0, step))))
    after = stage.image_loss.discriminator.model.parameters()
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("name", GENERATORS)
def test_smoke_twins_of_generators_train(name: str, tmp_path: Path):
    config = recipe(f"{name}-smoke", GENERATORS)
    if isinstance(config.generator, DiffusionTransformer):
        n, d = config.generator.tokens, config.generator.channels
        latents = torch.randn(64, n, d, generator=torch.Generator().manual_seed(0))
        batches = lambda step: (latents[:16], torch.arange(16) % 10)  # noqa: E731
    else:
        tokens = tiny_tokens(tmp_path)
        batches = lambda step: cached_batch(tokens, 16, 0, step)  # noqa: E731
    assert all(map(math.isfinite, losses(GeneratorStage(config), batches)))


@pytest.mark.parametrize("name", DECODERS)
def test_smoke_twins_of_post_training_train(name: str):
    config, pictures = recipe(f"{name}-smoke", DECODERS), images(32)
    tokenizer = Tokenizer(robustok_imagenet256("smoke").tokenizer).eval()
    stage = DecoderStage(config, tokenizer, "cpu")
    tokens = torch.randint(64, (32, 16), generator=torch.Generator().manual_seed(0))
    real = pictures.images(torch.arange(32))
    stage.image_loss.set_reference(pictures)
    assert all(map(math.isfinite, losses(stage, lambda step: (tokens[:16], real[:16]))))


@pytest.mark.parametrize("name", [name for name in scaled(tuple(ALL)) if name.endswith("one_gpu")])
def test_on_one_gpu_the_batch_is_the_papers_in_parts(name: str):
    paper, one = (recipe(n, ALL) for n in (name.removesuffix("-one_gpu"), name))
    parts = one.optim.micro_batches
    assert parts > 1
    assert paper.loop.batch_size % parts == 0
    assert replace(one, optim=replace(one.optim, micro_batches=1), performance=paper.performance) == paper


def test_the_paper_s_schedule():
    config = robustok_imagenet256()
    steps = config.loop.steps
    assert steps == 200 * 1251
    assert config.perturbation.at(40 / 200) == (1.0, 100)
    assert config.perturbation.at(120 / 200) == (0.5, 50)
    assert config.objective.adversary.gan_start * 200 == pytest.approx(56)
    assert post_robustok().loop.steps == 40 * (200_000 // 1024)


def test_ablations_differ_in_what_they_are_named_after():
    full = to_plain(robustok_imagenet256())
    for name, changes in {
        "robustok_unperturbed": {"beta": 0.0},
        "robustok_unannealed": {"final_fraction": 1.0},
        "robustok_beta_half": {"beta": 0.5, "final_fraction": 1.0},
        "robustok_annealed_to_zero": {"final_fraction": 0.0},
    }.items():
        assert to_plain(TOKENIZERS[name]("paper")) == full | {"perturbation": full["perturbation"] | changes}


def test_the_table_of_the_docs_is_that_of_the_presets():
    assert recipes_table() in DOCS.read_text(encoding="utf-8"), "run python -m robustok.presets.recipes for the table"


def test_the_command_line_knows_the_same_names():
    assert TrainTokenizer.start("robustok_unperturbed-one_gpu").perturbation.beta == 0
    assert TrainGenerator.start("rar_l-smoke").loop.steps == STEPS
    assert PostTrain.start("post_off_the_shelf").sigma == "auto"


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="there is no run 'rar_xl'; there are rar_b, rar_b-one_gpu, rar_b-smoke"):
        recipe("rar_xl", GENERATORS)
