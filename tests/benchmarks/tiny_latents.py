"""A demo of latents that trains within seconds."""

from dataclasses import replace

from tests.training.tiny import AUTOENCODER

from robustok.demo.config import Demo
from robustok.presets import continuous_smoke
from robustok.training.rehearsal import RehearsedLatents

PILOT = RehearsedLatents(freeze_from=0.0, steps=2, batch_size=8, width=32, depth=1)


def tiny_continuous() -> Demo:
    """Without perturbation, of 16 latents."""
    demo = continuous_smoke().without_perturbation()
    main = replace(AUTOENCODER, mask_ratio_max=0.0, perturbation=demo.main.perturbation, loop=demo.main.loop)
    post = replace(demo.post, objective=main.objective)
    demo = replace(demo, main=replace(main, loop=replace(main.loop, steps=4)), post=post)
    return replace(
        demo,
        generator=replace(
            demo.generator,
            loop=replace(demo.generator.loop, steps=2),
            generator=replace(demo.generator.generator, tokens=16, channels=8, patch=1, width=32, depth=1, heads=1),
        ),
    )
