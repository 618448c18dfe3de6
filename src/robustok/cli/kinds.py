"""Kinds of verbs that are alike: those that read models, that sample a generator, that train."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from robustok.cli.arguments import Device, Fields, OutFolder, OwnSeed, Seed, View
from robustok.cli.options import Configurable, Shared


@dataclass(frozen=True, kw_only=True)
class Models:
    """Models that are read, and where they compute."""

    fields: Fields = ()
    device: Device | None = None

    def opened(self) -> tuple[Any, Any, Any]:
        """The device, and on it what --tokenizer and --generator name, None where a verb has none or none was given."""
        from robustok.cli.images import device_of
        from robustok.cli.models import generator_named, tokenizer_named

        device, names = device_of(self.device), (getattr(self, "tokenizer", None), getattr(self, "generator", None))
        tokenizer = None if names[0] is None else tokenizer_named(names[0], device, self.fields)
        generator = None if names[1] is None else generator_named(names[1], device, tokenizer)
        return device, tokenizer, generator


@dataclass(frozen=True, kw_only=True)
class Sampled(Models, Configurable):
    """Models of which a generator is sampled, as settings say."""

    seed: Seed = 0

    @staticmethod
    def start() -> Any:
        """The plain way to draw tokens, unless settings say otherwise: from the generator's own distribution."""
        from robustok.generators.sampling import Sampling

        return Sampling()

    def sampling(self, generator: Any) -> Any:
        """The way a generator is sampled: as published if that is known, under the settings."""
        from robustok.adapters.published_generators import default_sampling

        usual = default_sampling(generator)
        for name, _ in self.typed:
            if not hasattr(usual, name) and (others := samplings_with(name)):
                raise ValueError(
                    f"--{name} is of {' and '.join(others)}, and a {type(generator).__name__} is sampled as "
                    f"{type(usual).__name__} says; leave it out, or give another kind of generator"
                )
        return self.over(usual)


def samplings_with(name: str) -> list[str]:
    """The kinds of sampling that have a setting."""
    from robustok.generators.generate import AnySampling

    return [kind.__name__ for kind in get_args(AnySampling) if name in kind.__dataclass_fields__]


@dataclass(frozen=True, kw_only=True)
class Training(Models, View, Configurable, Shared):
    """A stage of training, on images, into a folder."""

    group = "Train"
    resumes = True

    out: OutFolder
    # where metrics also go, beside metrics.jsonl; may come several times
    tracker: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    seed: OwnSeed | None = None

    def settings(self, preset: Any) -> Any:
        """The preset of a stage under all that was typed: settings, their files, --seed and --tracker, each once."""
        from robustok.cli.settings import seeded

        config = seeded(self.over(preset), self.seed, self.typed)
        if not self.tracker:
            return config
        return replace(config, loop=replace(config.loop, tracker=tuple(dict.fromkeys(self.tracker))))

    def check_given(self) -> None:
        """Refuse, by a ValueError, an --out that is also read from, and ways to read images where none are read."""
        from robustok.cli.images import check_outside, check_reading

        for name in ("tokenizer", "generator"):
            given = getattr(self, name, None)
            if given is not None and Path(given).is_dir() and Path(given).resolve() == self.out.resolve():
                raise ValueError(f"--out and --{name} are the same folder, {given}; give another --out")
        check_outside(self.out, self, "images", "validation", "reference")
        beside = (getattr(self, "validation", None), getattr(self, "reference", None))
        check_reading(self, getattr(self, "images", None), beside=beside)
