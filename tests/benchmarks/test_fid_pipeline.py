"""The FID pipeline beside torch-fidelity's: a row of its own, of two networks that agree, with random weights in both.

torch-fidelity is a narrow stand-in here, which imports, loads and is called as it is.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import fid_pipeline
import pytest
import speed
import torch

STANDIN = """
import numpy as np
import torch
import torchvision.transforms.functional
from tests.backbones.published import inception_state
from torch import nn
from torchvision.datasets import CIFAR10, CIFAR100, STL10

from robustok.backbones.inception import Inception
from robustok.shapes import to_images

SCALE = 1.0


class FeatureExtractorInceptionV3(nn.Module):
    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        assert (name, features_list) == ("inception-v3-compat", ["2048"])
        self.held = inception_state(16) | {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0)}
        self.load_state_dict(torch.load(feature_extractor_weights_path))

    def state_dict(self):
        return dict(self.held)

    def load_state_dict(self, state):
        assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in self.held.items()}
        self.held = state

    def forward(self, pixels):
        return (SCALE * Inception(self.held)(to_images(pixels)).pooled,)


def calculate_metrics(*, input1, input2, feature_extractor_weights_path, batch_size, fid, **how):
    assert fid and how == {"cuda": False, "cache": False, "verbose": False, "save_cpu_ram": True}
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path)
    sets = [network(torch.stack([given[i] for i in range(len(given))]))[0].numpy() for given in (input1, input2)]
    a, b = (np.cov(features, rowvar=False) for features in sets)
    shift = sets[0].mean(0) - sets[1].mean(0)
    root = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()
    return {"frechet_inception_distance": shift @ shift + np.trace(a) + np.trace(b) - 2 * root}
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is one of torch-fidelity, on the path when a test asks for it there, and forgotten after."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "torch_fidelity", raising=False)
    monkeypatch.setattr(speed, "REPEAT", 1)
    monkeypatch.setattr(speed, "machine", lambda: "")
    (tmp_path / "torch_fidelity.py").write_text(STANDIN)
    return tmp_path


def test_the_rows_are_there_alone_and_both_agree(checkout, capsys):
    speed.main(["--quick", "--only", "fid", "--fidelity-checkout", str(checkout)])
    out, told = capsys.readouterr()
    rows = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| ")][2:]
    starts = ["Inception's features, 2 images of 256 pixels", "FID of two sets, all of it, 4 images of 256 pixels"]
    assert [row[0].rpartition(", ")[0] for row in rows] == starts
    for (name, against, ours, other, ratio, *_), images in zip(rows, (2, 4), strict=True):
        assert against == "torch-fidelity"
        assert float(ratio) == pytest.approx(float(other.replace(",", "")) / float(ours.replace(",", "")), abs=0.01)
        rate = float(name.rpartition(", ")[2].split()[0])
        assert rate == pytest.approx(1000 * images / float(ours.replace(",", "")), abs=0.1)
    assert "features of both agree" in told


def test_without_torch_fidelity_there_is_no_row_and_a_word_says_so(capsys, monkeypatch):
    monkeypatch.setattr(fid_pipeline, "find_spec", lambda name: None)
    assert list(speed.fid(speed.QUICK, "")) == []
    assert "--fidelity-checkout" in capsys.readouterr().err


def test_other_features_and_other_distances_are_refused(checkout, monkeypatch):
    monkeypatch.syspath_prepend(checkout)
    fidelity = fid_pipeline.peer()
    monkeypatch.setattr(fidelity, "SCALE", 1.001)
    with pytest.raises(ValueError, match="features are 1.0e-03 of the largest apart, .* weights of one file"):
        list(speed.fid(speed.QUICK, ""))
    for name in ("our_features", "peers_features"):
        monkeypatch.setattr(fid_pipeline, name, lambda *_: torch.ones(2, 3))
    monkeypatch.setattr(fid_pipeline, "our_distance", lambda *_: 1.01)
    monkeypatch.setattr(fid_pipeline, "peers_distance", lambda *_: 1.0)
    with pytest.raises(ValueError, match="1.01 here and 1 there, of features that agree"):
        list(speed.fid(speed.QUICK, ""))


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is here")
def test_torchvision_is_named_while_it_is_imported_and_no_longer(checkout, monkeypatch):
    monkeypatch.syspath_prepend(checkout)
    assert fid_pipeline.peer() is not None
    assert find_spec("torchvision") is None
    assert not [name for name in sys.modules if name.partition(".")[0] == "torchvision"]


def test_random_weights_keep_activations_near_one(checkout, monkeypatch):
    monkeypatch.syspath_prepend(checkout)
    fidelity = fid_pipeline.peer()
    weights = fid_pipeline.random_weights(fidelity, checkout / "weights.pth")
    pixels = fid_pipeline.Pictures(4, 64, seed=1).pixels
    theirs = fid_pipeline.peers_features(fid_pipeline.peers_network(fidelity, weights), pixels)
    assert 0.1 < theirs.square().mean().sqrt() < 10
    assert (theirs.std(0) > 1e-3 * theirs.mean()).any()  # images are told apart
    assert not torch.equal(pixels, fid_pipeline.Pictures(4, 64, seed=0).pixels)
