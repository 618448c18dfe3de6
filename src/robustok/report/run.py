"""A run folder as the page reads it: what is there, and a list of what is not.

config.json                   every setting of the run
scores.json                   a list of records (`Record`)
ablation.json                 the same, each protocol with "arm" (perturbed, unperturbed), "seed" and, for
                              gfid_before, "generator_share" (the fraction of the generator's steps taken)
{stage}/metrics.jsonl         rows of logged values, for each of `STAGES`
generator/steps_to_gfid.json  steps and epochs until gFID fell below a value, where that was asked for
{stage}/config.json, run.json what the stage trained, and how
post_training/tries/tries.json  the short tries that chose sigma, if it was to choose itself
images/images.json            {"grids": [{"file": "real.png", ...the fields of `Grid`}]}

The folder of one stage, whose run.json says which, is a run of that stage: {stage} above is the folder itself, and its
grids are the last ones in previews/.
"""

import base64
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from robustok.evaluation.scores.metric_names import VARIANTS
from robustok.evaluation.scores.score import fault_of
from robustok.runtime.checkpoint import read_json
from robustok.runtime.configs import flat
from robustok.runtime.logging import MetricsLog
from robustok.training.validation import STEPS_FILE

STAGES = {
    "tokenizer": "Main training",
    "generator": "Generator training",
    "post_training": "Post-training",
    "control": "Control",
}
# stages by the type of their settings
KINDS = {"TokenizerTraining": "tokenizer", "GeneratorTraining": "generator", "PostTraining": "post_training"}
# where the settings of a stage's own files say what its generator was made for
TOLD = ("generator.training.stage.generator", "generator.model.config")
IMAGES, HELD_OUT = "images", "heldout_fd"
SMALL = 96  # side up to which images are magnified
GROUPS = ("overview", "pairs", "changed", "nearest")

