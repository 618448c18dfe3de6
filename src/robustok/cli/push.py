"""`robustok push`: a model to the Hugging Face hub."""

from robustok.cli.options import Command
from robustok.publishing.model_card import Card, write_card
from robustok.publishing.push import push_to_hub


def push(command: Command) -> None:
    """Upload a model's folder, or only write its card."""
    licences = {"licence": command.license, "data_licence": command.data_license}
    if command.card:
        print(f"model card: {write_card(command.folder, Card(name=command.name, **licences))}")
        return
    print(push_to_hub(command.folder, command.name, private=command.private, **licences))
