"""The image terms of main training and post-training: near in pixels, near in features, and taken for real."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from robustok.backbones.lite import EfficientNetLite0
from robustok.backbones.vgg import HED_STAGES, LPIPSVGG, VGGHED
from robustok.data.images import ImageSet
from robustok.losses.adversarial import adaptive_weight
from robustok.losses.frechet import FrechetLoss, relative
from robustok.losses.perceptual import FeatureMaps
from robustok.losses.reconstruction import l1, l2
from robustok.runtime.distributed import gather, mean
from robustok.runtime.seeding import stream
from robustok.shapes import Features, Images, Scalar
from robustok.training.discriminator_training import Adversarial, DiscriminatorTrainer
from robustok.training.micro_batch import MicroBatch, whole_batch
from robustok.training.optim import Precision
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
    adversary: Adversarial = field(default_factory=Adversarial)  # of the adversarial term

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in ("l1", "l2", "perceptual", "adversarial", "frechet")}
        if min(weights.values()) < 0 or max(weights.values()) == 0:
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

    @property
    def of_pairs(self) -> bool:
        """Whether there is a term between an image and its target."""
        return bool(self.l1 or self.l2 or self.perceptual)


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
        self.frechet: FrechetLoss | None = None
        self.observed = 0  # real images whose moments it compares with
        self.chosen = False  # whether there are more than those
        self.perceptual = None
        if config.perceptual or config.frechet:
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
        self.maps: tuple[FeatureMaps | None, FeatureMaps | None] = (
            None,
            None,
        )  # of the target and the output of the last `loss`

    @torch.no_grad()
    def set_reference(self, images: ImageSet) -> None:
        """Take the moments of real images, which the Frechet term then compares with: of up to `OBSERVED`, at random.

        Channels that are the same in all of them count as they are, not in units of their spread. Raises ValueError
        where that is every channel.
        """
        if not self.config.frechet or self.perceptual is None:
            return
        rows = torch.randperm(len(images), generator=stream(self.seed, "observed images"))[:OBSERVED].sort().values
        batches = (images.images(part).to(self.device) for part in rows.split(256))
        features = torch.cat([channel_means(self.perceptual.feature_maps(batch)) for batch in batches])
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
        images = output.detach().requires_grad_()  # where the networks' backward passes end, see PrecomputedGradient
        paired, judged = _split(images, len(target), free)
        terms = {}
        if config.l1:
            terms["l1"] = l1(target, paired)
        if config.l2:
            terms["l2"] = l2(target, paired)
        weighted = []
        if self.perceptual is not None:
            maps = self.perceptual.feature_maps(images)
            own = tuple(each[-len(judged) :] for each in maps)
            with torch.no_grad():
                real = self.perceptual.feature_maps(target) if config.perceptual else None
            if real is not None:
                terms["perceptual"] = self.perceptual(real, tuple(each[: len(paired)] for each in maps))
            if self.one_look:
                self.maps = (real, tuple(features.detach() for features in own))
            if config.frechet:
                assert self.frechet is not None, "set_reference to real images before comparing distributions"
                features = gather(channel_means(own), micro.counts) / self.scale
                terms["frechet"] = self.frechet(features, first=micro.number == 0).float()
                weighted.append(config.frechet * relative(terms["frechet"]))
        weighted += [getattr(config, name) * term for name, term in terms.items() if name != "frechet"]
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
            terms["adversarial"] = self.discriminator.generator_loss(judged, step, micro, known)
            (adversarial,) = torch.autograd.grad(terms["adversarial"], images)
            weight = torch.tensor(config.adversarial, device=loss.device)
            if config.adversary.adaptive:
                weight = weight * self._adaptive_weight(output, gradient, adversarial, last_layer, micro.weight)
            terms["adversarial_weight"] = weight
            gradient = gradient + weight * adversarial
            loss = loss + weight * terms["adversarial"].detach()
        return PrecomputedGradient.apply(output, gradient, loss), {name: term.detach() for name, term in terms.items()}

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
            "frechet": None if self.frechet is None else self.frechet.state_dict(),
            "observed": self.observed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
        if self.frechet is not None:
            if "observed" not in state and self.chosen:
                raise ValueError(
                    f"the run was begun by an earlier version, whose Frechet term compares with the first {OBSERVED} "
                    "images, not with images of all classes; finish it with that version, or begin in another folder"
                )
            self.frechet.load_state_dict(state["frechet"])


OBSERVED = 4096  # real images whose moments the Frechet term compares with
CONSTANT = 1e-6  # spread of a channel, over the largest value of all, up to which it is rounding


def channel_means(maps: FeatureMaps) -> Features:
    """Each channel's mean over every map but the finest, side by side: what the Frechet term is taken of."""
    return torch.cat([features.float().mean(dim=(2, 3)) for features in maps[1:]], dim=1)
