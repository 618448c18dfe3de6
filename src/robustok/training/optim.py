"""From gradients to weights: AdamW with warm-up, cosine and clipping; gradient accumulation; EMA; precision."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from robustok.runtime.configs import check_least, check_shares
from robustok.runtime.distributed import AveragedGradients, cut_like, mean, whole
from robustok.shapes import Scalar
from robustok.training.micro_batch import MicroBatch

Precision = Literal["auto", "bf16", "fp32"]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW and its learning rate over a run."""

    lr: float  # learning rate at its peak
    betas: tuple[float, float] = (0.9, 0.95)  # decay of AdamW's two moments
    weight_decay: float = 0.0  # pulls matrices, kernels and embeddings to zero; norms and biases stay free
    warmup: int = 0  # steps in which the learning rate rises linearly
    final_lr_fraction: float = 0.0  # fraction of lr that is left at the end of the cosine
    clip: float = 1.0  # largest gradient norm; 0 switches clipping off
    micro_batches: int = 1  # that a batch is worked through in, to save memory: gradient accumulation

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr}; it must be positive, for example 2e-4")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; each must be at least 0 and below 1, for example (0.9, 0.95)")
        check_shares(self, "final_lr_fraction")
        check_least(self, 0, "weight_decay", "warmup", "clip")
        check_least(self, 1, "micro_batches")


def learning_rate(config: Optim, step: int, steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0) of `steps`.

    Linear to `lr` over the warm-up, then half a cosine (Loshchilov & Hutter 2017, eq. 5, without restarts)
    that reaches `lr * final_lr_fraction` in the last step.
    """
    taken = step + 1
    if taken <= config.warmup:
        return config.lr * taken / config.warmup
    progress = min((taken - config.warmup) / max(steps - config.warmup, 1), 1.0)
    left = config.final_lr_fraction + (1 - config.final_lr_fraction) * (1 + math.cos(math.pi * progress)) / 2
    return config.lr * left


class Optimizer:
    """One optimizer over some parameters: `backward` once or more, then `step`.

    Parameters that need no gradient are left alone. Parameters with one axis or none (norms, biases) do not
    decay. On several ranks gradients are averaged. A step whose loss or gradient is not finite on any of them changes
    nothing but clears the gradients.
    """

    def __init__(self, parameters: nn.Module | Iterable[tuple[str, nn.Parameter]], config: Optim, steps: int) -> None:
        named = parameters.named_parameters() if isinstance(parameters, nn.Module) else parameters
        self.parameters = {name: parameter for name, parameter in named if parameter.requires_grad}
        if not self.parameters:
            raise ValueError("there is nothing to train: no parameter requires a gradient; unfreeze some")
        self.config, self.steps = config, steps
        weights = list(self.parameters.values())
        groups = [
            {"params": [w for w in weights if w.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=config.lr, betas=config.betas, fused=True
        )
        self._gradients = AveragedGradients(weights)
        self._finite = torch.ones((), device=weights[0].device)

    def backward(self, loss: Scalar, fraction: float = 1.0, *, last: bool = True) -> None:
        """Add the gradient of `fraction * loss`; the fractions of one step sum to 1 when losses are batch means.

        `last` says that nothing is added after it in this step: then ranks begin to exchange.
        """
        self._finite *= loss.detach().isfinite()
        self._gradients.expect(last)
        (loss * fraction).backward()

    def step(self, step: int) -> dict[str, Tensor]:
        """Take optimizer step `step` (from 0) and clear the gradients.

        Returns "lr", "gradient_norm" (before clipping) and "skipped": 1 when the loss or the gradient was not
        finite and the weights were left as they are, else 0.
        """
        lr = learning_rate(self.config, step, self.steps)
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self._gradients.finish()
        gradients = [w.grad for w in self.parameters.values() if w.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        finite = mean(self._finite * norm.isfinite()) == 1  # all ranks decide alike
        if finite:
            if self.config.clip > 0:
                torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.config.clip, norm)
            self.adamw.step()
        self.adamw.zero_grad()
        self._finite.fill_(1)
        return {"lr": torch.tensor(lr, device=norm.device), "gradient_norm": norm, "skipped": (~finite).float()}

    def state_dict(self) -> dict[str, Any]:
        """The moments and step count of every parameter that has been updated, by name."""
        updated = self.adamw.state
        return {name: dict(updated[weight]) for name, weight in self.parameters.items() if weight in updated}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave. Raises ValueError when names or shapes do not fit."""
        if unknown := state.keys() - self.parameters.keys():
            raise ValueError(
                f"the saved optimizer knows {sorted(unknown)[0]!r}, this model does not; build the same model"
            )
        self.adamw.state.clear()
        for name, saved in state.items():
            weight = self.parameters[name]
            for key, value in saved.items():
                if value.ndim and value.shape != weight.shape:
                    raise ValueError(
                        f"the saved optimizer has {name} as {tuple(value.shape)}, "
                        f"this model as {tuple(weight.shape)}; build the same model"
                    )
                # empty_like keeps the weight's memory layout, on which the last bit of an update depends.
                like = torch.empty_like(weight) if value.ndim else torch.empty_like(value, device=weight.device)
                self.adamw.state[weight][key] = like.detach().copy_(cut_like(value, like))


