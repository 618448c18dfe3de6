"""What fuzzed commands run on: images in every kind of container, models, references, settings, runs."""

import io
import json
import shutil
import tarfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from robustok import presets
from robustok.cli import main, scoring
from robustok.data import ImageFolder
from robustok.evaluation.features import registry
from robustok.evaluation.features.extractor import CustomExtractor
from robustok.evaluation.features.registry import extractor as usual_extractor
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Score
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.diffusion_transformer import DiffusionTransformer, DiffusionTransformerModel
from robustok.runtime.configs import to_plain
from robustok.tokenizer.autoencoder import Autoencoder, AutoencoderConfig
from robustok.tokenizer.bottleneck import Plain
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.quantizer import VQ
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig
from robustok.training import post_training

SIDE, COUNT = 16, 12
EXTRACTING = (registry, scoring, post_training)  # modules that ask for an extractor by its name
KINDS = ("png", "jpg", "webp", "bmp", "gif", "tif")
NARROW = (
    ("tokenizer.encoder.channels", "[4, 8]"),
    ("tokenizer.decoder.channels", "[4, 8]"),
    ("tokenizer.quantizer.codebook_size", "16"),
    ("perturbation.delta", "4"),
)
TEXT = tuple(
    text.encode()
    for text in (
        "-1",
        "1e999",
        "NaN",
        "null",
        '"',
        "{",
        "[",
        ",",
        "\n",
        "\r\n",
        "\ufeff",
        "é",
        "\0",
        "9" * 30,
        "x" * 300,
    )
)
REFERENCE = ["reference", "--size", "16", "--out", "case/x.safetensors", "--images"]
ENCODE = ["encode", "--tokenizer", "tokenizer", "--out", "case/new", "--upscale", "--images"]
ENCODE_LATENTS = ["encode", "--tokenizer", "IN/continuous", "--images", "photos", "--out", "case/new"]
SCORED, STATS = ["evaluate", "--generated", "flat"], ("npz", "pt")
CACHE, RUN = ("manifest.json", "00000-of-00001.safetensors"), ("resume.safetensors", "metrics.jsonl", "run.json")
SAMPLE = ["sample", "--tokenizer", "IN/tokenizer", "--generator", "IN/generator", "--count", "2", "--out", "case/new"]
MODEL = ("model.safetensors", "config.json")
TRAIN = ["train-tokenizer", "smoke", "--images", "photos", "--loop.batch_size", "2", "--tokenizer.image_size", "16"]
TRAIN += ["--objective.perceptual", "0", "--objective.adversarial", "0", "--objective.frechet", "0"]
TRAIN += [word for name, value in NARROW for word in (f"--{name}", value)]
ON_CACHE = ["train-generator", "smoke", "--tokenizer", "tokenizer", "--cache", "IN/cache", "--out", "case/new"]
ON_CACHE += ["--loop.steps", "1"]
ON_CACHE += ["--loop.batch_size", "2", "--generator.width", "32", "--generator.heads", "1", "--generator.depth", "1"]
READ: list[tuple[str, list[str]]] = [  # a file that is damaged, and a command that reads it
    *((f"photos/a/0.{kind}", [*REFERENCE, "IN"]) for kind in KINDS),
    *((f"photos/a/0.{kind}", [*ENCODE, "IN", "--broken", "replace"]) for kind in KINDS),
    *((f"photos.{kind}", [*REFERENCE, f"IN/photos.{kind}"]) for kind in ("tar", "parquet")),
    *((f"photos.{kind}", [*ENCODE, f"IN/photos.{kind}"]) for kind in ("tar", "parquet")),
    ("flat.tar", [*ENCODE, "IN/flat.tar"]),
    ("flat.npz", ["evaluate", "--generated", "IN/flat.npz", "--reference", "reference.safetensors"]),
    ("packed.npz", ["evaluate", "--generated", "flat", "--reference", "IN/packed.npz"]),
    *((f"published.{kind}", [*SCORED, "--features", "lite0", "--reference", f"IN/published.{kind}"]) for kind in STATS),
    ("reference.safetensors", [*SCORED, "--reference", "IN/reference.safetensors"]),
    ("reference.safetensors", [*REFERENCE[:3], "--images", "flat", "--out", "IN/reference.safetensors"]),
    *((f"{part}/{file}", SAMPLE) for part in ("tokenizer", "generator") for file in MODEL),
    *((f"continuous/{file}", ENCODE_LATENTS) for file in MODEL),
    *((f"labels.{kind}", [*ENCODE, "flat", "--labels", f"IN/labels.{kind}"]) for kind in ("csv", "txt", "tsv") * 2),
    ("scores.json", ["compare", "IN/scores.json", "other.json"]),
    ("config.yaml", ["demo", "--settings", "--config", "IN/config.yaml"]),
    ("config.json", ["demo", "--settings", "--config", "IN/config.json"]),
    ("run.json", ["train-tokenizer", "smoke", "--settings", "--config", "IN/run.json"]),
    *((f"cache/{file}", ON_CACHE) for file in CACHE),
    *((f"run/{file}", [*TRAIN, "--loop.steps", "2", "--out", "IN/run"]) for file in RUN[:2]),
]
BESIDE = {  # what a file needs beside it
    "photos": ("photos/b/1.png", "photos/a/4.png", "photos/b/5.jpg"),
    "tokenizer": tuple(f"{part}/{file}" for part in ("tokenizer", "generator") for file in MODEL),
    "continuous": tuple(f"continuous/{file}" for file in MODEL),
    "cache": tuple(f"cache/{file}" for file in CACHE),
    "run": tuple(f"run/{file}" for file in RUN),
}
BESIDE["generator"] = BESIDE["tokenizer"]