Record = dict[str, Any]  # {"metric", "value", "interval", "images", "seeds", "protocol": {...}}
Row = dict[str, float]  # {"step", name: value, ...}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One PNG of equal cells."""

    png: bytes
    title: str
    caption: str = ""
    group: str = "overview"  # overview, pairs (of the same tokens), changed (most), nearest (training images)
    columns: int = 1  # cells in a row
    cell: int = 32  # side of a cell in pixels
    labels: tuple[str, ...] = ()  # what each column shows, where that is one thing

    def __post_init__(self) -> None:
        if self.png[:8] != b"\x89PNG\r\n\x1a\n" or len(self.png) < 24:
            raise ValueError("is not a PNG file")
        if self.group not in GROUPS:
            raise ValueError(f"has the group {self.group!r}, which is none of {', '.join(GROUPS)}")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels (PNG specification, IHDR)."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height

    @property
    def rows(self) -> int:
        return max(1, self.size[1] // self.cell)

    @property
    def small(self) -> bool:
        """True where the images are magnified, pixel by pixel."""
        return self.cell <= SMALL

    @property
    def alt(self) -> str:
        """A description for a reader who cannot see it."""
        if self.columns == self.rows == 1:
            return f"{self.title}. {self.caption}"
        return f"{self.title}: {self.rows} rows of {self.columns} images. {', '.join(self.labels)}".strip()

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that the page shows of one run."""

    name: str
    only: str | None = None  # the stage that it is, where it is a single one
    config: Record = field(default_factory=dict)
    stage_configs: dict[str, Record] = field(default_factory=dict)  # stage -> what it trained, and how
    scores: list[Record] = field(default_factory=list)
    ablation: list[Record] = field(default_factory=list)  # records whose protocol names an arm
    metrics: dict[str, list[Row]] = field(default_factory=dict)  # stage -> rows, by step
    grids: list[Grid] = field(default_factory=list)
    tries: list[Record] = field(default_factory=list)  # of sigma, where post-training chose it
    missing: list[str] = field(default_factory=list)  # one sentence each
    damaged: list[str] = field(default_factory=list)  # those of them that are of damage

    def score(self, metric: str, **protocol: Any) -> Record | None:
        """The first record of that metric whose protocol has these entries."""
        return next(find(self.scores, metric, **protocol), None)

    def value(self, metric: str, **protocol: Any) -> float | None:
        record = self.score(metric, **protocol)
        return None if record is None else record["value"]

    def values(self, metric: str, **protocol: Any) -> dict[str, float | None]:
        """A score of generated images under each decoder: before, control, after."""
        return {decoder: self.value(f"{metric}_{decoder}", **protocol) for decoder in VARIANTS}

    def series(self, stage: str, name: str) -> list[tuple[float, float]]:
        """(step, value) of one logged name, finite values only."""
        rows = self.metrics.get(stage, [])
        return [(r["step"], r[name]) for r in rows if name in r and math.isfinite(r[name])]

    @property
    def latents(self) -> str:
        """The thing that is generated and decoded: "tokens", or "latents" of a tokenizer without a codebook."""
        noisy = self.score("pfid", kind="latent noise")
        return "latents" if noisy or self.setting("tokenizer.model.kind") == "autoencoder" else "tokens"

    @property
    def codes(self) -> int | None:
        """Codes of the tokenizer: as many as its generator was told, else as its quantizer is said to have.

        Not those of the demo's own settings of a generator, which are a preset's, whatever tokenizer there is.
        """
        codes: int | None = self.setting(*(f"{place}.codebook_size" for place in (*TOLD, "quantizer")))
        return codes

    @property
    def tokens(self) -> int | None:
        """Tokens of an image, once a generator was told; of other runs as their settings have it."""
        tokens: int | None = self.setting("tokens_per_image", *(f"{place}.tokens" for place in TOLD))
        return tokens

    def chosen_step(self, stage: str) -> float | None:
        """The step of the kept decoder: the one it names, or the first at which the held-out check is lowest."""
        said = self.setting(f"{stage}.model.post_training.step")
        if said is not None:
            return float(said)
        points = self.series(stage, HELD_OUT)
        return min(points, key=lambda point: point[1])[0] if points else None

    def kept(self, stage: str) -> bool:
        """True where a stage of post-training kept the decoder that it began with."""
        return self.chosen_step(stage) == 0

    def steps(self, stage: str) -> int | None:
        """Steps that a stage has taken."""
        rows = self.metrics.get(stage)
        return int(max(r["step"] for r in rows)) if rows else None

    def setting(self, *endings: str) -> Any:
        """The first setting whose dotted name ends in one of `endings`; None where there is none."""
        for ending in endings:
            for key, value in self._settings:
                if key.endswith(f".{ending}"):
                    return value
        return None

    @cached_property
    def _settings(self) -> list[tuple[str, Any]]:
        """Dotted names, after a dot, and values: a page asks some twenty times."""
        return [(f".{key}", value) for part in (self.config, self.stage_configs) for key, value in flat(part).items()]


def find(records: list[Record], metric: str, **protocol: Any) -> Iterator[Record]:
    """The records of one metric whose protocol has these entries."""
    for record in records:
        if record["metric"] == metric and all(record["protocol"].get(k) == v for k, v in protocol.items()):
            yield record


def read_run(folder: Path) -> Run:
    """A run folder, complete or not; what cannot be read is named in `missing`.

    Raises ValueError for a folder that holds nothing of a run.
    """
    names = ["config.json", "scores.json", f"{IMAGES}/images.json", *(f"{stage}/metrics.jsonl" for stage in STAGES)]
    if not any((folder / name).is_file() for name in names):
        raise ValueError(
            f"{folder} holds no run: there is none of {', '.join(names)}; give the folder that a run wrote"
        )
    reader = _Reader(folder)
    places, config, records = {stage: stage for stage in STAGES}, {}, list[Record]()
    if only := reader.only():
        places = {only: "."} | ({"control": "control"} if (folder / "control").is_dir() else {})
    else:
        config, records = reader.read("config.json", dict), list(reader.records("scores.json"))
        for file in ("ablation.json", f"generator/{STEPS_FILE}"):
            records += reader.records(file, needed=False)
    return Run(
        name=folder.resolve().name,
        only=only,
        config=config,
        scores=[r for r in records if "arm" not in r["protocol"]],
        ablation=[r for r in records if "arm" in r["protocol"]],
        metrics={stage: rows for stage, place in places.items() if (rows := reader.rows(place))},
        stage_configs={stage: told for stage, place in places.items() if (told := reader.settings(place))},
        grids=list(reader.previews() if only else reader.grids()),
        tries=reader.read(f"{'' if only else 'post_training/'}tries/tries.json", list, needed=False),
        missing=reader.missing,
        damaged=reader.damaged,
    )


@dataclass(frozen=True)
class _Reader:
    """Files of a run folder; what is not there or damaged is left out and named in `missing`, in a sentence each."""

    folder: Path
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def read(self, place: str, kind: type, *, needed: bool = True) -> Any:
        """The content of a JSON file if it is of the kind, otherwise an empty one."""
        path = self.folder / place
        try:
            content = read_json(path) if path.is_file() else None
            fault = f"{place} holds a {type(content).__name__} where a {kind.__name__} belongs."
        except ValueError:
            content, fault = None, f"{place} is damaged: it is not JSON."
        if isinstance(content, kind):
            return content
        if path.is_file():
            self.tell_damage(fault)
        elif needed:
            self.missing.append(f"{place} is not there.")
        return kind()

    def tell_damage(self, fault: str) -> None:
        self.missing.append(fault)
        self.damaged.append(fault)

    def only(self) -> str | None:
        """The stage that the folder itself is of, if it is of one."""
        if not (self.folder / "run.json").is_file():
            return None
        stage = self.read("run.json", dict).get("stage")
        return KINDS.get(stage.get("type", "")) if isinstance(stage, dict) else None

    def previews(self) -> Iterator[Grid]:
        """The last picture of each name."""
        last = {path.stem.rpartition("_")[0]: path for path in sorted((self.folder / "previews").glob("*_*.png"))}
        for name, path in last.items():
            step = path.stem.rpartition("_")[2].lstrip("0") or "0"
            grid = Grid(png=path.read_bytes(), title=name.replace("_", " ").capitalize(), caption=f"Step {step}.")
            yield replace(grid, cell=grid.size[0])

    def records(self, place: str, *, needed: bool = True) -> Iterator[Record]:
        for i, record in enumerate(self.read(place, list, needed=needed)):
            told: Record = {"interval": None, "images": None, "seeds": None, "protocol": {}}
            told |= record if isinstance(record, dict) else {}
            unknown: Record = {name: usual for name, usual in (("images", 0), ("seeds", [])) if told[name] is None}
            if fault := fault_of(told | unknown):
                self.tell_damage(f"Record {i} of {place} is no score: {fault}.")
            else:
                yield told

    def rows(self, stage: str) -> list[Row]:
        """The numbers of a stage's `metrics.jsonl`, by step."""
        rows = [
            {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
            for row in MetricsLog(self.folder / stage).rows()
        ]
        if not rows:
            self.missing.append(f"{Path(stage) / 'metrics.jsonl'} is not there, or empty.")
        return sorted((row for row in rows if "step" in row), key=lambda row: row["step"])

    def settings(self, stage: str) -> Record:
        """The "model" of a stage and its "training", as far as it says."""
        files = {"model": "config.json", "training": "run.json"}
        found = {name: self.read(f"{stage}/{file}", dict, needed=False) for name, file in files.items()}
        return {name: settings for name, settings in found.items() if settings}

    def grids(self) -> Iterator[Grid]:
        for entry in self.read(f"{IMAGES}/images.json", dict).get("grids", []):
            settings: dict[str, Any] = {name: value for name, value in entry.items() if name != "file"}
            settings |= {"labels": tuple(entry["labels"])} if "labels" in entry else {}
            try:
                yield Grid(png=(self.folder / IMAGES / entry["file"]).read_bytes(), **settings)
            except (OSError, KeyError, TypeError, ValueError) as error:
                reason = "is not there" if isinstance(error, FileNotFoundError) else str(error)
                self.missing.append(f"The image {entry.get('file', 'without a file name')} {reason}.")
