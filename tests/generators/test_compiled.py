"""Compiled sampling: the plain tokens, one graph for all steps and batches, on a GPU one that never waits or moves."""

import gc
import os
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.generators.test_sampling import Markov, build
from tests.standin import NAME, needed, setup
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from robustok import inference, layers
from robustok.generators import autoregressive, compiled, static_memory
from robustok.generators.generate import sample
from robustok.generators.masked import Masked, MaskedModel
from robustok.generators.sampling import Sampling, sample_tokens
from robustok.generators.unmasking import MaskedSampling

KINDS = ["plain", "modulated", "llama"]
LABELS = torch.arange(5) % 3
GUIDED = Sampling(guidance=3.0, schedule="power-cosine", temperature=0.9, top_k=7)
TRANSLATED = "eager"  # the backend that runs what was traced, operation by operation, without a C++ compiler


@pytest.fixture(autouse=True)
def fresh(unchecked: None) -> Iterator[None]:  # the compiler cannot look into checks of annotations
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The step runs as it is written; the list tells which backend was asked for on which device."""
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(compiled, "_compiled", lambda *how: (asked.append(how), compiled._step)[1])
    return asked


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that only a CPU does; oneDNN may round elsewhere than torch does, too."""
    monkeypatch.setattr(inference, "_can_pack", lambda dtype: False)
    monkeypatch.setattr(static_memory, "reads_filled_alone", lambda device: False)


