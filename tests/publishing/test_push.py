"""Model cards, and models on the hub: what is uploaded can be loaded by its name; the hub is a stand-in here."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub.errors import LocalTokenNotFoundError
from huggingface_hub.utils import filter_repo_objects

from robustok import models
from robustok.adapters.llamagen_vq import LlamaGenVQ, LlamaGenVQConfig
from robustok.adapters.vqgan import VQGAN
from robustok.cli import main
from robustok.evaluation.scores.score import Score
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.publishing.model_card import Card, model_card
from robustok.publishing.push import push_to_hub
from robustok.runtime.checkpoint import save_resume, write_json
from robustok.tokenizer.autoencoder import Autoencoder, AutoencoderConfig
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.quantizer import VQ
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig

PART = Conv(channels=(16, 16), blocks=1, attention=False)
NAME = "someone/robust"


def ours() -> Tokenizer:
    return Tokenizer(TokenizerConfig(image_size=8, encoder=PART, decoder=PART, quantizer=VQ(codebook_size=4, width=4)))


def theirs() -> LlamaGenVQ:
    network = VQGAN(channels=(32, 32), blocks=1, latent=32, stem=32)
    return LlamaGenVQ(LlamaGenVQConfig(image_size=16, network=network, codebook_size=8, remembered=4))


MODELS = {
    "tokenizer": ours,
    "autoencoder": lambda: Autoencoder(AutoencoderConfig(image_size=8, encoder=PART, decoder=PART)),
    "generator": lambda: AutoregressiveModel(
        Autoregressive(codebook_size=4, tokens=16, classes=2, width=16, depth=1, heads=1)
    ),
    "latent generator": lambda: DiffusionTransformerModel(
        DiffusionTransformer(tokens=4, channels=2, classes=2, width=16, depth=1, heads=1)
    ),
    "another family": theirs,
}


class Hub:
    """The hub as a folder: HfApi to write to it, and the functions that read from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[str, Any] = {}

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.made = {"repository": repository, "private": private}

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], commit_message: str) -> Any:
        files = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns):
            to = self.root / repo_id / "snapshots" / "0a1b" / file
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(folder_path) / file, to)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/0a1b")

    def files(self, repository: str, revision: str | None = None) -> list[str]:
        folder = self.root / repository / "snapshots" / "0a1b"
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def download(self, repository: str, file: str, revision: str | None = None) -> str:
        path = self.root / repository / "snapshots" / "0a1b" / file
        if not path.is_file():
            raise OSError(f"{file} is not there")
        return str(path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    standin = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: standin)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", standin.files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", standin.download)
    monkeypatch.setenv("ROBUSTOK_WEIGHTS", str(tmp_path / "weights"))
    return standin


def test_damaged_weights_are_not_pushed(tmp_path: Path, hub: Hub):
    ours().save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        push_to_hub(tmp_path / "model", NAME)
    assert not hub.root.exists()


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_pushed_is_loaded_by_its_name(kind: str, hub: Hub):
    model = MODELS[kind]()
    assert push_to_hub(model, NAME, private=True, license="mit") == f"https://hub/{NAME}/commit/0a1b"
    assert hub.made == {"repository": NAME, "private": True}
    assert hub.files(NAME) == ["README.md", "config.json", "model.safetensors"]
    noun = "generator" if "generator" in kind else "tokenizer"
    loaded = getattr(models, f"load_{noun}")(NAME)
    assert loaded.source.repository == NAME
    assert loaded.source.revision == "0a1b"
    assert type(loaded) is type(model)
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
    card = Path(hub.download(NAME, "README.md")).read_text()
    assert f'{noun} = robustok.load_{noun}("{NAME}")' in card
    assert f"{sum(weight.numel() for weight in model.state_dict().values()):,} parameters" in card


