"""`robustok demo`."""

from dataclasses import replace
from pathlib import Path

from robustok import presets
from robustok.cli.options import Command
from robustok.demo.ablation import run_ablation
from robustok.demo.config import Demo
from robustok.demo.run import run_demo


def demo_preset(name: str = "default", latent: str = "discrete") -> Demo:
    """The demo of a name, for tokens or for continuous latents."""
    return {
        ("default", "discrete"): presets.demo,
        ("smoke", "discrete"): presets.smoke,
        ("default", "continuous"): presets.continuous,
        ("smoke", "continuous"): presets.continuous_smoke,
    }[name, latent]()


def demo(command: Command) -> None:
    """Run the demo, and its ablation if asked for."""
    if command.seeds and not command.ablate:
        raise ValueError("--seeds are those of --ablate; add it, or give one --seed")
    if command.ablate and (command.no_control or command.seed is not None):
        raise ValueError(
            "--ablate runs the demo with its control for each of --seeds; leave out --seed and --no-control"
        )
    preset = command.start()
    out = command.out or Path("runs/demo" if command.latent == "discrete" else "runs/continuous")
    config = command.over(preset)
    if config.with_seed(preset.seed) != preset and config.duration == preset.duration:
        config = replace(config, duration=Demo.duration)  # other settings take another time
    if command.ablate:
        run_ablation(config, out, seeds=command.seeds or (0, 1, 2), quiet=command.quiet)
        return
    if command.seed is not None:
        config = config.with_seed(command.seed)
    run_demo(config, out, control=not command.no_control, quiet=command.quiet)
