"""Which sampling a generator gets unless its user says otherwise."""

from pathlib import Path

import torch

from robustok.adapters.llamagen_gpt import LlamaGenGPT
from robustok.adapters.model_names import Source
from robustok.adapters.published_generators import default_sampling, published_generator
from robustok.adapters.rar import RAR
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.flow import FlowSampling
from robustok.generators.llama import Llama
from robustok.generators.sampling import Sampling


def gpt(source: Source | None = None) -> LlamaGenGPT:
    with torch.device("meta"):
        model = LlamaGenGPT(Llama(width=64, depth=1, heads=1, hidden=64))
    if source is not None:
        model.source = source
    return model


def test_a_published_file_is_sampled_as_published():
    known = LlamaGenGPT.presets["c2i-l-384"]
    for source in (Source(Path("c2i_L_384.pt")), Source(Path("c2i_L_384.pt"), "FoundationVision/LlamaGen", "abc")):
        assert published_generator(gpt(source)) == known
        assert default_sampling(gpt(source)) == known.sampling != Sampling()


def test_any_other_file_is_drawn_plainly():
    for source in (None, Source(Path("mine.pt")), Source(Path("c2i_L_384.pt"), "somebody/else", "abc")):
        assert published_generator(gpt(source)) is None
        assert default_sampling(gpt(source)) == Sampling()
    with torch.device("meta"):
        flow = DiffusionTransformerModel(
            DiffusionTransformer(tokens=4, channels=2, classes=3, width=64, depth=1, heads=1)
        )
    assert default_sampling(flow) == FlowSampling()


def test_a_name_that_two_files_share_tells_neither():
    shared, model = "rar_b.bin", gpt(Source(Path("rar_b.bin")))
    model.presets = RAR.presets
    assert sum(entry.weights.endswith(shared) for entry in RAR.presets.values()) == 2
    assert published_generator(model) is None
    model.source = Source(Path(shared), "qiuk6/RobusTok", "abc")
    assert published_generator(model) == RAR.presets["rar-b-robustok"]
