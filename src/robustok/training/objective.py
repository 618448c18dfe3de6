"""The image terms of main training and post-training: near in pixels, near in features, and taken for real."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robustok.backbones.lite import EfficientNetLite0
from robustok.backbones.vgg import HED_STAGES, LPIPSVGG, VGGHED
from robustok.data.images import ImageSet
from robustok.losses.adversarial import adaptive_weight, feature_matching
from robustok.losses.frechet import relative
from robustok.losses.perceptual import FeatureMaps, Perceptual, gram_distance
from robustok.losses.reconstruction import l1, l2
from robustok.runtime.configs import check_least
from robustok.runtime.distributed import mean
from robustok.runtime.seeding import stream
from robustok.shapes import Images, Scalar
from robustok.training.discriminator_training import Adversarial, DiscriminatorTrainer
from robustok.training.frechet_term import FrechetTerm
from robustok.training.micro_batch import MicroBatch, whole_batch
from robustok.training.optim import Precision
from robustok.training.pretrained import EMBEDDED_SPACES, embedded_network, perceptual_network

WEIGHTS = ("l1", "l2", "perceptual", "gram", "adversarial", "consistency", "frechet")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The terms between a decoded image and its target, and their weights; 0 leaves a term out."""

    l1: float = 0.0  # weight of the mean absolute pixel difference; the paper has none
    l2: float = 1.0  # weight of the mean squared pixel difference
    perceptual: float = 1.0  # weight of the difference in features of a frozen network
    gram: float = 0.0  # weight of the difference in which of these features occur together; the paper has none, GAR 10
    adversarial: float = 0.5  # weight of the adversarial term, on top of its adaptive weight
    consistency: float = 0.0  # weight of the difference in the discriminator's features; the paper has none, GAR 4
    frechet: float = 0.0  # weight of the Frechet term: decoded images distributed as real ones are; the paper has none
    network: EfficientNetLite0 | VGGHED | LPIPSVGG = field(
        default_factory=EfficientNetLite0
    )  # of perceptual, Gram and Frechet term
    perceptual_stages: int = 4  # feature maps that these terms compare, from the finest; 1 to 5, of VGGHED 1 to 3
    perceptual_size: int | None = None  # side in pixels at which they compare; None: the images' own
    shift: int = 0  # the networks see images moved right and down by up to so many pixels, drawn anew at every step
    frechet_spaces: tuple[str, ...] = ()  # of the Frechet term instead: some of lite0, lite2, vgg-hed
    frechet_decay: float = 0.9  # of the average, over steps, of the moments in the Frechet term
    adversary: Adversarial = field(default_factory=Adversarial)  # of the adversarial term

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in WEIGHTS}
        if not all(0 <= weight < math.inf for weight in weights.values()) or max(weights.values()) == 0:
            raise ValueError(f"the weights of the image terms are 0 or more, and one of them is more, not {weights}")
        if not (self.of_pairs or self.frechet) and self.adversary.adaptive:
            raise ValueError(
                "the adversarial term is alone, and its adaptive weight balances it against the other terms; give "
                "another a weight, or set adversary.adaptive to False"
            )
        if isinstance(self.network, VGGHED) and self.perceptual_stages > HED_STAGES:
            raise ValueError(
                f"perceptual_stages is {self.perceptual_stages}, but VGGHED has {HED_STAGES} maps; "
                f"ask for 1 to {HED_STAGES}"
            )
        if self.consistency and not (self.adversarial and self.of_pairs):
            raise ValueError(
                f"consistency is {self.consistency}, and compares features of the discriminator once that is met; give "
                "adversarial a weight, and l1, l2, perceptual or gram one for the time before, or set consistency to 0"
            )
        if self.perceptual_size is not None:
            check_least(self, 1, "perceptual_size")
        if self.shift < 0:
            raise ValueError(f"shift is {self.shift}; give a number of pixels, 0 for images as they are")
        self._check_frechet_spaces()

    def check_side(self, side: int) -> None:
        """Raises ValueError for images of so few pixels that they cannot be moved by as many as `shift` says."""
        if self.shift >= side:
            raise ValueError(
                f"shift is {self.shift}, and images of {side} pixels can be moved by {side - 1} at most; give less, 3 "
                "or so"
            )

    @property
    def of_pairs(self) -> bool:
        """Whether there is a term between an image and its target."""
        return bool(self.l1 or self.l2 or self.perceptual or self.gram)

    def _check_frechet_spaces(self) -> None:
        if unknown := [name for name in self.frechet_spaces if name not in EMBEDDED_SPACES]:
            raise ValueError(
                f"frechet_spaces names {', '.join(map(repr, unknown))}; choose from {', '.join(EMBEDDED_SPACES)}"
            )
        if len(set(self.frechet_spaces)) < len(self.frechet_spaces):
            raise ValueError(f"frechet_spaces is {', '.join(self.frechet_spaces)}; name each space once")
        if self.frechet_spaces and not self.frechet:
            raise ValueError(
                f"frechet_spaces is {', '.join(self.frechet_spaces)}, but the Frechet term has no weight; give frechet "
                "one, or leave frechet_spaces empty"
            )
        if self.frechet and self.perceptual_stages < 2:
            raise ValueError(
                f"perceptual_stages is {self.perceptual_stages}, and the Frechet term takes all maps but the finest; "
                "ask for 2 or more, or set frechet to 0"
            )


