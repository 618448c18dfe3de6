"""Models by name: files, folders of every kind, and the hub, whose downloads are stand-ins here."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robustok.adapters import FAMILIES, model_names, recognized
from robustok.adapters.llamagen_vq import LlamaGenVQ, LlamaGenVQConfig
from robustok.adapters.vqgan import VQGAN
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.generators.llama import Llama, LlamaModel
from robustok.models import OWN, load_generator, load_tokenizer
from robustok.runtime.checkpoint import read_json, save_model, save_resume, write_json
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.quantizer import VQ
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig
from tests.adapters.parity import stored
from tests.adapters.test_titok_generators import peer

SMALL = LlamaGenVQConfig(
    image_size=16, network=VQGAN(channels=(32, 32), blocks=1, latent=32, stem=32), codebook_size=8, remembered=4
)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "vq.pt"
    LlamaGenVQ(SMALL).to_checkpoint(path)
    return path


def test_a_file_tells_its_family(file):
    tokenizer = load_tokenizer(file, image_size=16)
    assert isinstance(tokenizer, LlamaGenVQ)
    assert tokenizer.config == SMALL
    assert tokenizer.source.path == file
    assert len(tokenizer.source.sha256()) == 64
    with pytest.raises(ValueError, match="vq.pt holds a tokenizer, not a generator; give the generator, or load it as"):
        load_generator(file)


def test_folders_tell_what_they_hold(file, tmp_path):
    load_tokenizer(file, image_size=16).save_pretrained(tmp_path / "theirs")
    assert load_tokenizer(tmp_path / "theirs").config == SMALL
    part = Conv(channels=(16, 16), blocks=1, attention=False)
    config = TokenizerConfig(image_size=8, encoder=part, decoder=part, quantizer=VQ(codebook_size=4, width=4))
    Tokenizer(config).save_pretrained(tmp_path / "ours")
    assert load_tokenizer(tmp_path / "ours").config == config
    gpt = Autoregressive(codebook_size=4, tokens=16, classes=2, width=16, depth=1, heads=1)
    AutoregressiveModel(gpt).save_pretrained(tmp_path / "gpt")
    assert load_generator(tmp_path / "gpt").config == gpt
    with pytest.raises(ValueError, match="gpt holds a generator, not a tokenizer; give the tokenizer, or load it as"):
        load_tokenizer(tmp_path / "gpt")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match=r"bare holds no model: 0 files of weights \(none\); give one of the files"):
        load_tokenizer(tmp_path / "bare")
    file.rename(tmp_path / "bare" / "only.pt")
    assert load_tokenizer(tmp_path / "bare", image_size=16).config == SMALL


GENERATORS = [
    AutoregressiveModel(Autoregressive(codebook_size=4, tokens=4, classes=2, width=16, depth=1, heads=1)),
    LlamaModel(Llama(codebook_size=4, tokens=4, classes=2, width=16, depth=1, heads=1, hidden=16)),
    DiffusionTransformerModel(DiffusionTransformer(tokens=4, channels=2, classes=2, width=16, depth=1, heads=1)),
]


def test_the_weights_of_our_own_model_stand_for_their_folder(tmp_path):
    """As a shell completes the name; of no known family were their keys."""
    model = AutoregressiveModel(Autoregressive(classes=2, codebook_size=3, tokens=4, width=16, depth=1, heads=1))
    model.save_pretrained(tmp_path)
    found = load_generator(tmp_path / "model.safetensors")
    assert found.fingerprint() == model.fingerprint()
    assert found.source.path == tmp_path
    with pytest.raises(ValueError, match="holds a generator, not a tokenizer"):
        load_tokenizer(tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", {"kind": "generator"})
    with pytest.raises(ValueError, match="the config is None; it should be of type dict"):
        load_generator(tmp_path)
    (tmp_path / "config.json").unlink()
    for name in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(ValueError, match="is of robustok, but no config.json beside it says of what; copy"):
            load_generator(name)
    save_resume(tmp_path / "resume.safetensors", {"step": 3})
    with pytest.raises(ValueError, match="is a resume file of robustok, not a model; give the folder of a model"):
        load_generator(tmp_path / "resume.safetensors")


@pytest.mark.parametrize("model", GENERATORS, ids=lambda model: model.kind)
def test_a_generator_remembers_what_it_was_trained_on(model, tmp_path):
    assert OWN[model.kind] is type(model)
    model.save_pretrained(tmp_path / "new")
    saved = read_json(tmp_path / "new" / "config.json")
    write_json(tmp_path / "new" / "config.json", saved | {"trained_on": None})  # as version 0.1 wrote it
    new = load_generator(tmp_path / "new")
    assert (new.trained_on, new.class_names) == (None, None)
    new.trained_on, new.class_names = "0123456789abcdef", ("cat", "dog")
    new.save_pretrained(tmp_path / "trained", note="kept")
    again = load_generator(tmp_path / "trained")
    assert (again.trained_on, again.class_names) == ("0123456789abcdef", ("cat", "dog"))
    assert (again.fingerprint(), again.config) == (model.fingerprint(), model.config)
    assert read_json(tmp_path / "trained" / "config.json")["note"] == "kept"


def test_a_model_of_no_known_kind_is_refused(tmp_path):
    save_model(tmp_path, {"w": torch.ones(1)}, {"kind": "discriminator", "config": {}})
    with pytest.raises(ValueError, match="holds a discriminator, not a tokenizer; give the tokenizer"):
        load_tokenizer(tmp_path)


def test_strangers_say_so(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(
        ValueError, match="x.safetensors is of no known family: its keys are like x; known are llamagen"
    ):
        load_tokenizer(tmp_path / "x.safetensors")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_text('{"family": "tomorrow"}')
    with pytest.raises(ValueError, match="new holds a tomorrow, which is not known here; known are llamagen-vq"):
        load_tokenizer(tmp_path / "new")
    with pytest.raises(ValueError, match="there is no what ever; give a file, a folder or owner/repository:file of"):
        load_tokenizer("what ever")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_families_fit_a_checkpoint(family):
    names = {"llamagen-vq": "llamagen_vq", "llamagen-gpt": "llamagen_gpt", "maskgit-vqgan": "maskgit_vqgan"}
    names |= {"robustok": "robustok_vit", "titok": "titok_legacy"}
    held = {"titok-bert": "ImageBert", "titok-uvit": "UViTBert"}  # fixtures of these are in the repository
    if kind := held.get(family.family):
        state = peer(kind).weights
    else:
        state = stored(names.get(family.family, family.family.replace("-", "_")))
    assert [other for other in FAMILIES if other.matches(state)] == [family]
    assert recognized(state) is family


@pytest.fixture
def the_hub(monkeypatch, tmp_path, file):
    """A hub with one repository; what is asked of it goes to `asked`."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("ROBUSTOK_WEIGHTS", str(tmp_path / "weights"))
    snapshot = tmp_path / "models--some--vq" / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (snapshot / "vq.pt").write_bytes(file.read_bytes())
    asked = []

    def download(repository, name, revision=None):
        asked.append((repository, name, revision))
        if repository != "some/vq" or not (snapshot / name).is_file():
            raise OSError(f"404 for {name}\nand more")
        return str(snapshot / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repository, revision=None: ["a.md", *FILES])
    return asked


