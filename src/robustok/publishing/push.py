"""A model to the Hugging Face hub, from where `load_tokenizer` and `load_generator` read it by `owner/name`."""

import re
import tempfile
from pathlib import Path
from typing import Any

from robustok.publishing.model_card import CARD, RUN, SCORES, Card, described, write_card
from robustok.runtime.checkpoint import CONFIG, MODEL, load_model
from robustok.runtime.extras import needed
from robustok.runtime.places import home
from robustok.runtime.words import reason

UPLOADED = (CARD, CONFIG, MODEL, SCORES, RUN, "discriminator/*.json", "discriminator/*.safetensors")
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def push_to_hub(
    model: Any,
    repository: str,
    *,
    private: bool = False,
    license: str | None = None,
    data_license: str | None = None,
) -> str:
    """Upload a model and return its address. It gets a model card, README.md, unless its folder has one of yours.

    `model` is a folder that a run or `save_pretrained` wrote, or a model with `save_pretrained`; `repository` is
    `owner/name`, made if it is not there, which `load_tokenizer` and `load_generator` then take. `license` is that of
    the weights, `data_license` that of the images, where they are not known. Of a run's folder the model, its scores,
    its recipe and the discriminator (to begin post-training with) are uploaded: never what a run goes on from, nor
    tokens, pairs or previews. Raises ValueError for another folder or name, for weights that are damaged or not finite,
    without the extra `hub`, and when the hub refuses.
    """
    check_repository(repository)
    card = Card(name=repository, license=license, data_license=data_license)
    if isinstance(model, str | Path):
        described(home(model))
        load_model(home(model))  # what is damaged or not finite stays here
        return _upload(home(model), repository, private, card)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return _upload(Path(folder), repository, private, card)


def check_repository(name: str) -> None:
    """Raises ValueError for what is no name of a repository on the hub."""
    if not REPOSITORY.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a repository; write it as owner/name")


def _upload(folder: Path, repository: str, private: bool, card: Card) -> str:
    api = needed("huggingface_hub", "hub", f"writing to {repository}").HfApi()
    write_card(folder, card)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(UPLOADED),
            commit_message=f"{folder.resolve().name}, by robustok",
        )
    except Exception as error:  # offline, not logged in, no right to write: of several libraries' own kinds
        raise ValueError(
            f"{repository} could not be written ({reason(error)}); log in with `hf auth login`, "
            "and see that the name is one you may write to"
        ) from error
    return str(done.commit_url)