def graphs() -> int:
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_the_plain_ones_by_one_graph(kind, as_on_a_gpu):
    moving: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        """Runs what was traced as it is, and notes what a CUDA graph would have to copy before every replay."""
        read = [node for node in graph.graph.nodes if node.op == "placeholder"]
        moving.extend(n.name for n in read if "_dynamo_static_input_type" not in n.meta.get("tensor_dict", {}))
        return graph.forward

    how: Any = {"compile": backend, "batch_size": 3}  # of the last two images one is not asked for
    model = build(kind)
    n, random = model.tokens_per_image, torch.Generator().manual_seed(3)
    keep, given = torch.rand(5, n, generator=random) < 0.5, torch.randint(9, (5, n), generator=random)
    later = replace(GUIDED, guidance=5.0, temperature=1.1, guided_steps=9)
    calls: list[dict[str, Any]] = [
        {"labels": LABELS, "config": GUIDED, "seed": 7},
        {"labels": LABELS.flip(0), "config": later, "seed": 8, "first": 3},
        {"labels": LABELS, "config": GUIDED, "seed": 7, "keep": keep, "tokens": given},
    ]
    for call in calls:
        wanted = sample_tokens(model, **call)
        assert torch.equal(sample_tokens(model, **call, **how), wanted)
    assert graphs() == 1
    wanted = sample_tokens(model, LABELS, Sampling(), seed=1)
    assert len(wanted.unique()) > 5
    with torch._dynamo.config.patch(recompile_limit=1):  # that of torch is for one function of one model
        assert torch.equal(sample_tokens(model, LABELS, Sampling(), seed=1, **how), wanted)
    assert graphs() == 2  # half as many rows, for none is guided
    assert not moving


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_cpu_one_graph_reads_packed_weights_and_filled_positions_alone(kind, half, monkeypatch):
    monkeypatch.setattr(static_memory, "reads_filled_alone", lambda device: True)
    found: list[dict[str, int]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        called = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        found.append({name: sum(name in target for target in called) for name in ("packed_linear", "attend_filled")})
        assert not any("linear" in target and "packed" not in target for target in called)
        return graph.forward

    if not inference._can_pack(torch.bfloat16 if half else torch.float32):
        pytest.skip("oneDNN does not multiply this number format here")
    model, how = build(kind).requires_grad_(False), {"compile": backend, "batch_size": 3}
    for sign in (1, -1):  # weights that change are seen by the next batch
        model.head.weight *= sign
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            wanted = sample_tokens(model, LABELS, GUIDED, seed=7)
            drawn = sample_tokens(model, LABELS, GUIDED, seed=7, **how)
        assert (drawn == wanted).float().mean() > (0.8 if half else 0.99)  # rounding decides few draws, if any
    maps = sum(isinstance(part, nn.Linear) for name, part in model.named_modules() if "modulation" not in name)
    assert found == [{"packed_linear": maps, "attend_filled": len(model.layers)}]
    assert graphs() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_cast_once_a_batch_and_follows_the_weights(kind, uncompiled, as_on_a_gpu, monkeypatch):
    monkeypatch.setattr(layers, "has_amx", lambda: False)  # its kernel rounds elsewhere than products do
    model = build(kind).requires_grad_(False)
    for sign in (1, -1):
        model.head.weight *= sign
        with torch.autocast("cpu", torch.bfloat16):
            wanted = sample_tokens(model, LABELS, GUIDED, seed=7)
            assert torch.equal(sample_tokens(model, LABELS, GUIDED, seed=7, compile="inductor"), wanted)
    held = compiled.memory_of(model).held
    assert held["head.weight"].dtype == held["keys 0"].dtype == torch.bfloat16
    assert set(uncompiled) == {("inductor", "cpu")}


@pytest.mark.parametrize("kind", KINDS)
def test_memory_stays_where_it_is_as_long_as_the_model_lives(kind, uncompiled):
    model = build(kind)
    memory, where = weakref.ref(compiled.memory_of(model)), []
    for seed in (0, 1):
        sample_tokens(model, LABELS, GUIDED, seed=seed, compile=TRANSLATED, batch_size=2)
        where.append({name: held.data_ptr() for name, held in memory().held.items()})
    assert where[0] == where[1]
    assert {"keys 1", "values 1", "tokens", "at"} <= set(where[0])
    del model
    gc.collect()
    assert memory() is None


@pytest.mark.parametrize("rows", [1, 12, 512])
def test_modulations_are_computed_some_tokens_ahead(rows, uncompiled, monkeypatch):
    monkeypatch.setattr(autoregressive._Modulations, "rows", rows)
    model, length = build("modulated"), {1: 2, 12: 3, 512: 128}[rows]  # positions, for three classes and none
    for labels in (LABELS, torch.zeros(5).long()):
        wanted = sample_tokens(model, labels, GUIDED, seed=7)
        assert torch.equal(sample_tokens(model, labels, GUIDED, seed=7, compile=TRANSLATED), wanted)
        assert compiled.memory_of(model).held["modulation 0"].shape == (4, length, 6 * 16)


def test_few_images_are_filled_up_to_a_size_that_is_compiled(uncompiled):
    model = build("plain")
    for count, size in ((8, 8), (7, 8), (2, 8), (1, 1)):
        sample_tokens(model, torch.zeros(count).long(), Sampling(), seed=0, compile=TRANSLATED)
        assert len(compiled.memory_of(model).held["tokens"]) == size
    assert compiled.memory_of(model).sizes == {8, 1}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, as inductor is imported
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])  # the first is inductor up to its code
def test_backends_draw_the_same(backend):
    if backend == "inductor" and not os.environ.get("ROBUSTOK_INDUCTOR"):
        pytest.skip("a C++ compiler is at it for a minute; set ROBUSTOK_INDUCTOR=1 where there is one")
    model = build("modulated")
    for seed in (7, 8):
        wanted = sample_tokens(model, LABELS, GUIDED, seed=seed)
        assert torch.equal(sample_tokens(model, LABELS, GUIDED, seed=seed, compile=backend), wanted)
    assert graphs() == 1


def test_a_model_that_ends_in_nan_says_so_and_leaves_nothing_behind(uncompiled):
    model = build("plain").requires_grad_(False)
    wanted = sample_tokens(model, LABELS, GUIDED, seed=7)
    before = model.head.weight.clone()
    model.head.weight.fill_(torch.nan)
    model.layers[0].norm1.weight.fill_(torch.inf)
    with pytest.raises(ValueError, match="sampling ended in NaN or infinity; use less guidance"):
        sample_tokens(model, LABELS, GUIDED, seed=7, compile=TRANSLATED)
    model.head.weight.copy_(before)
    model.layers[0].norm1.weight.copy_(build("plain").layers[0].norm1.weight)
    assert torch.equal(sample_tokens(model, LABELS, GUIDED, seed=7, compile=TRANSLATED), wanted)


