"""`robustok demo`."""

from dataclasses import replace
from pathlib import Path

from robustok import presets
from robustok.cli.options import Command
from robustok.cli.settings import seeded
from robustok.demo.ablation import run_ablation
from robustok.demo.config import Demo
from robustok.demo.corners import corners_table, run_corners
from robustok.demo.run import run_demo
from robustok.runtime.places import check_writable

DEFAULT_OUT = {"discrete": "runs/demo", "continuous": "runs/continuous"}
RUNS = {
    ("default", "discrete"): presets.demo,
    ("short", "discrete"): presets.short,
    ("smoke", "discrete"): presets.smoke,
    ("default", "continuous"): presets.continuous,
    ("short", "continuous"): presets.continuous_short,
    ("smoke", "continuous"): presets.continuous_smoke,
}


def demo_preset(name: str = "default", latent: str = "discrete") -> Demo:
    """The demo of a name, for tokens or for continuous latents."""
    return RUNS[name, latent]()


def demo(command: Command) -> None:
    """Run the demo, its ablation, or the four corners if asked for."""
    several = command.ablate or command.corners
    if command.seeds and not several:
        raise ValueError("--seeds are those of --ablate and --corners; add one of them, or give one --seed")
    if command.ablate and command.corners:
        raise ValueError("--ablate and --corners are two tables; ask for one at a time")
    if several and (command.no_control or command.seed is not None):
        name = "--ablate" if command.ablate else "--corners"
        raise ValueError(
            f"{name} runs the demo with its control for each of --seeds; leave out --seed and --no-control"
        )
    out = command.out or Path("runs/corners" if command.corners else DEFAULT_OUT[command.latent])
    check_writable(out, "folder")
    if command.corners:
        corners(command, out)
        return
    preset = command.start()
    config = command.over(preset)
    if config.with_seed(preset.seed) != preset and config.duration == preset.duration:
        config = replace(config, duration=Demo.duration)  # other settings take another time
    if command.ablate:
        run_ablation(config, out, seeds=command.seeds or (0, 1, 2), quiet=command.quiet)
        return
    config = seeded(config, command.seed, command.typed)
    run_demo(config, out, control=not command.no_control, quiet=command.quiet)


def corners(command: Command, out: Path) -> None:
    """The table of all four corners, of the presets as they are."""
    if command.typed or command.config:
        raise ValueError("--corners takes the presets as they are, of both kinds; leave out settings and --config")
    demos = {latent: demo_preset(command.preset, latent) for latent in DEFAULT_OUT}
    records = run_corners(demos, out, seeds=command.seeds or (0, 1, 2), quiet=command.quiet)
    if not command.quiet:
        print(corners_table(records))
