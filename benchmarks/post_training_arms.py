"""The arms of the post-training bake-off: what each makes of the demo's post-training, and the models they share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from robustok.backbones.vgg import VGGHED
from robustok.demo.config import Demo
from robustok.presets import continuous, demo
from robustok.presets.scales import varied
from robustok.training.discriminator_training import Adversarial
from robustok.training.post_training import PostTraining
from robustok.training.rehearsal import RehearsedLatents

ORIGINAL, CLEAN, LIMITED_CLEAN = "original", "clean control", "limited, clean control"
SPACES = ("lite0", "lite2", "vgg-hed")  # the first is trained in, unless an arm's networks are of another family


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long each arm trains, and on how many images it is judged; the same for all of them."""

    steps: int = 500
    pairs: int = 4_000
    free_samples: int = 4_000
    held_out: int = 2_000  # training images that nothing was trained on; they choose the step that is kept
    scored: int = 2_000  # samples, every class equally often
    train: int = 55_000
    reference: int = 10_000  # validation images


Change = Callable[[PostTraining], PostTraining]


def with_lr(fraction: float, change: Change = lambda config: config) -> Change:
    """At a fraction of main training's learning rate."""
    lr = demo().main.optim.lr
    return lambda config: replace(change(config), optim=replace(config.optim, lr=fraction * lr))


def with_sigma(sigma: Any) -> Change:
    return with_lr(0.5, lambda config: replace(config, sigma=sigma, free_samples=0))


def with_weights(config: PostTraining, *, free: bool = True, **weights: Any) -> PostTraining:
    """Other weights of the objective; `free`: distributions are judged on free samples."""
    objective = replace(config.objective, **weights)
    return replace(config, objective=objective, free_samples=config.free_samples if free else 0)


def unpaired(config: PostTraining, **weights: Any) -> PostTraining:
    """Free samples only: nothing is asked of pairs."""
    adversary = replace(config.objective.adversary, adaptive=bool(weights.get("frechet")))
    none = {"l1": 0.0, "l2": 0.0, "perceptual": 0.0, "adversarial": 0.0, "frechet": 0.0, "adversary": adversary}
    return with_weights(config, **(none | weights))


def limited(change: Change) -> Change:
    """With the demo's limit of the adversarial term's balance. Arms without it have VQGAN's, 10,000."""
    limit = demo().post.objective.adversary.adaptive_max
    return lambda config: varied(change(config), objective={"adversary": {"adaptive_max": limit}})


