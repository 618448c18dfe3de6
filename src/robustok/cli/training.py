"""Options that the verbs that train have, and what they do alike."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from robustok.cli.arguments import VIEW, Device, Fields, OutFolder, OwnSeed, View
from robustok.cli.options import Configurable, Shared


@dataclass(frozen=True, kw_only=True)
class Training(Configurable, Shared):
    """A stage of training, on images, into a folder."""

    group = "Train"
    resumes = True

    fields: Fields = ()
    out: OutFolder
    view: View = VIEW
    # where metrics also go, beside metrics.jsonl; may come several times
    tracker: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    seed: OwnSeed | None = None
    device: Device | None = None

    def settings(self, preset: Any) -> Any:
        """The preset of a stage under all that was typed: settings, their files, --seed and --tracker, each once."""
        from robustok.cli.settings import seeded

        config = seeded(self.over(preset), self.seed, self.typed)
        if not self.tracker:
            return config
        return replace(config, loop=replace(config.loop, tracker=tuple(dict.fromkeys(self.tracker))))

    def check_apart(self) -> None:
        """Raises ValueError where --out is a folder of what is read, whose files the run would replace or add to."""
        for name in ("images", "validation", "tokenizer", "generator"):
            given = getattr(self, name, None)
            if given is not None and Path(given).is_dir() and Path(given).resolve() == self.out.resolve():
                raise ValueError(f"--out and --{name} are the same folder, {given}; give another --out")
