"""What main training and post-training ask of a decoded image: near in pixels, near in features, and real."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robustok.backbones.lite0 import Lite0
from robustok.losses.adversarial import gradient_ratio
from robustok.losses.perceptual import Perceptual
from robustok.losses.reconstruction import l1, l2
from robustok.shapes import Images, Scalar
from robustok.training.adversary import Adversary, Opponent
from robustok.training.optim import Precision


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The terms between a decoded image and its target, and their weights; 0 leaves a term out."""

    l1: float = 0.0  # weight of the mean absolute pixel difference
    l2: float = 1.0  # weight of the mean squared pixel difference
    perceptual: float = 1.0  # weight of the difference in features of a frozen network
    adversarial: float = 0.5  # weight of the adversarial term, on top of its adaptive weight
    perceptual_stages: int = 4  # feature maps that the perceptual term compares, from the finest; 1 to 5
    perceptual_size: int | None = None  # side in pixels at which it compares; None: the images' own
    adversary: Adversary = field(default_factory=Adversary)  # of the adversarial term

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in ("l1", "l2", "perceptual", "adversarial")}
        if min(weights.values()) < 0 or self.l1 + self.l2 + self.perceptual == 0:
            raise ValueError(
                f"the weights of the image terms are 0 or more, and one of l1, l2 and perceptual is more, not {weights}"
            )


class _Reaching(torch.autograd.Function):
    """A loss whose gradient with respect to the images is known already."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer * gradient, None, None


class ImageLoss:
    """An `Objective` at work: `charge` the decoder, let the discriminator `learn`, `apply` its step."""

    def __init__(self, config: Objective, steps: int, seed: int, device: torch.device, precision: Precision = "auto"):
        self.config = config
        self.perceptual = None
        if config.perceptual:
            self.perceptual = Perceptual(Lite0(), config.perceptual_stages, config.perceptual_size).to(device)
        self.opponent = None
        if config.adversarial:
            self.opponent = Opponent(config.adversary, steps, seed, device, precision)

    def charge(
        self, target: Images, output: Images, last_layer: Tensor, step: int, part: int = 0
    ) -> tuple[Scalar, dict[str, Tensor]]:
        """(weighted sum, terms by name) of decoded images; `last_layer` is the decoder's last weight.

        The networks of the perceptual and the adversarial term are run backward once each, as far as the
        images; the adaptive weight and the decoder's gradients follow from there.
        """
        config = self.config
        images = output.detach().requires_grad_()
        terms = {}
        if config.l1:
            terms["l1"] = l1(target, images)
        if config.l2:
            terms["l2"] = l2(target, images)
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(target, images)
        loss = torch.stack([getattr(config, name) * term for name, term in terms.items()]).sum()
        (gradient,) = torch.autograd.grad(loss, images)
        loss = loss.detach()
        if self.opponent is not None and self.opponent.charges(step):
            terms["adversarial"] = self.opponent.charge(images, step, part)
            (adversarial,) = torch.autograd.grad(terms["adversarial"], images)
            weight = torch.tensor(config.adversarial, device=loss.device)
            if config.adversary.adaptive:
                weight = weight * self._balance(output, gradient, adversarial, last_layer)
            terms["adversarial_weight"] = weight
            gradient = gradient + weight * adversarial
            loss = loss + weight * terms["adversarial"].detach()
        return _Reaching.apply(output, gradient, loss), {name: term.detach() for name, term in terms.items()}

    def _balance(self, output: Images, first: Tensor, second: Tensor, last_layer: Tensor) -> Scalar:
        """The adaptive weight: how much harder the first gradient pulls at the decoder's last layer."""
        (pull,) = torch.autograd.grad(output, last_layer, first, retain_graph=True)
        (counter,) = torch.autograd.grad(output, last_layer, second, retain_graph=True)
        return gradient_ratio(pull, counter)

    def learn(self, target: Images, output: Images, share: float, step: int, part: int = 0) -> dict[str, Tensor]:
        """The discriminator's terms, once its gradient has been added; nothing before it begins to learn."""
        if self.opponent is None or not self.opponent.learns(step):
            return {}
        return self.opponent.learn(target, output.detach(), share, step, part)

    def apply(self, step: int) -> dict[str, Tensor]:
        """Take the discriminator's optimizer step."""
        if self.opponent is None or not self.opponent.learns(step):
            return {}
        return self.opponent.apply(step)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.opponent is None else self.opponent.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.opponent is not None:
            self.opponent.load_state_dict(state)