def needed(source: str) -> tuple[str, ...]:
    """The file, and those that are read with it."""
    return tuple(dict.fromkeys((source, *BESIDE.get(source.partition("/")[0], ()))))


def make(root: Path) -> None:
    """Everything that commands read; takes about two seconds."""
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (COUNT, 2, 2, 3), np.uint8).repeat(SIDE // 2, 1).repeat(SIDE // 2, 2)
    for number, picture in enumerate(pictures):
        image = Image.fromarray(picture)
        for place in (root / "photos" / "ab"[number % 2], root / "flat"):
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{number}.{'jpg' if number % 3 == 2 else 'png'}")
    for kind in KINDS[1:]:
        Image.fromarray(pictures[0]).save(root / "photos" / "a" / f"0.{kind}")
    (root / "empty").mkdir(parents=True)
    (root / "broken").mkdir()
    (root / "broken" / "x.png").write_bytes(b"no image")
    shutil.copyfile(root / "flat" / "0.png", root / "broken" / "y.png")
    _containers(root, pictures)
    _models(root)
    _settings(root)
    _runs(root)


def fresh(root: Path) -> None:
    """An empty place to write to, and some that cannot be written; what lies above is taken away."""
    for left in root.parent.iterdir():
        if left != root:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    case = root / "case"
    shutil.rmtree(case, ignore_errors=True)
    (case / "there").mkdir(parents=True)
    (case / "there" / "notes.txt").write_text("mine")
    (case / "file").write_text("mine")
    (case / "lost").symlink_to(case / "nowhere")


def _containers(root: Path, pictures: np.ndarray[Any, Any]) -> None:
    for name in ("photos", "flat"):
        with tarfile.open(root / f"{name}.tar", "w") as tar:
            for file in sorted((root / name).rglob("*.*")):
                tar.add(file, str(file.relative_to(root / name)))
            if name == "flat":
                for file in sorted((root / name).iterdir()):
                    info = tarfile.TarInfo(f"{file.stem}.cls")
                    info.size = 1
                    tar.addfile(info, io.BytesIO(b"1"))
    for name, classes in (("many", 2), ("alike", 1)):  # as many as an analysis wants
        with tarfile.open(root / f"{name}.tar", "w") as tar:
            for number, colors in enumerate(np.random.default_rng(1).integers(0, 256, (100, 4, 4, 3), np.uint8)):
                data = io.BytesIO()
                Image.fromarray(colors.repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)).save(data, "PNG")
                info = tarfile.TarInfo(f"{number % classes}/{number}.png")
                info.size = len(data.getvalue())
                tar.addfile(info, io.BytesIO(data.getvalue()))
    np.savez(root / "flat.npz", pictures, np.arange(COUNT) % 2)
    np.savez_compressed(root / "packed.npz", pictures)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in sorted((root / "flat").iterdir())]
    for name, labels in (("photos", [i % 2 for i in range(COUNT)]), ("unlabelled", [-1] * COUNT)):
        pyarrow.parquet.write_table(pyarrow.table({"image": rows, "label": labels}), root / f"{name}.parquet")


