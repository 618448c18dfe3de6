"""`robustok doctor` tells what there is, and how to get what is missing."""

import torch

from robustok.cli import machine, main
from robustok.evaluation.features.registry import SPACES


def test_doctor_tells_what_there_is(capsys, monkeypatch):
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    for words in ("torch", torch.__version__, "cores", "GiB", "bfloat16", "Fashion-MNIST", "31 MB", "dev"):
        assert words in output
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert machine.threads().startswith("OMP_NUM_THREADS=3 holds, whatever else runs; unset it")
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "OMP_NUM_THREADS=N before robustok starts fixes them: 1 where others are always busy" in machine.threads()
    monkeypatch.setattr(machine, "installed", lambda name: None)
    assert "pip install 'robustok[dev]'" in dict(machine.extras())["dev"]


def test_doctor_tells_which_feature_spaces_are_ready(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTOK_WEIGHTS", str(tmp_path))
    (tmp_path / "facebook--vit-mae-large").mkdir()
    (tmp_path / "facebook--vit-mae-large" / "model.safetensors").touch()
    rows = dict(machine.space_rows())
    assert {part for name in rows for part in name.split(", ")} >= {*SPACES, "lpips"}
    assert rows["mae"] == f"MAE ViT-L/16, in {tmp_path / 'facebook--vit-mae-large'}"
    assert rows["clip"].startswith("missing: it is downloaded when asked for; without a network download config.json")
    assert rows["clip"].endswith(
        f"https://huggingface.co/openai/clip-vit-large-patch14 to {tmp_path}/openai--clip-vit-large-patch14"
    )
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert dict(machine.space_rows())["clip"].startswith("needs pip install 'robustok[features]'; missing")


def test_doctor_lists_what_to_fetch_by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTOK_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    assert dict(machine.networks())["EfficientNetLite0"] == "embedded"
    rows = dict(machine.to_fetch())
    row = rows["DINOv2 ViT-B/14"]
    assert row.startswith("download https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth")
    assert f"(346 MB) to {tmp_path / 'dinov2_vitb14_pretrain.pth'}; SHA-256 0b8b82f8" in row
    assert row.endswith("license Apache-2.0")
    assert "SHA-256 unknown" in rows["DINO ViT-S/16"]
    (tmp_path / "dino_deitsmall16_pretrain.pth").touch()
    assert "DINO ViT-S/16" not in dict(machine.to_fetch())
    assert dict(machine.networks())["DINO"] == f"DINO ViT-S/16, in {tmp_path / 'dino_deitsmall16_pretrain.pth'}"
