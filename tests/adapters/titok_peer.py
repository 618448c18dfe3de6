"""Numbers of TiTok's own generators, ImageBert and UViTBert, which `test_titok_generators.py` holds ours to.

    pip install omegaconf einops transformers huggingface_hub
    python tests/adapters/titok_peer.py CHECKOUT    # of bytedance/1d-tokenizer, commit 942a96f, Apache-2.0

writes them anew, beside this file: small models with random weights, logits of tokens of which some are masked, and the
tokens that `generate` gives under stored random numbers. Where it draws codes by the largest of noisy logits, the noise
is made so that the code is that at which the cumulative probability passes a stored number; everything else is theirs.
"""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

CODES, CLASSES, TOKENS, STEPS = 13, 3, 12, 6
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
GENERATED: tuple[dict[str, Any], ...] = (  # arguments of `generate`
    {"guidance_scale": 0.0, "randomize_temperature": 0.0},
    {"guidance_scale": 2.0, "randomize_temperature": 0.0, "guidance_decay": "constant"},
    {"guidance_scale": 4.5, "randomize_temperature": 3.0, "guidance_decay": "linear"},
    {"guidance_scale": 4.5, "randomize_temperature": 9.5, "guidance_decay": "linear"},
    {"guidance_scale": 6.9, "randomize_temperature": 2.8, "guidance_decay": "power-cosine"},
)
ANNEALED = (False, False, False, True, True)
LEAST = 2e-5  # by which every decision is clear: of the number that chooses a code, of the certainty that masks one


def random(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Numbers:
    """`torch` as their `generate` sees it, with our numbers in the place of its own."""

    def __init__(self, uniform: Tensor, temperature: float):
        self.uniform, self.temperature, self.step, self.gap = uniform, temperature, -1, 1.0

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def zeros_like(self, like: Tensor) -> Any:
        """The next tensor that is filled with uniform numbers: for codes (b n k), then for certainty (b n)."""
        if like.ndim == 2:
            return Filled(self.uniform[:, self.step, 1])
        self.step += 1
        noise = self.temperature * (1 - (self.step + 1) / self.uniform.shape[1])
        if noise == 0:
            best = like.topk(2, dim=-1).values
            self.gap = min(self.gap, float((best[..., 0] - best[..., 1]).min()))
            return Filled(torch.full_like(like, 0.5))
        passed = (like.double() / noise).softmax(-1).cumsum(-1)
        wanted = self.uniform[:, self.step, 0, :, None].double()
        self.gap = min(self.gap, float((passed - wanted).abs().min()))
        code = (passed <= wanted).sum(-1, keepdim=True)
        filled = torch.zeros_like(like).scatter(-1, code, 1.0)  # the noise of 1 is 46 there, of 0 it is -4
        assert (like + noise * (50 * filled - 4)).argmax(-1, keepdim=True).equal(code)
        return Filled(filled)

    def sort(self, confidence: Tensor, axis: int) -> Any:
        result = torch.sort(confidence, axis)
        apart = result.values.diff(dim=1)
        self.gap = min(self.gap, float(apart[apart.isfinite()].min()) if apart.isfinite().any() else 1.0)
        return result


class Filled(Tensor):
    """A tensor whose `uniform_` leaves it as it is."""

    def __new__(cls, values: Tensor) -> Any:
        return values.float().as_subclass(cls)

    def uniform_(self, *_: float) -> Tensor:
        return self.as_subclass(Tensor)


def peer(checkout: Path) -> ModuleType:
    """Their module, without those that their packages import beside it."""
    for name in ("modeling", "modeling.modules"):
        package = ModuleType(name)
        package.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = package
    return importlib.import_module("modeling.maskgit")


@torch.no_grad()
def numbers(module: ModuleType, kind: str, seed: int) -> tuple[dict[str, Tensor], float]:
    """Weights, inputs and outputs of a model, and how clear its decisions were."""
    sizes = SIZES | {"image_seq_len": TOKENS, "condition_num_classes": CLASSES, "dropout": 0.1, "attn_drop": 0.1}
    model = getattr(module, kind)({"model": {"vq_model": {"codebook_size": CODES}, "generator": sizes}}).eval()
    state = model.state_dict()
    for number, (name, weight) in enumerate(state.items()):
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1000 * seed + number))
        weight.copy_((0.4 * noise + (1 if "norm" in name.lower() and name.endswith("weight") else 0)).half())
    labels = torch.tensor([0, 2, 1])
    tokens = (random(3, TOKENS, seed=seed) * CODES).long()
    tokens[random(3, TOKENS, seed=seed + 1) < torch.tensor([[0.2], [0.5], [1.0]])] = CODES
    held = {f"weights.{name}": weight.half() for name, weight in state.items()} | {"tokens": tokens, "labels": labels}
    held["logits"] = model(tokens, labels, cond_drop_prob=0.0)
    held["logits_null"] = model(tokens, labels, cond_drop_prob=1.0)
    clear = 1.0
    for number, (how, annealed) in enumerate(zip(GENERATED, ANNEALED, strict=True)):
        uniform = random(3, STEPS, 2, TOKENS, seed=seed + 2 + number)
        module.torch = own = Numbers(uniform, how["randomize_temperature"])
        drawn = model.generate(labels, num_sample_steps=STEPS, softmax_temperature_annealing=annealed, **how)
        module.torch, clear = torch, min(clear, own.gap)
        held |= {f"uniform_{number}": uniform, f"drawn_{number}": drawn}
    return held, clear


if __name__ == "__main__":
    module = peer(Path(sys.argv[1]))
    settings = [how | {"softmax_temperature_annealing": a} for how, a in zip(GENERATED, ANNEALED, strict=True)]
    about = {
        "source": "bytedance/1d-tokenizer 942a96f, modeling/maskgit.py, Apache-2.0",
        "sizes": json.dumps(SIZES),
        "generated": json.dumps(settings),
    }
    for kind in ("ImageBert", "UViTBert"):
        tried = (numbers(module, kind, 10 * seed) for seed in range(100))
        held, _ = next((held, clear) for held, clear in tried if clear > LEAST)
        held = {name: tensor.contiguous() for name, tensor in held.items()}
        save_file(held, Path(__file__).with_name(f"titok_{kind}.safetensors"), about)
