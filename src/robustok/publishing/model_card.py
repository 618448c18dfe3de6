"""The README.md of a model folder: what it is, how to load it, its scores by their protocol, recipe, data, license."""

import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from safetensors import safe_open

from robustok.evaluation.scores.metric_names import metric_named
from robustok.evaluation.scores.score import scores_in
from robustok.runtime.checkpoint import CONFIG, MODEL, parse_json, read_json, short_hash, write_bytes
from robustok.runtime.words import listed

CARD, SCORES, RUN = "README.md", "scores.json", "run.json"
DATA_LICENSES = {"fashion-mnist": "MIT", "fluent": "MIT"}  # of image sets by the name they give themselves
LICENSES = "license", "data_license"  # of `Card`
PARTS = ("pfid_cell",)  # scores that another is the mean of
KINDS = {
    "tokenizer": "discrete image tokenizer",
    "autoencoder": "continuous image tokenizer",
    "generator": "class-conditional image generator",
    "masked generator": "class-conditional image generator that fills in masked tokens",
    "latent generator": "class-conditional generator of continuous latents",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """Facts of a model that its folder does not know."""

    name: str = ""  # what the model is called: owner/name on the hub, which is also how the card says to load it
    license: str | None = None  # of the weights: an identifier of the hub, such as apache-2.0
    data_license: str | None = None  # of the images it was trained on


def write_card(folder: str | Path, card: Card = Card()) -> Path:
    """Write `folder/README.md` and return its path; one that somebody else wrote or edited stays as it is.

    One that was written here is written anew, and keeps the licenses that are not given now. Where one that stays does
    not say a license that is given now, a warning tells.
    """
    path = Path(folder) / CARD
    former = _licenses(text := _text(path))
    if former is not None:
        license, data_license = (getattr(card, name) or former.get(name) for name in LICENSES)
        card = replace(card, license=license, data_license=data_license)
        written = model_card(folder, card)
        write_bytes(path, (written + _mark(written, {name: getattr(card, name) for name in LICENSES})).encode())
        return path
    if missing := [fact for fact in (card.license, card.data_license) if fact and fact not in text]:
        warnings.warn(
            f"{path} was there already and stays as it is, without {', '.join(missing)}; write that into it, or delete "
            "it to have it written anew",
            stacklevel=2,
        )
    return path


def stays(folder: str | Path) -> bool:
    """True for a folder whose card somebody else wrote or edited, which `write_card` leaves as it is."""
    return _licenses(_text(Path(folder) / CARD)) is None


def _text(path: Path) -> str:
    """What a card says, nothing where there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _mark(text: str, licenses: Mapping[str, str | None]) -> str:
    """The last line of a card, which nobody sees: by it a card that was edited since is known."""
    about = {"hash": short_hash(text.encode()), **licenses}
    told = json.dumps(about).replace(">", r"\u003e")  # which would end the comment
    return f"\n<!-- by robustok: {told} -->\n"


def _licenses(text: str) -> dict[str, str | None] | None:
    """The licenses that a card was written with, none of an empty one, None for one not written here, or edited."""
    if not text:
        return {}
    body, _, last = text.rpartition("\n<!-- by robustok: ")
    try:
        about = parse_json(last.removesuffix(" -->\n"))
        licenses = {name: about[name] for name in LICENSES}
    except (ValueError, LookupError, TypeError):
        return None
    return licenses if text == body + _mark(body, licenses) else None


def model_card(folder: str | Path, card: Card = Card()) -> str:
    """The card of the model in a folder, from `config.json`, and from `run.json` and `scores.json` if they are there.

    Raises ValueError for a folder without a model of robustok or of one of its adapters.
    """
    folder = Path(folder)
    config = described(folder)
    run = read_json(folder / RUN) if (folder / RUN).is_file() else {}
    cached = run.get("tokens") or run.get("latents") or {}
    best = config.get("best", {})
    environment = Environment(loader=PackageLoader("robustok.publishing"), trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"json": json.dumps, "inline": listed, "label": label}
    heads, rows = scores_of(folder, best)
    text = environment.get_template("model_card.md.j2").render(
        card=card,
        config=config,
        name=card.name or folder.resolve().name,
        noun="generator" if "generator" in config["kind"] else "tokenizer",
        words=KINDS.get(config["kind"], str(config["kind"])),
        parameters=parameters(folder),
        heads=heads,
        rows=rows,
        best=best,
        run=run,
        recipe={name: value for name, value in run.items() if name not in ("images", "tokens", "latents")},
        images=run.get("images") or cached.get("images"),
        known=DATA_LICENSES,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"  # what is not known leaves no gap


def described(folder: Path) -> dict[str, Any]:
    """The `config.json` of a model folder. Raises ValueError for another folder."""
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if not isinstance(config, dict) or "kind" not in config or not (folder / MODEL).is_file():
        raise ValueError(
            f"{folder} holds no model of robustok: it needs {MODEL} and a {CONFIG} that says its kind; "
            "give a folder that a run or save_pretrained wrote"
        )
    return config


def parameters(folder: Path) -> int:
    """The number of weights."""
    with safe_open(folder / MODEL, framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def scores_of(folder: Path, best: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows of the scores, or of what the model was chosen by while it trained."""
    if not (folder / SCORES).is_file():
        return ("score", "value"), [(label(name), f"{value:.4g}") for name, value in best.get("scores", {}).items()]
    rows: list[tuple[str, ...]] = []
    for score in scores_in(folder / SCORES):
        between = "" if score.interval is None else f"{score.interval[0]:.4g} to {score.interval[1]:.4g}"
        seeds = f"; seeds {', '.join(map(str, score.seeds))}" if score.seeds else ""
        if score.metric not in PARTS:
            protocol = listed(score.protocol) + seeds
            rows.append((label(score.metric), f"{score.value:.4g}", between, str(score.images), protocol))
    return ("score", "value", "95 %", "images", "protocol"), rows


def label(metric: str) -> str:
    return metric_named(metric).label