def test_without_a_network_a_name_says_what_to_fetch(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    class ConnectError(Exception):
        """As the hub's library lets through from below: neither OSError nor ValueError."""

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "list_repo_files", offline)
    with pytest.raises(
        ValueError, match=r"nor from the hub \(Name or service not known\); put the files of https://hugg"
    ):
        models.load_tokenizer(NAME)


def run_folder(folder: Path) -> Path:
    """What a run leaves, and what it goes on from."""
    tokenizer = ours()
    best = {"by": "pfid", "value": 3.25, "step": 400, "scores": {"rfid": 1.5, "pfid": 3.25}}
    tokenizer.save_pretrained(folder, best=best)
    images = {"name": "fashion-mnist", "split": "train", "count": 55000, "hash": "ab12"}
    write_json(folder / "run.json", {"loop": {"steps": 500}, "stage": {"optim": {"lr": 2e-3}}, "images": images})
    protocol = {"features": "lite0", "reference": {"name": "fashion-mnist", "count": 10}}
    scores = [
        Score(metric="rfid", value=1.2345678, interval=(1.1, 1.3), images=10, protocol=protocol),
        Score(metric="pfid", value=3.5, images=5, seeds=(0,), protocol=protocol),
        Score(metric="pfid_cell", value=9.75, images=5, seeds=(0,), protocol=protocol | {"alpha": 0.9}),
    ]
    write_json(folder / "scores.json", [score.to_plain() for score in scores])
    for name in ("resume.safetensors", "resume_0000400.safetensors", "tokens/tokens.safetensors", "best/resume.json"):
        save_resume(folder / name, {"step": 1})
    (folder / "discriminator").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(folder / name, folder / "discriminator" / name)
    (folder / "metrics.jsonl").write_text("{}")
    return folder


def test_of_a_run_only_what_is_finished_is_uploaded(hub: Hub, tmp_path: Path):
    push_to_hub(run_folder(tmp_path / "run"), NAME)
    model = ["README.md", "config.json", "discriminator/config.json", "discriminator/model.safetensors"]
    assert hub.files(NAME) == [*model, "model.safetensors", "run.json", "scores.json"]
    assert models.load_tokenizer(NAME).config == ours().config


def test_the_card_tells_scores_recipe_data_and_licenses(tmp_path: Path):
    card = model_card(run_folder(tmp_path / "run"), Card(name=NAME, license="apache-2.0"))
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "robustok",
        "license": "apache-2.0",
        "tags": ["robustok", "image-tokenizer"],
    }
    for line in (
        "# someone/robust",
        "| rFID | 1.235 | 1.1 to 1.3 | 10 | features lite0, reference (name fashion-mnist, count 10) |",
        "| pFID | 3.5 |  | 5 | features lite0, reference (name fashion-mnist, count 10); seeds 0 |",
        "These are the weights of step 400, chosen by pFID.",
        '      "lr": 0.002',
        "Trained on images: name fashion-mnist, split train, count 55000, hash ab12. Their license: MIT.",
        "Weights: apache-2.0.",
        '  "image_size": 8,',
    ):
        assert f"\n{line}\n" in text
    assert "9.75" not in text  # one of 15 cells; they are in scores.json
    assert "resume" not in text


def test_a_card_says_what_is_not_known(tmp_path: Path):
    ours().save_pretrained(tmp_path / "plain", post_training={"sigma": 0.7, "after": 1.5})
    card = model_card(tmp_path / "plain")
    for line in (
        "# plain",
        "None were recorded with the model.",
        "The decoder was tuned after training: sigma 0.7, after 1.5.",
        "The images are not recorded with the model. Their license: not stated.",
        "The license of the weights was not stated.",
    ):
        assert f"\n{line}\n" in card
    assert "license" not in card.split("---")[1]
    ours().save_pretrained(tmp_path / "kept", post_training={"sigma": 0.7, "step": 0})
    assert "\nPost-training kept the original decoder: sigma 0.7, step 0.\n" in model_card(tmp_path / "kept")
    (run_folder(tmp_path / "run") / "scores.json").unlink()
    assert "\n| rFID | 1.5 |\n| pFID | 3.25 |\n" in model_card(tmp_path / "run")