FILES = ["vq.pt"]


def test_names_of_the_hub(the_hub, monkeypatch):
    tokenizer = load_tokenizer("some/vq:vq.pt@v1", image_size=16)
    assert tokenizer.config == SMALL
    assert the_hub == [("some/vq", "vq.pt", "v1"), ("some/vq", "config.json", "v1")]
    assert (tokenizer.source.repository, tokenizer.source.revision) == ("some/vq", "abc123")
    assert model_names.located("some/vq").path.name == "vq.pt"  # the only file of weights
    monkeypatch.setattr(sys.modules[__name__], "FILES", ["a.pt", "b.bin"])
    with pytest.raises(ValueError, match=r"some/vq holds 2 files of weights \(a.pt, b.bin\); name one: some/vq:a.pt"):
        model_names.located("some/vq")


def test_what_the_hub_does_not_give_can_be_put_there_by_hand(the_hub, tmp_path, file):
    folder = tmp_path / "weights" / "some--vq"
    message = r"there is no some/vq:x/y.pt here, nor from the hub \(404 for x/y.pt\); download .*/some/vq/resolve/main"
    with pytest.raises(ValueError, match=message) as error:
        model_names.located("some/vq:x/y.pt")
    assert str(error.value).endswith(f"to {folder / 'x/y.pt'}")
    (folder / "x").mkdir(parents=True)
    (folder / "x" / "y.pt").write_bytes(file.read_bytes())
    the_hub.clear()
    assert load_tokenizer("some/vq:x/y.pt", image_size=16).source.repository == "some/vq"
    assert the_hub == []
    with pytest.raises(ValueError, match="put the files of https://huggingface.co/no/one into .*no--one"):
        model_names.located("no/one")


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"there is no a/b:c.pt here; pip install 'robustok\[hub\]', or download"):
        load_generator("a/b:c.pt")
    assert model_names.located("/") == model_names.Source(Path("/"))
