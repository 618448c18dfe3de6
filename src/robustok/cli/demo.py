"""`robustok demo`."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from robustok.cli.arguments import Folder, Images, Numbers, OwnSeed, Reading
from robustok.cli.options import Configurable, Verbose

# each without and with perturbation
CORNERS: tuple[Literal["discrete", "continuous"], ...] = ("discrete", "continuous")
SEEDS = (0, 1, 2)  # of an ablation, unless told


@dataclass(frozen=True, kw_only=True)
class Demo(Reading, Configurable, Verbose):
    """The whole method, on embedded images or your own, up to a page of results.

    Trains a tokenizer with latent perturbation, a generator on its tokens or continuous latents, and the decoder for
    the generator; scores each step. Reads only what comes with the packages, images and networks' weights, unless
    --images says otherwise. fashion-mnist are gray clothes at 32 pixels, fluent emoji in scenes, in color at 64; images
    of your own are taken at 64 pixels, too, and a fifth of them, at most 3,000, is only scored on.

    Writes report.html, scores.json, config.json, images/ and one folder per stage into --out.

    Not all is as in the paper: beta is 0.5 and delta 3.9 % of the codes (paper: 0.1 and 2.4 %), losses have an L1 and a
    Frechet term (paper: none), half of a pair is kept (paper: 0.7 to 0.8); in short runs post-training keeps 0.7 of it
    and has a tenth of main training's learning rate (paper: half).
    """

    group = "Start here"
    resumes = True
    # what the generator models; rae: continuous ones too, of a frozen pretrained encoder
    latent: Literal["discrete", "continuous", "rae"] = "discrete"
    generator: Literal["autoregressive", "masked"] = "autoregressive"  # how it draws tokens: in order, or filling in
    preset: Literal["default", "short", "smoke"] = "default"  # which run
    images: Images = "fashion-mnist"
    # folder to write to; runs/demo, runs/masked, runs/continuous, runs/rae or runs/corners unless given, with the name
    # of --images behind it
    out: Folder | None = None
    seed: OwnSeed | None = None
    no_control: bool = False  # leave out the control: the decoder tuned as long on clean latents
    ablate: bool = False  # also train without perturbation, once per seed, and compare
    corners: bool = False  # discrete and continuous, without and with perturbation, once per seed: a table
    # of --ablate and --corners, 0,1,2 unless given
    seeds: Numbers | None = None

    @staticmethod
    def start(
        preset: str = "default",
        latent: str = "discrete",
        images: str = "fashion-mnist",
        generator: str = "autoregressive",
        labels: str | None = None,
        no_flip: bool = False,
        upscale: bool = False,
        broken: Literal["skip", "fail", "replace"] | None = None,
    ) -> Any:
        """The demo of a name, for tokens or for continuous latents, of gray images, of colored ones, of one's own."""
        from robustok import presets
        from robustok.cli.images import ERRORS, check_reading
        from robustok.data.fluent import EMBEDDED
        from robustok.data.sources import open_images

        if latent != "discrete" and generator == "masked":
            raise ValueError(f"a masked generator fills in tokens; leave out --generator masked or --latent {latent}")
        check_reading(Reading(labels=labels, no_flip=no_flip, upscale=upscale, broken=broken), images)
        kind = latent if latent != "discrete" else "masked" if generator == "masked" else ""
        name = "_".join([kind] * bool(kind) + [preset] * (preset != "default"))
        demo = getattr(presets, name or "demo")()
        if images in EMBEDDED:
            return presets.in_color(demo) if images == "fluent" else demo
        listed = open_images(images, 1, labels=labels, errors="defer")
        how: dict[str, Any] = {"labels": labels, "flip": not no_flip, "upscale": upscale}
        return replace(presets.of_own_images(demo, images, listed), broken=ERRORS[broken] if broken else None, **how)

    def run(self) -> None:
        """Run the demo, its ablation, or the 2 x 2 ablation if asked for."""
        from robustok.cli.settings import seeded
        from robustok.demo.ablation import run_ablation
        from robustok.demo.run import run_demo
        from robustok.runtime.places import check_writable

        self._check_seeds()
        out = self._out()
        check_writable(out, "folder")
        if self.corners:
            self._run_corners(out)
            return
        config = self.over(self.chosen())
        if self.ablate:
            run_ablation(config, out, seeds=self.seeds or SEEDS, quiet=self.quiet)
            return
        run_demo(seeded(config, self.seed, self.typed), out, control=not self.no_control, quiet=self.quiet)

    def _out(self) -> Path:
        """The folder to write to. Raises ValueError for one within the images, whose pictures would be among them."""
        from robustok.cli.images import check_outside

        kind = "corners" if self.corners else "masked" if self.generator == "masked" else self.latent
        name = re.sub(r"\W+", "-", Path(self.images).resolve().stem).strip("-")
        usual = "demo" if kind == "discrete" else kind
        out = self.out or Path("runs", usual + f"-{name}" * (name != "fashion-mnist"))
        check_outside(out, self, "images")
        return out

    def _check_seeds(self) -> None:
        """Refuse, by a ValueError, options that do not go together."""
        several = self.ablate or self.corners
        if self.seeds and not several:
            raise ValueError("--seeds are those of --ablate and --corners; add one of them, or give one --seed")
        if self.ablate and self.corners:
            raise ValueError("--ablate and --corners are two tables; ask for one at a time")
        if self.corners and (self.generator == "masked" or self.latent != "discrete"):
            raise ValueError("--corners is of both kinds, discrete and continuous; leave out --generator and --latent")
        if several and (self.no_control or self.seed is not None):
            name = "--ablate" if self.ablate else "--corners"
            raise ValueError(
                f"{name} runs the demo with its control for each of --seeds; leave out --seed and --no-control"
            )

    def _run_corners(self, out: Path) -> None:
        """The table of the 2 x 2 ablation, of the presets as they are."""
        from robustok.demo.ablation import factorial_table, run_factorial

        if self.typed or self.config:
            raise ValueError("--corners takes the presets as they are, of both kinds; leave out settings and --config")
        demos: dict[str, Any] = {latent: replace(self, latent=latent).chosen() for latent in CORNERS}
        records = run_factorial(demos, out, seeds=self.seeds or SEEDS, quiet=self.quiet)
        if not self.quiet:
            print(factorial_table(records))
