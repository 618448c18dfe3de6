"""Options of speed change neither what is learnt nor the names of what is kept."""

import copy
from dataclasses import replace

import pytest
import torch
from tests.training.tiny import GENERATOR, MAIN, POST, images, tokenizer

from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.layers import Block
from robustok.losses.discriminator import PatchGAN
from robustok.tokenizer.encoder import ResidualBlock, ViT, ViTEncoder
from robustok.training.decoder_stage import DecoderStage
from robustok.training.generator_training import GeneratorStage
from robustok.training.objective import Objective
from robustok.training.performance import Performance, blocks, without_performance
from robustok.training.tokenizer_training import TokenizerStage

PLAIN = Objective(perceptual=0.0, adversarial=0.0)
VIT = ViT(patch=8, latents=4, width=64, depth=2, heads=1)


def generator(performance: Performance) -> GeneratorStage:
    return GeneratorStage(replace(GENERATOR, performance=performance, precision="fp32"))


def main(performance: Performance) -> TokenizerStage:
    tokenizer = replace(
        MAIN.tokenizer, encoder=VIT, decoder=VIT, quantizer=replace(MAIN.tokenizer.quantizer, codebook_size=8)
    )
    return TokenizerStage(
        replace(MAIN, tokenizer=tokenizer, objective=PLAIN, semantic=0.0, performance=performance, precision="fp32")
    )


def post(performance: Performance) -> DecoderStage:
    return DecoderStage(replace(POST, objective=PLAIN, performance=performance, precision="fp32"), tokenizer())


def batch(stage: object) -> object:
    pictures = images().images(torch.arange(16))
    tokens = torch.arange(16 * 16).view(16, 16) % 32
    match stage:
        case GeneratorStage():
            return tokens, torch.arange(16) % 10
        case DecoderStage():
            return tokens, pictures
    return pictures


@pytest.mark.parametrize("build", [generator, main, post])
@pytest.mark.parametrize(
    "performance", [Performance(checkpointing=True), Performance(compile="eager", checkpointing=True)]
)
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of the compiler looking at what it is given
@pytest.mark.usefixtures("unchecked")  # the compiler cannot look into checks of annotations
def test_a_stage_learns_the_same_and_keeps_its_names(build, performance):
    usual, fast = build(Performance()), build(performance)
    for step in range(2):
        one, other = usual.step(batch(usual), step), fast.step(batch(fast), step)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    saved, also = usual.state_dict(), fast.state_dict()
    for part in ("optimizer", "ema"):
        assert saved[part].keys() == also[part].keys()
    torch.testing.assert_close(saved["ema"]["module"], also["ema"]["module"], rtol=1e-5, atol=1e-6)
    usual.load_state_dict(copy.deepcopy(also))


def test_checkpointing_computes_each_block_again_in_backward():
    model = AutoregressiveModel(GENERATOR.generator)
    calls = []
    for block in model.layers:
        block.attention.register_forward_hook(lambda *_: calls.append(1))
    Performance(checkpointing=True).apply([model])
    draw = model.draw(2, generator=torch.Generator())
    loss = model.loss(torch.zeros(2, 16, dtype=torch.long), torch.zeros(2, dtype=torch.long), draw)
    assert len(calls) == 2
    loss.backward()
    assert len(calls) == 4


def test_a_copy_of_a_checkpointed_model_has_blocks_of_its_own():
    model = AutoregressiveModel(GENERATOR.generator)
    Performance(checkpointing=True).apply([model])
    other = copy.deepcopy(model)
    tokens, labels = torch.zeros(2, 16, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    before = other(tokens, labels)
    torch.nn.init.zeros_(model.layers[0].mlp.fc2.weight)
    assert torch.equal(other(tokens, labels), before)


def test_blocks_are_what_a_network_is_a_row_of():
    vit, ar = ViTEncoder(VIT, 32, 8), AutoregressiveModel(GENERATOR.generator)
    dit = DiffusionTransformerModel(DiffusionTransformer(tokens=16, channels=4, classes=10, width=64, depth=3, heads=1))
    assert [type(block) for block in blocks(vit)] == [Block, Block]
    assert blocks(ar) == list(ar.layers)
    assert blocks(dit) == list(dit.blocks)
    assert {ResidualBlock} <= {type(block) for block in blocks(tokenizer().decoder)}


def test_a_run_may_be_continued_at_another_speed():
    fast = replace(GENERATOR, performance=Performance(checkpointing=True, compile="inductor", tf32=True), shard=True)
    assert without_performance(fast) == without_performance(GENERATOR)
    assert without_performance(fast)["type"] == "GeneratorTraining"
    assert "performance" not in without_performance(MAIN)


def test_the_precision_of_products_is_put_back():
    before = torch.get_float32_matmul_precision()
    with Performance(tf32=True).tf32_matmul():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_one_process_keeps_a_sharded_generator_whole():
    usual, cut = generator(Performance()), GeneratorStage(replace(GENERATOR, precision="fp32", shard=True))
    for stage in (usual, cut):
        stage.step(batch(stage), 0)
    for name, weight in cut.averaged().state_dict().items():
        assert torch.equal(weight, usual.averaged().state_dict()[name])


def test_discriminators_are_left_as_they_are():
    config = replace(
        MAIN,
        objective=replace(
            MAIN.objective, adversary=replace(MAIN.objective.adversary, discriminator=PatchGAN(width=16))
        ),
    )
    stage = TokenizerStage(replace(config, performance=Performance(compile="eager"), semantic=0.0))
    assert stage.image_loss.discriminator.model._compiled_call_impl is None
    assert stage.model.encoder._compiled_call_impl is not None


def test_a_backend_that_there_is_not_is_refused():
    with pytest.raises(
        ValueError, match="no backend 'indcutor' of torch.compile for .*; take inductor, or null for none"
    ):
        Performance(compile="indcutor").apply([torch.nn.Linear(1, 1)])