class PrecomputedGradient(torch.autograd.Function):
    """A loss whose gradient with respect to the images is known already: backward goes on from there.

    The adaptive weight needs the gradient of each half of the loss at the decoder's last layer, and the decoder needs
    that of their sum. Left to autograd, that is the perceptual network and the discriminator backward twice each. Here
    they are run backward once, as far as the images, and everything else starts from those two gradients: at 256
    pixels each is 0.8 MB an image, the passes that are saved are those of VGG and a ViT.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer * gradient, None, None


def _split(output: Tensor, targets: int, free: bool) -> tuple[Tensor, Tensor]:
    """Rows that have a target, and those whose distribution is judged: the last ones where they are free, else all."""
    return (output[:-targets], output[-targets:]) if free else (output, output)


class ImageLoss:
    """An `Objective` at work: `loss` for the decoder, `discriminator_backward` and `discriminator_step` for the other.

    Where the objective has a Frechet term, `set_reference` to real images first.
    """

    def __init__(self, config: Objective, steps: int, seed: int, device: torch.device, precision: Precision = "auto"):
        self.config, self.seed, self.device = config, seed, device
        self.frechet = FrechetTerm(self._spaces(), config.frechet_decay, seed, device) if config.frechet else None
        sees_itself = self.frechet is not None and any(space.network is None for space in self.frechet.spaces.values())
        self.perceptual = None
        if config.perceptual or config.gram or sees_itself:
            perceptual = perceptual_network(config.network, config.perceptual_stages, config.perceptual_size)
            self.perceptual = perceptual.to(device)
        self.discriminator = None
        if config.adversarial:
            self.discriminator = DiscriminatorTrainer(config.adversary, steps, seed, device, precision)
        # The perceptual term and the discriminator may look at the same maps of the same images: made once, then.
        self.one_look = (
            self.perceptual is not None
            and self.discriminator is not None
            and isinstance(config.network, EfficientNetLite0)
            and self.discriminator.takes_maps(config.perceptual_size, config.perceptual_stages)
        )
        # Of the target and the output of the last `loss`.
        self.maps: tuple[FeatureMaps | None, FeatureMaps | None] = (None, None)

    def _spaces(self) -> dict[str, Perceptual | None]:
        """The Frechet term's networks by name; None is the perceptual term's, which sees the images only once."""
        config, own = self.config, {EfficientNetLite0: "lite0", VGGHED: "vgg-hed"}.get(type(self.config.network), "")
        return {
            name: embedded_network(name, config.perceptual_stages, config.perceptual_size).to(self.device)
            if name != own
            else None
            for name in config.frechet_spaces or (own,)
        }

    def set_reference(self, images: ImageSet) -> None:
        """Take the moments of real images, which the Frechet term then compares with; see `FrechetTerm`."""
        if self.frechet is not None:
            self.frechet.set_reference(images, self.perceptual)

    def loss(
        self,
        target: Images,
        output: Float[Tensor, "rows 3 h w"],
        last_layer: Tensor,
        step: int,
        micro: MicroBatch | None = None,
        *,
        free: bool = False,
    ) -> tuple[Scalar, dict[str, Tensor]]:
        """(weighted sum, terms by name) of decoded images; `last_layer` is the decoder's last weight.

        The images are this process' rows of a micro-batch, or a batch of their own. The adaptive weight is that of the
        whole micro-batch; the Frechet term that of all micro-batches so far, and its average moves once a step.
        `free`: as many of the output's last rows as there are targets belong to none of them. The terms of
        distributions, adversarial and Frechet, are then of these, those between an image and its target of the others.
        """
        config, micro = self.config, micro or whole_batch(len(target))
        config.check_side(min(output.shape[-2:]))
        images = output.detach().requires_grad_()  # where the networks' backward passes end, see PrecomputedGradient
        paired, judged = _split(images, len(target), free)
        by = self._shift(step)
        terms = {}
        if config.l1:
            terms["l1"] = l1(target, paired)
        if config.l2:
            terms["l2"] = l2(target, paired)
        weighted, distances = [], {}
        real = own = of_pairs = None
        if self.perceptual is not None:
            maps = self.perceptual.feature_maps(moved(images, by))
            own = tuple(each[-len(judged) :] for each in maps)
            of_pairs = tuple(each[: len(paired)] for each in maps)
            with torch.no_grad():
                real = self.perceptual.feature_maps(moved(target, by)) if config.perceptual or config.gram else None
            if config.perceptual and real is not None:
                terms["perceptual"] = self.perceptual(real, of_pairs)
            if config.gram and real is not None:
                terms["gram"] = gram_distance(real, of_pairs)
            if self.one_look:
                self.maps = (real, tuple(features.detach() for features in own))
        if self.frechet is not None:
            distances = self.frechet(moved(judged, by), own, micro)
            weighted.append(config.frechet * torch.stack([relative(each) for each in distances.values()]).mean())
        weighted += [getattr(config, name) * term for name, term in terms.items()]
        terms |= distances
        loss = torch.stack(weighted or [images.sum() * 0]).sum()
        # Every other term is a mean over this process' rows, which `weight` makes a part of the mean over all rows. The
        # Frechet term is one number of all rows, and `gather` returns its gradient summed over ranks. Weighed before
        # the gradient is taken, both come out alike on all ranks; divided out again, the gradient is in units of the
        # process' own mean, as backward expects. The factor is 1 unless processes have unequal numbers of rows.
        charged = self.discriminator is not None and self.discriminator.gan_started(step)
        (gradient,) = torch.autograd.grad(micro.weight * loss, images, retain_graph=charged and self.one_look)
        gradient, loss = gradient / micro.weight, loss.detach()
        if self.discriminator is not None and charged:
            known = own if self.one_look else None
            look = partial(
                self.discriminator.generator_loss, step=step, micro=micro, with_features=bool(config.consistency)
            )
            terms["adversarial"], features = look(judged, maps=known)
            if config.consistency:
                features = look(paired, maps=of_pairs if self.one_look else None)[1] if free else features
                with torch.no_grad():
                    there = look(target, maps=real if self.one_look else None)[1]
                terms["consistency"] = feature_matching(there, features)
                consistency = config.consistency * terms["consistency"]
                gradient = gradient + torch.autograd.grad(consistency, images, retain_graph=True)[0]
                loss = loss + consistency.detach()
            (adversarial,) = torch.autograd.grad(terms["adversarial"], images)
            weight = torch.tensor(config.adversarial, device=loss.device)
            if config.adversary.adaptive:
                weight = weight * self._adaptive_weight(output, gradient, adversarial, last_layer, micro.weight)
            terms["adversarial_weight"] = weight
            gradient = gradient + weight * adversarial
            loss = loss + weight * terms["adversarial"].detach()
        return PrecomputedGradient.apply(output, gradient, loss), {name: term.detach() for name, term in terms.items()}

    def _shift(self, step: int) -> tuple[int, int]:
        """Pixels to the right and down by which the networks see the images of a step moved."""
        right, down = torch.randint(self.config.shift + 1, (2,), generator=stream(self.seed, "shift", step)).tolist()
        return right, down

    def _adaptive_weight(
        self, output: Images, reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, weight: float
    ) -> Scalar:
        """How much harder the reconstruction terms pull at the decoder's last layer than the adversarial one.

        Both arguments are gradients at the images; the last layer is one convolution or matrix away from there, so that
        the two passes through it cost next to nothing. Averaged over ranks before their lengths are taken: the mean of
        each rank's ratio would not be the ratio that one process finds.
        """
        (pull,) = torch.autograd.grad(output, last_layer, reconstruction, retain_graph=True)
        (counter,) = torch.autograd.grad(output, last_layer, adversarial, retain_graph=True)
        return adaptive_weight(mean(weight * pull), mean(weight * counter), self.config.adversary.adaptive_max)

    def discriminator_backward(
        self,
        target: Images,
        output: Float[Tensor, "rows 3 h w"],
        step: int,
        micro: MicroBatch | None = None,
        *,
        free: bool = False,
    ) -> dict[str, Tensor]:
        """The discriminator's terms, once its gradient has been added; nothing before it starts to train.

        The images are those that `loss` was last given, if it was. `free` as there: what it tells from real images are
        then the rows that belong to none of them.
        """
        if self.discriminator is None or not self.discriminator.disc_started(step):
            return {}
        maps, self.maps = self.maps, (None, None)
        judged = _split(output.detach(), len(target), free)[1]
        return self.discriminator.backward(target, judged, step, micro or whole_batch(len(target)), maps)

    def discriminator_step(self, step: int) -> dict[str, Tensor]:
        """Take the discriminator's optimizer step; nothing before it starts to train."""
        if self.discriminator is None or not self.discriminator.disc_started(step):
            return {}
        return self.discriminator.step(step)

    def state_dict(self) -> dict[str, Any]:
        return {
            "discriminator": None if self.discriminator is None else self.discriminator.state_dict(),
            **({"frechet": None, "observed": 0} if self.frechet is None else self.frechet.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
        if self.frechet is not None:
            self.frechet.load_state_dict(state)


def moved(images: Images, by: tuple[int, int]) -> Images:
    """Images moved right and down by some pixels; what comes in at the edge mirrors what is there."""
    (right, down), (h, w) = by, images.shape[-2:]
    return F.pad(images, (right, 0, down, 0), mode="reflect")[..., :h, :w] if any(by) else images
