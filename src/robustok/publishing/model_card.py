"""The README.md of a model folder: what it is, how to load it, its scores by their protocol, recipe, data, licence."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from robustok.evaluation.scores.metric_names import metric_named
from robustok.evaluation.scores.score import Score
from robustok.runtime.checkpoint import CONFIG, MODEL, read_json, write_bytes

CARD, SCORES, RUN = "README.md", "scores.json", "run.json"
DATA_LICENCES = {"fashion-mnist": "MIT", "fluent": "MIT"}  # of image sets by the name they give themselves
PARTS = ("pfid_cell",)  # scores that another is the mean of


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a folder does not know of its model."""

    name: str = ""  # what the model is called: owner/name on the hub, which is also how the card says to load it
    licence: str | None = None  # of the weights: an identifier of the hub, such as apache-2.0
    data_licence: str | None = None  # of the images it was trained on


def write_card(folder: str | Path, card: Card = Card()) -> Path:
    """Write `folder/README.md` and return its path; one that is there stays as it is."""
    path = Path(folder) / CARD
    if not path.exists():
        write_bytes(path, model_card(folder, card).encode())
    return path


def model_card(folder: str | Path, card: Card = Card()) -> str:
    """The card of the model in a folder, from `config.json`, and from `run.json` and `scores.json` if they are there.

    Raises ValueError for a folder without a model of robustok or of one of its adapters.
    """
    folder = Path(folder)
    config = described(folder)
    kind, name = config["kind"], card.name or folder.resolve().name
    run = read_json(folder / RUN) if (folder / RUN).is_file() else {}
    noun = "generator" if "generator" in kind else "tokenizer"
    what = f"{_a(_words(config))}, with {_parameters(folder)} parameters, made with robustok (`pip install robustok`)."
    parts = [
        _front_matter(kind, config.get("family"), card.licence),
        f"# {name}",
        what[0].upper() + what[1:],
        *_section(
            "Use", [_code("python", f'import robustok\n\n{noun} = robustok.load_{noun}("{name}")')], _pair(config)
        ),
        *_section("Scores", _scores(folder, config)),
        *_section("Training", _training(config, run)),
        *_section("Data", [_data(run, card.data_licence)]),
        *_section("Licence", [_licence(card.licence)]),
        *_section(
            "Configuration", [_code("json", json.dumps(config["config"], indent=2))] if "config" in config else []
        ),
    ]
    return "\n\n".join(parts) + "\n"


def described(folder: Path) -> dict[str, Any]:
    """The `config.json` of a model folder. Raises ValueError for another folder."""
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if not isinstance(config, dict) or "kind" not in config or not (folder / MODEL).is_file():
        raise ValueError(
            f"{folder} holds no model of robustok: it needs {MODEL} and a {CONFIG} that says its kind; "
            "give a folder that a run or save_pretrained wrote"
        )
    return config


def _front_matter(kind: str, family: str | None, licence: str | None) -> str:
    """What the hub reads, as YAML; JSON strings are strings of YAML."""
    tags = ["robustok", "image-generation" if "generator" in kind else "image-tokenizer", *([family] if family else [])]
    lines = ["library_name: robustok", *([f"license: {json.dumps(licence)}"] if licence else []), "tags:"]
    return "\n".join(["---", *lines, *(f"- {json.dumps(tag)}" for tag in tags), "---"])


def _words(config: Mapping[str, Any]) -> str:
    """What kind of model it is."""
    kinds = {
        "tokenizer": "discrete image tokenizer",
        "autoencoder": "continuous image tokenizer",
        "generator": "class-conditional image generator",
        "latent generator": "class-conditional generator of continuous latents",
    }
    family = f" of the family {config['family']}" if "family" in config else ""
    return kinds.get(config["kind"], str(config["kind"])) + family


def _a(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _pair(config: Mapping[str, Any]) -> str:
    """Which tokenizer a generator belongs to, as far as it is known."""
    known = config.get("trained_on")
    return f"It belongs to the tokenizer with the fingerprint `{known}`." if known else ""


def _parameters(folder: Path) -> str:
    """How many numbers the weights are."""
    with safe_open(folder / MODEL, framework="pt") as file:
        count = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return f"{count:,}"


def _scores(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """A table of scores, or of what the model was chosen by while it trained."""
    best = config.get("best", {})
    chosen = f"These are the weights of step {best['step']}, chosen by {_label(best['by'])}." if best else ""
    if (folder / SCORES).is_file():
        scores = [Score.from_plain(plain) for plain in read_json(folder / SCORES)]
        rows = [_row(score) for score in scores if score.metric not in PARTS]
        return [_table(("score", "value", "95 %", "images", "protocol"), rows), chosen]
    if best.get("scores"):
        rows = [(_label(name), f"{value:.4g}") for name, value in best["scores"].items()]
        return [_table(("score", "value"), rows), chosen]
    return ["None were recorded with the model.", chosen]


def _row(score: Score) -> tuple[str, ...]:
    between = "" if score.interval is None else f"{score.interval[0]:.4g} to {score.interval[1]:.4g}"
    seeds = f"; seeds {', '.join(map(str, score.seeds))}" if score.seeds else ""
    return _label(score.metric), f"{score.value:.4g}", between, f"{score.images}", _inline(score.protocol) + seeds


def _label(metric: str) -> str:
    return metric_named(metric).label


def _training(config: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """The recipe, and what post-training came to."""
    parts = []
    if tuned := config.get("post_training"):
        parts.append(f"The decoder was tuned after training: {_inline(tuned)}.")
    if run:
        recipe = {name: value for name, value in run.items() if name not in ("images", "tokens", "latents")}
        parts.append(_code("json", json.dumps(recipe, indent=2)))
    return parts or ["How it was trained is not recorded with the model."]


def _data(run: Mapping[str, Any], licence: str | None) -> str:
    """What the images said of themselves."""
    cached = run.get("tokens") or run.get("latents") or {}
    images = run.get("images") or cached.get("images")
    if not images:
        return f"The images are not recorded with the model. Their licence: {licence or 'not stated'}."
    known = licence or DATA_LICENCES.get(str(images.get("name")), "not stated")
    return f"Trained on images: {_inline(images)}. Their licence: {known}."


def _licence(licence: str | None) -> str:
    return f"Weights: {licence}." if licence else "The licence of the weights was not stated."


def _section(title: str, *parts: Sequence[str] | str) -> Iterator[str]:
    yield f"## {title}"
    for part in parts:
        yield from filter(None, [part] if isinstance(part, str) else part)


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _inline(value: Any) -> str:
    """`name photos, count 5000`: nested values on one line."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name} ({_inline(v)})" if isinstance(v, Mapping) else f"{name} {v}" for name, v in value.items()
        )
    return str(value)
