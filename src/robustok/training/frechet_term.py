"""The Frechet term of training: decoded images distributed as real ones are, in one feature space or in several."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from robustok.data.images import ImageSet, Indices
from robustok.losses.frechet import FrechetLoss
from robustok.losses.perceptual import FeatureMaps, Perceptual
from robustok.runtime.checkpoint import fingerprint
from robustok.runtime.distributed import gather
from robustok.runtime.seeding import stream
from robustok.shapes import Features, Images
from robustok.training.micro_batch import MicroBatch

OBSERVED = 4096  # real images whose moments the Frechet term compares with
# Features of real images, by what they were seen with: a run, its tries and its control ask for the same ones. They are
# kept as long as the set of images is.
OF_IMAGES: WeakKeyDictionary[ImageSet, dict[Hashable, Features]] = WeakKeyDictionary()
CONSTANT = 1e-6  # spread of a channel, over the largest value of all, up to which it is rounding


@dataclass
class Space:
    """A feature space, and what is known of real images in it."""

    network: Perceptual | None  # None: the perceptual term's, whose maps are known already
    scale: Tensor = field(init=False)  # by which each channel is divided
    loss: FrechetLoss | None = None


class FrechetTerm:
    """Frechet distances of decoded images to real ones, by the name of their space; `set_reference` to these first.

    The spaces see with `networks`, or with the perceptual term's where that is None. Moments are averaged over steps in
    each of them by `decay`. A single space's distance is called "frechet", of several "frechet_lite0" and so on.
    """

    def __init__(self, networks: Mapping[str, Perceptual | None], decay: float, seed: int, device: torch.device):
        self.decay, self.seed, self.device = decay, seed, device
        names = [f"frechet_{name}" if len(networks) > 1 else "frechet" for name in networks]
        self.spaces = {name: Space(network) for name, network in zip(names, networks.values(), strict=True)}
        self.observed = 0  # real images whose moments it compares with
        self.chosen = False  # whether there are more than those

    @torch.no_grad()
    def set_reference(self, images: ImageSet, perceptual: Perceptual | None) -> None:
        """Take the moments of real images, of up to `OBSERVED` at random.

        Channels that are the same in all of them count as they are, not in units of their spread. Raises ValueError
        where that is every channel.
        """
        rows = torch.randperm(len(images), generator=stream(self.seed, "observed images"))[:OBSERVED].sort().values
        for space in self.spaces.values():
            network = space.network or perceptual
            assert network is not None, "without a network of its own, a space takes the perceptual term's"
            features = self._observed(images, rows, network).double()
            spread = features.std(dim=0, correction=min(1, len(rows) - 1))
            varies = spread > CONSTANT * features.abs().max()
            if not varies.any():
                raise ValueError(
                    f"the Frechet term needs images that differ, and all of these {len(images)} look alike; give more "
                    "images, or set objective.frechet to 0"
                )
            space.scale = torch.where(varies, spread, 1)
            features = features / space.scale
            space.loss = FrechetLoss(features.mean(dim=0), features.T.cov(correction=0), self.decay).to(self.device)
        self.observed, self.chosen = len(rows), len(rows) < len(images)

    def _observed(self, images: ImageSet, rows: Indices, network: Perceptual) -> Features:
        """Channel means of some images, those that were taken before as they were."""
        try:
            taken = OF_IMAGES.setdefault(images, {})
        except TypeError:  # a set of the user's that cannot be a key, as a dataclass cannot
            taken = {}
        key = (self.seed, len(rows), network.maps, network.size, fingerprint(dict(network.named_buffers())))
        if key not in taken:
            parts = (images.images(part).to(self.device) for part in rows.split(256))
            taken[key] = torch.cat([channel_means(network.feature_maps(part)).cpu() for part in parts])
        return taken[key].to(self.device)

    def __call__(self, images: Images, maps: FeatureMaps | None, micro: MicroBatch) -> dict[str, Tensor]:
        """The distances, after decoded images, this process' rows of a micro-batch, have moved the averages.

        `maps` are those of the perceptual term's network, of the same images.
        """
        distances = {}
        for name, space in self.spaces.items():
            own = maps if space.network is None else space.network.feature_maps(images)
            assert own is not None, "the perceptual term has no network, so its maps are not known"
            assert space.loss is not None, "set_reference to real images before comparing distributions"
            features = gather(channel_means(own), micro.counts) / space.scale
            distances[name] = space.loss(features, first=micro.number == 0).float()
        return distances

    def state_dict(self) -> dict[str, Any]:
        states = {name: space.loss and space.loss.state_dict() for name, space in self.spaces.items()}
        return {"frechet": states.get("frechet", states), "observed": self.observed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the averages. Raises ValueError for those of a version that compared with other images."""
        if "observed" not in state and self.chosen:
            raise ValueError(
                f"the run was begun by an earlier version, whose Frechet term compares with the first {OBSERVED} "
                "images, not with images of all classes; finish it with that version, or begin in another folder"
            )
        for name, space in self.spaces.items():
            if space.loss is not None:
                space.loss.load_state_dict(state["frechet"] if len(self.spaces) == 1 else state["frechet"][name])


def channel_means(maps: FeatureMaps) -> Features:
    """Each channel's mean over every map but the finest, side by side: what the Frechet term is taken of."""
    return torch.cat([features.float().mean(dim=(2, 3)) for features in maps[1:]], dim=1)
