"""`robustok push`: a model to the Hugging Face hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from robustok.cli.options import Command, Option


@dataclass(frozen=True, kw_only=True)
class Push(Command):
    """A model to the Hugging Face hub, with a model card.

    Reads the folder of a model: one that a train verb, post-train or save_pretrained wrote, or best/ in it. Writes
    README.md into it, unless there is one that you wrote or edited, and uploads that, the weights, config.json,
    scores.json, run.json and the discriminator; never the state that a run resumes from. load_tokenizer and
    load_generator then take the name.

    The card tells recipe, scores and data; keep scores with evaluate --out FOLDER/scores.json.
    """

    group = "Use"

    folder: Annotated[Path, Option(positional=True)]  # the folder of the model
    name: Annotated[str, Option(positional=True)]  # owner/name on the hub; made if it is not there
    private: bool = False  # a new repository is yours alone
    license: str | None = None  # of the weights: an identifier of the hub, such as apache-2.0
    data_license: str | None = None  # of the images it was trained on, where it is not known
    card: bool = False  # only write README.md, to read it or change it first

    def run(self) -> None:
        """Upload a model's folder, or only write its card."""
        from robustok.publishing.model_card import Card, stays, write_card
        from robustok.publishing.push import check_repository, push_to_hub

        check_repository(self.name)
        licenses = {"license": self.license, "data_license": self.data_license}
        if self.card:
            left = ", as it was: somebody edited it; delete it to have it written anew" if stays(self.folder) else ""
            print(f"model card: {write_card(self.folder, Card(name=self.name, **licenses))}{left}")
            return
        print(push_to_hub(self.folder, self.name, private=self.private, **licenses))