# What a CUDA graph asks


def test_on_a_gpu_a_graph_is_replayed_for_every_token(monkeypatch):
    told: list[Any] = []

    def compiler(step: Any, **how: Any) -> Any:
        told.append(how)
        return lambda *values, **rest: told.append("step")

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: told.append("begin"))
    make: Any = compiled._compiled.__wrapped__
    for backend, device, mode in (
        ("inductor", "cuda", "reduce-overhead"),
        ("inductor", "cpu", None),
        ("cudagraphs", "cuda", None),
    ):
        told.clear()
        step = make(backend, device)
        step(1, first=False)
        step(2, first=False)
        assert told[0] == {"backend": backend, "mode": mode, "fullgraph": True, "dynamic": False}
        assert told[1:] == ["begin", "step"] * 2 if mode else ["step"] * 2


class Strict(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: waiting for a number, copies between devices, shapes that data decide."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten, found = torch.ops.aten, func(*args, **(kwargs or {}))
        assert func.overloadpacket not in (aten._local_scalar_dense, aten.item, aten.nonzero, aten._unique2), func
        given = [value.device for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        assert not isinstance(found, Tensor) or found.device in (given or [found.device]), func
        return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["cpu", pytest.param(NAME, marks=needed)])
def test_a_step_waits_for_nothing_and_stays_on_its_device(kind, place, as_on_a_gpu, monkeypatch):
    made: list[set[int]] = []

    def strict(predict: Any, draws: Any, *rest: Any, **how: Any) -> None:
        made.append({value.data_ptr() for value in vars(draws).values()} if place == "cpu" else set())
        with Strict():
            assert compiled._step(predict, draws, *rest, **how) is None  # nothing that a replay would overwrite

    monkeypatch.setattr(compiled, "_compiled", lambda backend, device: strict)
    model, device = build(kind), torch.device(setup() if place == NAME else "cpu")
    wanted = sample_tokens(model, LABELS, GUIDED, seed=7)
    drawn = sample_tokens(model.to(device), LABELS, GUIDED, seed=7, compile="inductor")
    assert torch.equal(drawn, wanted)
    assert len(made) == model.tokens_per_image - 1
    assert len({frozenset(where) for where in made}) == 1


# What cannot be compiled


def test_what_cannot_be_compiled_says_so():
    masked = MaskedModel(Masked(codebook_size=9, tokens=4, classes=3, width=16, depth=1, heads=1)).eval()
    for model, how in ((build("var"), Sampling()), (Markov(), Sampling()), (masked, MaskedSampling())):
        with pytest.raises(ValueError, match=f"a {type(model).__name__} cannot be compiled for sampling: .*RAR"):
            sample(model, LABELS[:2], how, seed=0, compile=TRANSLATED)
        assert not compiled.can_compile(model)
    wrong: Any = True
    with pytest.raises(ValueError, match="compile is True; name a backend of torch.compile, such as 'inductor', or"):
        sample(build("plain"), LABELS, Sampling(), seed=0, compile=wrong)
    with pytest.raises(ValueError, match="a AutoregressiveModel could not be compiled by nonsense .* without compile"):
        sample_tokens(build("plain"), LABELS, Sampling(), seed=0, compile="nonsense")


def test_what_no_graph_can_hold_says_so(monkeypatch):
    model = build("plain")
    predictor = model.static_predictor

    def waiting(*how: Any) -> Any:
        predict = predictor(*how)
        return predict._replace(predict=lambda latest: (torch._dynamo.graph_break(), predict.predict(latest))[1])

    monkeypatch.setattr(model, "static_predictor", waiting)
    with pytest.raises(ValueError, match=r"a step of a AutoregressiveModel could not be compiled by eager \("):
        sample_tokens(model, LABELS, Sampling(), seed=0, compile=TRANSLATED)


def test_memory_that_was_made_in_inference_mode_serves_outside_of_it():
    model = build("plain")
    with torch.inference_mode():
        within = sample_tokens(model, LABELS, GUIDED, seed=1, compile=TRANSLATED)
    assert torch.equal(sample_tokens(model, LABELS, GUIDED, seed=1, compile=TRANSLATED), within)
