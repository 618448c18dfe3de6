"""Post-training as it is unless its user says otherwise: chosen by what it is given, for library and command line."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from robustok.adapters.published_generators import default_sampling
from robustok.evaluation.features.spaces.embedded import LITE0_SIDES
from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.diffusion_transformer import DiffusionTransformerModel
from robustok.generators.flow import FlowSampling
from robustok.generators.generate import AnySampling
from robustok.generators.masked import MaskedModel
from robustok.generators.sampling import Sampling
from robustok.generators.unmasking import MaskedSampling
from robustok.presets.decoders import PAIRS, post_off_the_shelf
from robustok.presets.embedded import demo
from robustok.presets.recipes import EMBEDDED, stage
from robustok.presets.scales import varied
from robustok.runtime.distributed import world_size
from robustok.tokenizer.autoencoder import Autoencoder
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.post_training import PostTraining

SMALL = 128  # pixels below which a tokenizer of robustok's own is tuned as on the embedded images
OTHERS_SIGMA = 0.9  # for decoders that were trained without perturbation (arXiv 2509.12474, sec. 4.3)
ONE_IN = 10  # images of a small set, of which one is held out


def post_small() -> PostTraining:
    """Post-training of robustok's own small tokenizers: the demo's, on all pairs there are, up to four times as long.

    It ends sooner where three looks in a row at held-out images find nothing better. Up to 12 minutes on two CPU cores
    for images of 32 pixels. Not yet run.
    """
    longer = {"steps": 2000, "log_every": 20}
    return varied(demo().post, loop=longer, sigma=0.7, ema_decay=0.99, pairs=20_000, held_out=2_000, patience=3)


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
    paper's recipe, for as many of its 200,000 pairs as there are images, its epochs following the pairs. Tokenizers of
    other families keep 90 % of a pair, robustok's own, which saw perturbed latents, 70 %; generators of other families
    are sampled as published. A tenth of the images is held out where that is less than the preset's number.
    """
    own = isinstance(tokenizer, Tokenizer | Autoencoder)
    held_out = max(2, images // ONE_IN)

    def chosen(pairs: int) -> PostTraining:
        if name is None and not (own and tokenizer.image_size < SMALL):
            paper = post_off_the_shelf("one_gpu" if world_size() == 1 else "paper", pairs=pairs)
            config = replace(paper, sigma=0.7 if own else OTHERS_SIGMA)
        else:
            config = post_training_preset(name)
            if name is None or name in EMBEDDED:
                config = looking_at(tokenizer.image_size, replace(config, sigma=config.sigma if own else OTHERS_SIGMA))
        return replace(config, sampling=_sampling(config, generator), held_out=min(config.held_out, held_out))

    there = max(1, images - held_out)
    config = over(chosen(min(PAIRS, there)))
    return over(chosen(min(config.pairs, there)))


def _sampling(config: PostTraining, generator: Any) -> AnySampling:
    """The preset's for robustok's own generators (of another family, one may derive from them), else as published."""
    kinds = {Sampling: AutoregressiveModel, MaskedSampling: MaskedModel, FlowSampling: DiffusionTransformerModel}
    return config.sampling if type(generator) is kinds[type(config.sampling)] else default_sampling(generator)
