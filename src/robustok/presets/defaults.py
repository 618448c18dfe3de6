"""Post-training as it is unless its user says otherwise: chosen by what it is given, for library and command line."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from robustok.adapters.published_generators import default_sampling
from robustok.backbones.dino import DINO
from robustok.backbones.lite import EfficientNetLite0
from robustok.backbones.vgg import LIN_LAYERS, LPIPSVGG, VGG16
from robustok.evaluation.features.spaces.embedded import LITE0_SIDES
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.diffusion_transformer import DiffusionTransformerModel
from robustok.generators.flow import FlowSampling
from robustok.generators.generate import AnySampling
from robustok.generators.masked import MaskedModel
from robustok.generators.sampling import Sampling
from robustok.generators.unmasking import MaskedSampling
from robustok.losses.discriminator import DinoDiscriminator, FeatureDiscriminator
from robustok.presets.decoders import PAIRS, post_off_the_shelf
from robustok.presets.embedded import demo
from robustok.presets.recipes import EMBEDDED, stage
from robustok.presets.scales import varied
from robustok.runtime.distributed import from_main, world_size
from robustok.runtime.weights import WeightFile
from robustok.tokenizer.autoencoder import Autoencoder
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.post_training import PostTraining
from robustok.training.pretrained import DINO_S16, DINOV2_B14

SMALL = 128  # pixels below which a tokenizer of robustok's own is tuned as on the embedded images
ONE_IN = 10  # images of a small set, of which one is held out


class EmbeddedNetworksWarning(UserWarning):
    """A published network of the losses cannot be had, and an embedded one takes its place."""


def post_small() -> PostTraining:
    """Post-training of robustok's own small tokenizers: the demo's, on all pairs there are, up to four times as long.

    Sigma is found by short tries. It ends sooner where three looks in a row at held-out images find nothing better. Up
    to 15 minutes on two CPU cores for images of 32 pixels. Not yet run.
    """
    longer = {"steps": 2000, "log_every": 20}
    return varied(demo().post, loop=longer, sigma="auto", ema_decay=0.99, pairs=20_000, held_out=2_000, patience=3)


def looking_at(side: int, post: PostTraining) -> PostTraining:
    """The demo's post-training for images of that side: its networks see them whole, at 64 to 224 pixels."""
    least, most = LITE0_SIDES
    return varied(post, objective={"perceptual_size": max(least, min(side, most))})


def post_training_preset(name: str | None = None) -> PostTraining:
    """Post-training of a name: a recipe's, an embedded demo's, or without a name `post_small`. Raises ValueError."""
    return post_small() if name is None else stage(name, "post")


def post_training_for(
    tokenizer: Any,
    generator: Any,
    images: int,
    *,
    name: str | None = None,
    over: Callable[[PostTraining], PostTraining] = lambda config: config,
) -> PostTraining:
    """Post-training that suits what it is given, a number of `images` among it, with the user's settings `over` it.

    Without a name: `post_small` for robustok's own tokenizers of less than 128 pixels, else `post_off_the_shelf`, the
    paper's recipe, for as many of its 200,000 pairs as there are images, its epochs following the pairs; in both sigma
    is found by short tries, as it is with an embedded preset for a tokenizer of another family. Generators of other
    families are sampled as published. A tenth of the images is held out where that is less than the preset's number.
    """
    own = isinstance(tokenizer, Tokenizer | Autoencoder)
    held_out = max(2, images // ONE_IN)

    def chosen(pairs: int) -> PostTraining:
        if name is None and not (own and tokenizer.image_size < SMALL):
            config = post_off_the_shelf("one_gpu" if world_size() == 1 else "paper", pairs=pairs)
        else:
            config = post_training_preset(name)
            if name is None or name in EMBEDDED:
                config = looking_at(tokenizer.image_size, replace(config, sigma=config.sigma if own else "auto"))
        return replace(config, sampling=_sampling(config, generator), held_out=min(config.held_out, held_out))

    there = max(1, images - held_out)
    config = over(chosen(min(PAIRS, there)))
    return over(chosen(min(config.pairs, there)))


def with_networks_at_hand(post: PostTraining) -> PostTraining:
    """The same with networks that come with robustok in the place of published ones that cannot be had.

    Published ones are downloaded if need be. A warning says which could not be, and how to get them.
    """
    images, adversary = post.objective, post.objective.adversary
    network, judge = images.network, adversary.discriminator
    changes: dict[str, Any] = {}
    if isinstance(network, LPIPSVGG) and (images.perceptual or images.gram or images.frechet):
        files = [(network.weights, VGG16), (network.lin_layers, LIN_LAYERS)]
        if _missing("the perceptual term looks", files):
            changes |= {"network": EfficientNetLite0(), "perceptual_stages": min(4, images.perceptual_stages)}
    if isinstance(judge, DinoDiscriminator) and images.adversarial:
        published = DINO_S16 if isinstance(judge.network, DINO) else DINOV2_B14
        if _missing("the discriminator judges", [(judge.network.weights, published)]):
            changes["adversary"] = {"discriminator": FeatureDiscriminator()}
    return varied(post, objective=changes) if changes else post


def _missing(what: str, files: list[tuple[str, WeightFile]]) -> bool:
    """Whether one of the published files cannot be had, which is told: what is done by an embedded network instead."""

    def why() -> str:
        try:
            for weights, file in files:
                if weights == "published":
                    file.path()
        except ValueError as error:
            return str(error)
        return ""

    if told := from_main(why):  # by one process for all, which then train the same
        text = f"{what} by EfficientNet-Lite0, which comes with robustok, for what the paper takes is not here: {told}"
        from_main(lambda: warnings.warn(text, EmbeddedNetworksWarning, stacklevel=4))
    return bool(told)


def _sampling(config: PostTraining, generator: Any) -> AnySampling:
    """The preset's for robustok's own generators (of another family, one may derive from them), else as published."""
    kinds = {Sampling: AutoregressiveModel, MaskedSampling: MaskedModel, FlowSampling: DiffusionTransformerModel}
    return config.sampling if type(generator) is kinds[type(config.sampling)] else default_sampling(generator)