class EMA(Generic[Module]):
    """The exponential moving average of a module's weights, in `.module` (evaluation mode, no gradients).

    average <- decay average + (1 - decay) weights, with decay min(decay, (1 + t) / (10 + t)) after t updates,
    so that the random start is soon forgotten. Buffers are copied.
    """

    def __init__(self, module: Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; it must be at least 0 and below 1, for example 0.999")
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the weights of `module`."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, weight in zip(self.module.parameters(), module.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        for copied, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            copied.copy_(buffer)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_whole(self.module, state["module"])
        self.updates = state["updates"]


class Accumulation:
    """One optimizer step on a batch that is worked through in micro-batches: gradients and logged terms of all of it.

        accumulation = Accumulation(optimizer)
        for piece, micro in split(batch, micro_batches):
            accumulation.backward(loss(piece), {}, micro)
        terms = accumulation.step(step, ema, model)

    Terms are summed here, and nowhere else, so that none is of the last micro-batch only.
    """

    def __init__(self, optimizer: Optimizer):
        self.optimizer, self.terms = optimizer, dict[str, Tensor]()

    def add(self, terms: Mapping[str, Tensor], micro: MicroBatch) -> None:
        """Count terms, means over a micro-batch's rows, by the fraction of the batch that it is."""
        for name, term in terms.items():
            self.terms[name] = self.terms.get(name, 0) + micro.fraction * term

    def backward(self, loss: Scalar, terms: Mapping[str, Tensor], micro: MicroBatch) -> None:
        """Add a micro-batch's gradient, its terms and its loss."""
        self.optimizer.backward(loss, micro.fraction, last=micro.last)
        self.add({**terms, "loss": loss.detach()}, micro)

    def step(
        self,
        step: int,
        ema: EMA[Any],
        module: nn.Module,
        *,
        discriminator_step: Callable[[], dict[str, Tensor]] = dict,
        before_ema: Callable[[], dict[str, Tensor]] = dict,
    ) -> dict[str, Tensor]:
        """Take the optimizer's and the discriminator's step, then move the EMA; returns all terms.

        After a skipped step the EMA stays where it is: a batch that taught nothing does not pull it towards the
        weights, and `before_ema`, which may change them, is not called. This is the one place that decides so.
        """
        terms = self.terms | self.optimizer.step(step)
        of_discriminator = discriminator_step()
        terms["skipped"] = torch.maximum(terms["skipped"], of_discriminator.pop("skipped", terms["skipped"]))
        if not terms["skipped"]:
            terms |= before_ema()
            ema.update(module)
        return terms | of_discriminator


def load_whole(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take over a state of whole tensors, of which a sharded module keeps its pieces."""
    own = module.state_dict()
    module.load_state_dict({name: cut_like(value, own.get(name, value)) for name, value in state.items()})


def autocast(device: str | torch.device, precision: Precision = "auto") -> AbstractContextManager[Any]:
    """A context in which matrix products and convolutions run in bfloat16 where that helps.

    "auto": on CUDA and on CPUs that multiply bfloat16 (AVX-512 BF16, AMX); "bf16": always; "fp32": never.
    """
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16) if is_bf16(device, precision) else nullcontext()


def is_bf16(device: str | torch.device, precision: Precision) -> bool:
    """True when `autocast` computes in bfloat16."""
    return precision == "bf16" or (precision == "auto" and _multiplies_bf16(torch.device(device).type))


def _multiplies_bf16(kind: str) -> bool:
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Older torch cannot tell; then float32 is the safe choice.
    known = torch.cpu.get_capabilities() if kind == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
