"""Main training in one phase, or in two: first everything, clean; then the decoder alone, perturbed."""

from torch import nn

from robustok.tokenizer.latent_perturbation import AnyLatentPerturbation
from robustok.tokenizer.perturbation import Perturbation, ReleasedPerturbation, second_phase
from robustok.training.optim import Optimizer


class Phases:
    """Which phase a run is in, and how one gives way to the other. There is one unless the latent space is frozen."""

    def __init__(self, perturbation: Perturbation | ReleasedPerturbation | AnyLatentPerturbation, steps: int):
        self.steps = steps
        self.change = second_phase(perturbation, steps)  # the second one's first step; all steps where there is none
        self.decoder_only = False  # whether the second one has begun

    @property
    def perturbing(self) -> bool:
        """True when images are perturbed in this phase: in the last one."""
        return self.decoder_only or self.change == self.steps

    def begins(self, step: int) -> bool:
        """True when the second phase begins with this step."""
        return self.change < self.steps and step >= self.change and not self.decoder_only

    def begin(self, model: nn.Module, averaged: nn.Module) -> None:
        """The second phase: the decoder goes on, on encoder and codes as they were averaged in the first."""
        model.load_state_dict(averaged.state_dict())
        self.hold(model)

    def hold(self, model: nn.Module) -> None:
        """From now on only the decoder changes."""
        self.decoder_only = True
        model.eval()
        decoder = model.get_submodule("decoder").train()
        own = set(decoder.parameters())
        for weight in model.parameters():
            weight.requires_grad_(weight.requires_grad and weight in own)

    def step_in_phase(self, step: int, optimizer: Optimizer) -> int:
        """The step within the phase: each has a course of the learning rate of its own, which the optimizer takes."""
        first, last = (self.change, self.steps) if self.decoder_only else (0, self.change)
        optimizer.steps = last - first
        return step - first
