"""Models that save and load themselves: a folder with `model.safetensors` and `config.json`."""

from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from robustok.runtime.checkpoint import fingerprint, load_model, load_weights, save_model
from robustok.runtime.configs import from_plain, to_plain

M = TypeVar("M", bound="Pretrained")


class Pretrained(nn.Module):
    """A module that is made of a config, and saved and loaded with it.

    class Mine(Pretrained):
        kind, config_type = "generator", MineConfig
        def __init__(self, config: MineConfig): ...
    """

    kind: ClassVar[str]  # of model, as config.json has it
    config_type: ClassVar[type]
    config: Any
    trained_on: str | None = None  # of a generator: fingerprint of the tokenizer that it knows; None: unknown
    class_names: tuple[str, ...] | None = None  # of the images that a generator was trained on; None: unknown

    def fingerprint(self) -> str:
        """16 hex digits that change with the configuration or any weight."""
        return fingerprint(self.saved_state(), to_plain(self.config))

    def saved_state(self) -> dict[str, Tensor]:
        """All weights that make the model, by name; a model may have some that are in no `state_dict`."""
        return self.state_dict()

    def load_saved(self, state: dict[str, Tensor], source: str | Path) -> None:
        """Take over what `saved_state` gave. Raises ValueError for weights of another model."""
        load_weights(self, state, source)

    def save_pretrained(self, folder: str | Path, **about: Any) -> None:
        """Write `model.safetensors` and `config.json`, which also keeps what else is said `about` the model."""
        save_model(folder, self.saved_state(), self.description() | about)

    @classmethod
    def from_pretrained(cls: type[M], folder: str | Path) -> M:
        """The model in a folder, in evaluation mode. Raises ValueError for anything else that is there."""
        state, saved = load_model(folder, cls.kind)
        model = cls(from_plain(cls.config_type, saved.get("config")))
        model.load_saved(state, folder)
        model.recall(saved)
        return model.eval()

    def description(self) -> dict[str, Any]:
        """The entries of config.json: kind, config, and of a generator what it was trained on, if known."""
        known = {"trained_on": self.trained_on, "class_names": self.class_names and list(self.class_names)}
        known = {name: value for name, value in known.items() if value is not None}
        return {"kind": self.kind, "config": to_plain(self.config)} | known

    def recall(self, saved: dict[str, Any]) -> None:
        """Take over what a `description` says of the training."""
        names = saved.get("class_names")
        self.trained_on, self.class_names = saved.get("trained_on"), names and tuple(names)


def without_decoder(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a tokenizer that decide its tokens or latents: all but the decoder's, which may change."""
    state = model.saved_state() if isinstance(model, Pretrained) else model.state_dict()
    return {name: weight for name, weight in state.items() if not name.startswith("decoder.")}