def test_a_card_of_ones_own_is_saved_state(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = run_folder(tmp_path / "run")
    assert main(["push", str(folder), NAME, "--card", "--license", "mit", "--data-license", "CC0-1.0"]) == 0
    assert capsys.readouterr().out == f"model card: {folder / 'README.md'}\n"
    assert "Their license: CC0-1.0." in (folder / "README.md").read_text()
    assert not hub.root.exists()
    (folder / "README.md").write_text("my own words")
    assert main(["push", str(folder), NAME, "--private"]) == 0
    assert capsys.readouterr().out == f"https://hub/{NAME}/commit/0a1b\n"
    assert Path(hub.download(NAME, "README.md")).read_text() == "my own words"


def test_what_cannot_be_pushed_says_why(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="'robust' is no name of a repository; write it as owner/name"):
        push_to_hub(ours(), "robust")
    tmp_path.joinpath("empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no model of robustok: it needs model.safetensors and a config"):
        push_to_hub(tmp_path / "empty", NAME)

    def refused(*_: Any, **__: Any) -> None:
        raise LocalTokenNotFoundError("Token is required\nmore")

    monkeypatch.setattr(hub, "create_repo", refused)
    with pytest.raises(
        ValueError, match=r"robust could not be written \(Token is required\); log in with `hf auth login`"
    ):
        push_to_hub(ours(), NAME)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'robustok\[hub\]'"):
        push_to_hub(ours(), NAME)


def test_a_card_that_was_edited_and_does_not_say_what_is_given_now_is_told(hub: Hub, tmp_path: Path):
    """A license that is only given on the second time would go nowhere, in silence."""
    ours().save_pretrained(tmp_path)
    push_to_hub(tmp_path, NAME)
    (tmp_path / "README.md").write_text((tmp_path / "README.md").read_text() + "My own words.")
    with pytest.warns(UserWarning, match="README.md was there already and stays as it is, without apache-2.0; write"):
        push_to_hub(tmp_path, NAME, license="apache-2.0")
    (tmp_path / "README.md").unlink()
    push_to_hub(tmp_path, NAME, license="apache-2.0")
    push_to_hub(tmp_path, NAME, license="apache-2.0")  # what is there says it: no warning, which would be an error


def test_a_card_that_nobody_edited_is_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = run_folder(tmp_path / "run")
    scores = (folder / "scores.json").read_bytes()
    (folder / "scores.json").unlink()
    card, words = folder / "README.md", ["push", str(folder), NAME, "--card"]
    assert main([*words, "--license", "mit", "--data-license", "a --> b"]) == 0
    assert "| pFID | 3.25 |" in card.read_text()
    (folder / "scores.json").write_bytes(scores)
    assert main(words) == 0
    text = card.read_text()
    assert "| pFID | 3.5 |" in text
    assert "\nWeights: mit.\n" in text
    assert "Their license: a --> b." in text, "what was said once need not be said again"
    assert text.splitlines()[-1].count("-->") == 1
    assert capsys.readouterr().out == f"model card: {card}\n" * 2
    card.write_text(text.replace("# someone", "# By someone"))
    edited = card.read_text()
    assert main(words) == 0
    assert card.read_text() == edited != text
    assert capsys.readouterr().out == (
        f"model card: {card}, as it was: somebody edited it; delete it to have it written anew\n"
    )


def test_a_card_alone_is_of_a_name_that_could_be_pushed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ours().save_pretrained(tmp_path)
    assert main(["push", str(tmp_path), "mine", "--card"]) == 2
    assert "'mine' is no name of a repository; write it as owner/name" in capsys.readouterr().err
    assert not (tmp_path / "README.md").exists()