# Rivals' objectives; GAR's (arXiv 2609.24088) by its own weights, its discriminator ours, FDDA's in spaces ours.
GAR = {"l1": 0.0, "l2": 1.0, "perceptual": 1.0, "gram": 10.0, "adversarial": 0.7, "consistency": 4.0, "frechet": 0.0}
FDDA: dict[str, Any] = {"frechet": 1.0, "frechet_spaces": ("lite0", "lite2")}  # vgg-hed is held out
HALF = 0.5  # of main training's learning rate, as in the paper
ARMS: dict[str, Change] = {
    ORIGINAL: lambda config: config,
    "paired": with_sigma(0.7),
    CLEAN: with_lr(HALF, lambda config: replace(config, sigma=1.0, free_samples=0)),
    "paired, sigma 0.5": with_sigma(0.5),
    "paired, sigma 0.5, float32": lambda config: replace(
        with_sigma(0.5)(config), precision="fp32", sampling_precision="fp32"
    ),
    "limited, sigma 0.5": limited(with_sigma(0.5)),
    "limited, sigma 0.5, a witness": limited(lambda config: replace(with_sigma(0.5)(config), witnesses=("vgg-hed",))),
    LIMITED_CLEAN: limited(with_lr(HALF, lambda config: replace(config, sigma=1.0, free_samples=0))),
    "limited, sigma 0.5, float32": limited(
        lambda config: replace(with_sigma(0.5)(config), precision="fp32", sampling_precision="fp32")
    ),
    "limited, sigma 0.7": limited(with_sigma(0.7)),
    "paired, sigma 0.3": with_sigma(0.3),
    "paired, sigma 0.8": with_sigma(0.8),
    "paired, sigma 0.9": with_sigma(0.9),
    "paired, sigma 0.5 to 0.9": with_sigma((0.5, 0.9)),
    "paired, sigma auto": with_sigma("auto"),
    "paired, a tenth of the rate": with_lr(0.1, lambda config: replace(config, free_samples=0)),
    "paired, the whole rate": with_lr(1.0, lambda config: replace(config, free_samples=0)),
    "paired, without Frechet": with_lr(HALF, lambda config: with_weights(config, free=False, frechet=0.0)),
    "paired, one pass": with_lr(HALF, lambda config: replace(config, pair_mode="one-pass", free_samples=0)),
    "free, Frechet": with_lr(HALF, lambda config: unpaired(config, frechet=1.0)),
    "free, discriminator": with_lr(HALF, lambda config: unpaired(config, adversarial=1.0)),
    "paired and free discriminator": with_lr(HALF, lambda config: with_weights(config, frechet=0.0)),
    "paired and free Frechet": with_lr(HALF, lambda config: with_weights(config, adversarial=0.0, frechet=1.0)),
    "paired and free both": with_lr(HALF, lambda config: with_weights(config, frechet=1.0)),
    "limited, Gram": limited(lambda config: with_weights(with_sigma(0.5)(config), free=False, gram=10.0)),
    "limited, Gram and consistency": limited(lambda config: with_weights(with_sigma(0.5)(config), free=False, **GAR)),
    "limited, Frechet in two spaces": limited(
        lambda config: with_weights(with_sigma(0.5)(config), free=False, frechet_spaces=FDDA["frechet_spaces"])
    ),
    "limited, sigma auto": limited(with_sigma("auto")),
    "limited, paired and free both": limited(
        with_lr(HALF, lambda config: replace(with_weights(config, frechet=1.0), sigma=0.5))
    ),
    "free, Frechet in two spaces": with_lr(HALF, lambda config: unpaired(config, **FDDA)),
    "paired and free Frechet in two spaces": with_lr(
        HALF, lambda config: with_weights(config, adversarial=0.0, **FDDA)
    ),
    "paired, VGG-HED looks": with_lr(
        HALF, lambda config: with_weights(config, free=False, network=VGGHED(), perceptual_stages=3)
    ),
}
OF_LATENTS = ("paired, one pass",)  # arms that there are without a codebook only

CORNERS: dict[str, Callable[[], Demo]] = {
    "tokens": demo,
    "tokens, unperturbed": lambda: demo().without_perturbation(),
    "latents": continuous,
    "latents, unperturbed": lambda: continuous().without_perturbation(),
    "latents, rehearsed": lambda: varied(continuous(), main={"perturbation": RehearsedLatents()}),
}


def configured(arm: str, preset: Demo, size: Size, seed: int) -> PostTraining:
    """Post-training as an arm has it, from the demo's, at the size of the study."""
    post = preset.post
    loop = replace(post.loop, steps=size.steps, seed=seed, save_every=max(1, size.steps // 4), preview_every=0)
    base = replace(
        varied(post, objective={"adversary": {"adaptive_max": Adversarial().adaptive_max}}),
        loop=loop,
        sigma=0.7,
        patience=0,
        witnesses=(),
        pairs=size.pairs,
        free_samples=size.free_samples,
        held_out=size.held_out,
        validate_every=max(1, size.steps // 2),
    )
    return ARMS[arm](base)


def control_of(arm: str) -> str | None:
    """The arm that trains as long, and as this one does, on images' own tokens."""
    if arm in (ORIGINAL, CLEAN, LIMITED_CLEAN):
        return None
    return LIMITED_CLEAN if arm.startswith("limited") else CLEAN


def file_name(*parts: Any) -> str:
    return "_".join(str(part).replace(",", "").replace(" ", "_").replace(".", "") for part in parts)


def queue(corner: str, seed: int) -> list[tuple[str, str, int]]:
    return [(corner, arm, seed) for arm in ARMS if arm not in OF_LATENTS or corner.startswith("latents")]