def _models(root: Path) -> None:
    torch.manual_seed(0)
    part = Conv(stem=4, channels=(8, 8), blocks=1, attention=False)
    config = TokenizerConfig(image_size=SIDE, encoder=part, decoder=part, quantizer=VQ(codebook_size=16, width=4))
    tokenizer = Tokenizer(config)
    tokenizer.save_pretrained(root / "tokenizer")
    n = tokenizer.tokens_per_image
    model = Autoregressive(codebook_size=16, tokens=n, classes=2, width=32, heads=1, depth=1)
    AutoregressiveModel(model).save_pretrained(root / "generator")
    autoencoder = Autoencoder(AutoencoderConfig(image_size=SIDE, encoder=part, decoder=part, bottleneck=Plain(width=4)))
    autoencoder.save_pretrained(root / "continuous")
    flow = DiffusionTransformer(tokens=n, channels=4, classes=2, width=32, heads=1, depth=1)
    DiffusionTransformerModel(flow).save_pretrained(root / "flow")


def _settings(root: Path) -> None:
    reference = Reference.of(ImageFolder(root / "flat", SIDE), extractor("lite0"))
    reference.save(root / "reference.safetensors")
    mu, sigma = (part.numpy() for part in (reference.stats.mean, reference.stats.covariance))
    np.savez(root / "published.npz", mu=mu, sigma=sigma)
    torch.save({"mu": torch.from_numpy(mu), "sigma": torch.from_numpy(sigma)}, root / "published.pt")
    (root / "config.json").write_text(json.dumps(to_plain(presets.smoke())))
    (root / "config.yaml").write_text("sigma: 0.6\nmain:\n  optim: {lr: 1e-3}\n")
    main_training = to_plain(presets.smoke().main)
    (root / "run.json").write_text(json.dumps({"loop": {"steps": 1}, "stage": main_training, "images": {}}))
    for name, value in (("scores", 10.0), ("other", 12.0)):
        scores = [Score(metric=metric, value=value, images=50, protocol={"seed": 0}) for metric in ("gfid", "rfid")]
        (root / f"{name}.json").write_text(json.dumps([score.to_plain() for score in scores]))
    names = sorted(file.name for file in (root / "flat").iterdir())
    for kind, between in (("csv", ","), ("tsv", "\t"), ("txt", " ")):
        lines = [f"{name}{between}{'golden retriever' if i % 2 else 'cat'}" for i, name in enumerate(names)]
        (root / f"labels.{kind}").write_text("\n".join(lines) + "\n")


def _runs(root: Path) -> None:
    """A cache of tokens, and a run of one step that can go on."""
    at = {name: str(root / name) for name in ("tokenizer", "flat", "photos", "cache", "run")}
    encode = ["encode", "--tokenizer", at["tokenizer"], "--images", at["flat"], "--out", at["cache"]]
    train = [at["photos"] if word == "photos" else word for word in TRAIN]
    for argv in (encode, [*train, "--loop.steps", "2", "--out", at["run"]]):
        told = io.StringIO()
        with redirect_stdout(told), redirect_stderr(told):
            assert main([*argv, "--quiet"]) == 0, told.getvalue()


def extractor(name: Any, device: Any = "cpu", **faster: Any) -> Any:
    """Stands in for `registry.extractor`: what is called lite0 are the colors of quarters, which cost nothing."""
    return usual_extractor(CustomExtractor(_quarters, "lite0") if name == "lite0" else name, device, **faster)


def _quarters(pixels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(pixels.float(), 2).flatten(1)
