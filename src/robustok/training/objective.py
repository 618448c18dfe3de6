"""What main training and post-training ask of a decoded image: near in pixels, near in features, and real."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robustok.backbones.lite0 import EfficientNetLite0
from robustok.backbones.vgg import LPIPSVGG
from robustok.backbones.vgg_hed import STAGES, VGGHED
from robustok.data.images import ImageSet
from robustok.losses.adversarial import gradient_ratio
from robustok.losses.frechet import FrechetLoss, relative
from robustok.losses.perceptual import Levels
from robustok.losses.reconstruction import l1, l2
from robustok.runtime.distributed import gather, mean
from robustok.runtime.seeding import stream
from robustok.shapes import Features, Images, Scalar
from robustok.training.adversary import Adversary, Opponent
from robustok.training.optim import Precision
from robustok.training.parts import Part, alone
from robustok.training.pretrained import perceptual_network


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The terms between a decoded image and its target, and their weights; 0 leaves a term out."""

    l1: float = 0.0  # weight of the mean absolute pixel difference; the paper has none
    l2: float = 1.0  # weight of the mean squared pixel difference
    perceptual: float = 1.0  # weight of the difference in features of a frozen network
    adversarial: float = 0.5  # weight of the adversarial term, on top of its adaptive weight
    frechet: float = 0.0  # weight of the Frechet term: decoded images distributed as real ones are; the paper has none
    network: EfficientNetLite0 | VGGHED | LPIPSVGG = field(
        default_factory=EfficientNetLite0
    )  # of perceptual and Frechet term
    perceptual_stages: int = 4  # feature maps that both terms compare, from the finest; 1 to 5, of VGGHED 1 to 3
    perceptual_size: int | None = None  # side in pixels at which they compare; None: the images' own
    frechet_decay: float = 0.9  # of the average, over steps, of the moments in the Frechet term
    adversary: Adversary = field(default_factory=Adversary)  # of the adversarial term

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in ("l1", "l2", "perceptual", "adversarial")}
        if min(*weights.values(), self.frechet) < 0 or self.l1 + self.l2 + self.perceptual == 0:
            raise ValueError(
                f"the weights of the image terms are 0 or more, and one of l1, l2 and perceptual is more, not {weights}"
            )
        if isinstance(self.network, VGGHED) and self.perceptual_stages > STAGES:
            raise ValueError(
                f"perceptual_stages is {self.perceptual_stages}, but VGGHED has {STAGES} maps; ask for 1 to {STAGES}"
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
    """An `Objective` at work: `charge` the decoder, let the discriminator `learn`, `apply` its step.

    Where the objective has a Frechet term, `observe` real images first.
    """

    def __init__(self, config: Objective, steps: int, seed: int, device: torch.device, precision: Precision = "auto"):
        self.config, self.seed, self.device = config, seed, device
        self.frechet: FrechetLoss | None = None
        self.observed = 0  # real images whose moments it compares with
        self.chosen = False  # whether there are more than those
        self.perceptual = None
        if config.perceptual or config.frechet:
            perceptual = perceptual_network(config.network, config.perceptual_stages, config.perceptual_size)
            self.perceptual = perceptual.to(device)
        self.opponent = None
        if config.adversarial:
            self.opponent = Opponent(config.adversary, steps, seed, device, precision)

    @torch.no_grad()
    def observe(self, images: ImageSet) -> None:
        """Take the moments of real images, which the Frechet term then compares with: of up to `OBSERVED`, at random.

        Channels that are the same in all of them count as they are, not in units of their spread. Raises ValueError
        where that is every channel.
        """
        if not self.config.frechet or self.perceptual is None:
            return
        rows = torch.randperm(len(images), generator=stream(self.seed, "observed images"))[:OBSERVED].sort().values
        batches = (images.images(part).to(self.device) for part in rows.split(256))
        features = torch.cat([channel_means(self.perceptual.levels(batch)) for batch in batches])
        features = features.double()
        spread = features.std(dim=0, correction=min(1, len(rows) - 1))
        varies = spread > CONSTANT * features.abs().max()
        if not varies.any():
            raise ValueError(
                f"the Frechet term needs images that differ, and all of these {len(images)} look alike; give more "
                "images, or set objective.frechet to 0"
            )
        self.observed, self.chosen = len(rows), len(rows) < len(images)
        self.scale = torch.where(varies, spread, 1)
        features = features / self.scale
        self.frechet = FrechetLoss(features.mean(dim=0), features.T.cov(correction=0), self.config.frechet_decay)
        self.frechet.to(self.device)

    def charge(
        self, target: Images, output: Images, last_layer: Tensor, step: int, part: Part | None = None
    ) -> tuple[Scalar, dict[str, Tensor]]:
        """(weighted sum, terms by name) of decoded images; `last_layer` is the decoder's last weight.

        The images are this process' rows of a `part` of a batch, or a batch of their own. The networks of the
        perceptual and the adversarial term are run backward once each, as far as the images; the adaptive weight and
        the decoder's gradients follow from there. The adaptive weight is that of the whole part, the Frechet term that
        of all parts so far; its average moves once a step.
        """
        config, part = self.config, part or alone(len(output))
        images = output.detach().requires_grad_()
        terms = {}
        if config.l1:
            terms["l1"] = l1(target, images)
        if config.l2:
            terms["l2"] = l2(target, images)
        weighted = []
        if self.perceptual is not None:
            levels = self.perceptual.levels(images)
            if config.perceptual:
                terms["perceptual"] = self.perceptual(target, levels)
            if config.frechet:
                assert self.frechet is not None, "observe real images before charging for their distribution"
                features = gather(channel_means(levels), part.counts) / self.scale
                terms["frechet"] = self.frechet(features, first=part.number == 0).float()
                weighted.append(config.frechet * relative(terms["frechet"]))
        weighted += [getattr(config, name) * term for name, term in terms.items() if name != "frechet"]
        loss = torch.stack(weighted).sum()
        # Weighed first, for the Frechet term's gradient comes from all ranks, where it is not a mean over rows.
        (gradient,) = torch.autograd.grad(part.weight * loss, images)
        gradient, loss = gradient / part.weight, loss.detach()
        if self.opponent is not None and self.opponent.charges(step):
            terms["adversarial"] = self.opponent.charge(images, step, part)
            (adversarial,) = torch.autograd.grad(terms["adversarial"], images)
            weight = torch.tensor(config.adversarial, device=loss.device)
            if config.adversary.adaptive:
                weight = weight * self._balance(output, gradient, adversarial, last_layer, part.weight)
            terms["adversarial_weight"] = weight
            gradient = gradient + weight * adversarial
            loss = loss + weight * terms["adversarial"].detach()
        return _Reaching.apply(output, gradient, loss), {name: term.detach() for name, term in terms.items()}

    def _balance(self, output: Images, first: Tensor, second: Tensor, last_layer: Tensor, weight: float) -> Scalar:
        """The adaptive weight: how much harder the first gradient pulls at the decoder's last layer, over all ranks."""
        (pull,) = torch.autograd.grad(output, last_layer, first, retain_graph=True)
        (counter,) = torch.autograd.grad(output, last_layer, second, retain_graph=True)
        return gradient_ratio(mean(weight * pull), mean(weight * counter))

    def learn(self, target: Images, output: Images, step: int, part: Part | None = None) -> dict[str, Tensor]:
        """The discriminator's terms, once its gradient has been added; nothing before it begins to learn."""
        if self.opponent is None or not self.opponent.learns(step):
            return {}
        return self.opponent.learn(target, output.detach(), step, part or alone(len(output)))

    def apply(self, step: int) -> dict[str, Tensor]:
        """Take the discriminator's optimizer step."""
        if self.opponent is None or not self.opponent.learns(step):
            return {}
        return self.opponent.apply(step)

    def state_dict(self) -> dict[str, Any]:
        return {
            "opponent": None if self.opponent is None else self.opponent.state_dict(),
            "frechet": None if self.frechet is None else self.frechet.state_dict(),
            "observed": self.observed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.opponent is not None:
            self.opponent.load_state_dict(state["opponent"])
        if self.frechet is not None:
            if "observed" not in state and self.chosen:
                raise ValueError(
                    f"the run was begun by an earlier version, whose Frechet term compares with the first {OBSERVED} "
                    "images, not with images of all classes; finish it with that version, or begin in another folder"
                )
            self.frechet.load_state_dict(state["frechet"])


OBSERVED = 4096  # real images whose moments the Frechet term compares with
CONSTANT = 1e-6  # spread of a channel, over the largest value of all, up to which it is rounding


def channel_means(levels: Levels) -> Features:
    """Each channel's mean over every map but the finest, side by side: what the Frechet term is taken of."""
    return torch.cat([features.float().mean(dim=(2, 3)) for features in levels[1:]], dim=1)
