"""The settings of stage 1, of tokenizers with a codebook and without."""

from dataclasses import dataclass, field
from typing import TypeAlias

from robustok.backbones.dino import DINOv2
from robustok.backbones.lite import EfficientNetLite0
from robustok.runtime.configs import check_least
from robustok.tokenizer.autoencoder import AutoencoderConfig
from robustok.tokenizer.latent_perturbation import AnyLatentPerturbation
from robustok.tokenizer.perturbation import Perturbation, ReleasedPerturbation, second_phase
from robustok.tokenizer.tokenizer import TokenizerConfig
from robustok.training.calibration import Calibrated
from robustok.training.loop import Loop
from robustok.training.objective import Objective
from robustok.training.optim import Optim, Precision
from robustok.training.performance import Performance
from robustok.training.pilot import now
from robustok.training.rehearsal import Rehearsed, RehearsedLatents

OfTokens: TypeAlias = Perturbation | ReleasedPerturbation | Calibrated | Rehearsed
OfLatents: TypeAlias = AnyLatentPerturbation | RehearsedLatents
AnyPerturbation: TypeAlias = OfTokens | OfLatents
OF_A_CODEBOOK = ("codebook", "semantic", "semantic_scale", "teacher", "semantic_size")  # settings of one kind only
OF_LATENTS = ("mask_ratio_min", "mask_ratio_max", "statistics_images")


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining:
    """Training of a tokenizer with a codebook or without one: the kind of the perturbation says which."""

    tokenizer: TokenizerConfig | AutoencoderConfig | None = None  # what is trained; None: a tokenizer that is given
    start: DINOv2 | None = None  # whose weights a new tokenizer's vision transformers begin with
    loop: Loop  # how long, and how often to log, save and preview
    perturbation: AnyPerturbation = field(default_factory=Perturbation)  # what the decoder learns to tolerate
    objective: Objective = field(default_factory=Objective)  # what is asked of decoded images
    codebook: float = 1.0  # with a codebook: weight of the codebook and commitment losses
    semantic: float = 0.1  # with a codebook: weight of the semantic term; 0 leaves it out
    semantic_scale: float = 1 / 0.07  # what the cosines of the semantic term are multiplied by, as CLIP starts
    teacher: EfficientNetLite0 | DINOv2 = field(  # whose features the semantic term compares with
        default_factory=EfficientNetLite0
    )
    semantic_size: int = 224  # side in pixels at which the semantic teacher sees the images
    mask_ratio_min: float = 0.0  # without: least fraction of patches hidden from the encoder (MAETok 0.4, l-DeTok -0.1)
    mask_ratio_max: float = 0.0  # largest (MAETok 0.6, l-DeTok 0.7); uniform in each step, below 0 counts as 0
    statistics_images: int = 10_000  # without: images whose latents' mean and scale become the tokenizer's
    optim: Optim = field(default_factory=lambda: Optim(lr=2.4e-4, warmup=1000))  # of encoder, codebook, decoder
    ema_decay: float = 0.9999  # of the weights' moving average, which is what is kept
    precision: Precision = "auto"  # bf16 where the hardware multiplies it
    performance: Performance = field(default_factory=Performance)  # how it is computed

    def __post_init__(self) -> None:
        if not -1 <= self.mask_ratio_min <= self.mask_ratio_max < 1:
            raise ValueError(
                "mask_ratio_min and mask_ratio_max are fractions of patches below 1, the first not above the second; "
                f"not {self.mask_ratio_min} and {self.mask_ratio_max}"
            )
        check_least(self, 1, "statistics_images", "semantic_size")
        if not self.objective.of_pairs:
            raise ValueError(
                "the objective has no term between an image and its reconstruction; give l1, l2, perceptual or gram a "
                "weight"
            )
        self._check_kind()
        self._check_phases()

    def _check_phases(self) -> None:
        """Raises ValueError for so few steps that one of two phases has none, or a new tokenizer without a first."""
        perturbation, steps = now(self.perturbation), self.loop.steps
        if perturbation.latent_space != "frozen":
            return
        if perturbation.freeze_from == 0 and self.tokenizer is not None:
            raise ValueError(
                "perturbation freeze_from is 0, so only the decoder would learn, of a tokenizer that is new; give a "
                "finished tokenizer, or a fraction above 0, for example 0.75"
            )
        least = 0 if perturbation.freeze_from == 0 else 1
        if not least <= second_phase(perturbation, steps) < steps:
            raise ValueError(
                f"perturbation freeze_from is {perturbation.freeze_from}, which leaves one of the two phases without a "
                f"step, for there are {steps} in all; take more steps, or another fraction, for example 0.75 of 4 or "
                "more"
            )

    def _check_kind(self) -> None:
        """Raises ValueError for settings of a tokenizer of the other kind."""
        if self.tokenizer is not None and self.has_codebook != isinstance(self.tokenizer, TokenizerConfig):
            raise ValueError(other_kind(self.perturbation, type(self.tokenizer).__name__, not self.has_codebook))
        defaults = type(self).__dataclass_fields__
        for name in OF_LATENTS if self.has_codebook else OF_A_CODEBOOK:
            value, made = getattr(self, name), defaults[name]
            default = made.default_factory() if callable(made.default_factory) else made.default
            if value and value != default:
                kind = "without" if self.has_codebook else "with"
                raise ValueError(f"{name} is of tokenizers {kind} a codebook, which this is not; leave it out")

    @property
    def has_codebook(self) -> bool:
        """True when what is trained has a codebook."""
        return isinstance(self.perturbation, OfTokens)


def other_kind(perturbation: AnyPerturbation, tokenizer: str, has_codebook: bool) -> str:
    """The message against perturbing a tokenizer as one of the other kind is."""
    if has_codebook:
        kind, remedy = "has a", "Perturbation or Rehearsed"
    else:
        kind, remedy = "has no", "LatentNoise, RehearsedLatents, LatentMixing or AddedNoise"
    return (
        f"a {tokenizer} {kind} codebook and is not perturbed by {type(perturbation).__name__}; set perturbation to "
        f"{remedy}"
    )
