"""How much memory and time it takes to load RAR-L (461 M parameters, 1.8 GB) from a safetensors file.

    python benchmarks/load_rar_l.py [FOLDER]

A file of random weights by the published names is written to FOLDER (a temporary one by default), then loaded in a
process of its own. Memory is the most that the process held, over what it held before (imports), per size of the file;
time is beyond that of reading the file's bytes. Wanted: at most 1.3 and 10 s.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from robustok.adapters.rar import RAR
from robustok.generators.autoregressive import Autoregressive
from robustok.runtime.logging import peak_rss_gib

RAR_L = Autoregressive(
    codebook_size=1024, tokens=256, classes=1000, width=1024, depth=24, heads=16, mlp_ratio=4.0, modulated=True
)


def write(path: Path) -> None:
    with torch.device("meta"):
        names = RAR(RAR_L).to_state()
    numbers = torch.Generator().manual_seed(0)
    save_file({name: torch.randn(weight.shape, generator=numbers) for name, weight in names.items()}, path)


def load(path: Path) -> dict[str, float]:
    size = path.stat().st_size / 2**30
    start = time.perf_counter()
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass
    reading = time.perf_counter() - start
    before = peak_rss_gib()
    start = time.perf_counter()
    model = RAR.from_checkpoint(path)
    seconds = time.perf_counter() - start
    assert model.config == RAR_L
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "file_gib": size,
        "peak_gib": peak_rss_gib() - before,
        "peak_per_file": (peak_rss_gib() - before) / size,
        "reading_s": reading,
        "loading_s": seconds,
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--load", path]:
            print(json.dumps({name: round(value, 3) for name, value in load(Path(path)).items()}, indent=2))
        case _:
            with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
                write(Path(folder) / "rar_l.safetensors")
                path = str(Path(folder) / "rar_l.safetensors")
                subprocess.run([sys.executable, __file__, "--load", path], check=True)
