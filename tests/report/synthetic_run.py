"""A run folder with invented numbers: what the page is tested on and looked at with.

python tests/report/synthetic_run.py FOLDER      writes one, with its page
"""

import gzip
import json
import math
import random
import sys
from collections.abc import Iterator
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
FEATURES = {
    "features": "lite0",
    "weights": "1f8c04a7d2b9e63a",
    "resize": "bilinear, antialiased, to 64 pixels",
    "reference": "fashion-mnist validation, 10,000 images",
    "reference_hash": "7be1a2c09d55e4f3",
}
LENGTHS = {"tokenizer": 1500, "generator": 1600, "post_training": 500, "control": 500}


def make_run(folder: Path) -> Path:
    """Fill `folder` with everything that a finished run leaves for its page."""
    dice = random.Random(0)
    _write(folder / "config.json", _config())
    _write(folder / "scores.json", list(_scores()))
    _write(folder / "ablation.json", list(_ablation(dice)))
    for stage, steps in LENGTHS.items():
        told = {"stage": {"generator": {"tokens": 64}}} if stage == "generator" else {}
        _write(folder / stage / "run.json", {"loop": {"steps": steps, "batch_size": 64, "seed": 0}} | told)
        rows = (json.dumps(row) + "\n" for row in _rows(stage, steps, dice))
        (folder / stage / "metrics.jsonl").write_text("".join(rows))
    (folder / "images").mkdir()
    _grids(folder / "images")
    return folder


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _config() -> dict[str, object]:
    quantizer = {"type": "VQ", "codebook_size": 512, "width": 32, "normalized": True, "commitment": 0.25}
    return {
        "main": {
            "tokenizer": {"image_size": 32, "encoder": {"type": "Conv", "width": 64}, "quantizer": quantizer},
            "perturbation": {"alpha": 1.0, "beta": 0.3, "delta": 12, "final_fraction": 0.5},
            "loop": {"steps": 1500, "batch_size": 64, "seed": 0},
        },
        "generator": {"generator": {"tokens": 64, "classes": 10, "width": 256, "order": "random"}},
        "sampling": {"guidance": 1.5, "temperature": 1.0},
        "sigma": 0.7,
        "train_images": 55000,
        "note": "5 < 6 & \"quoted\" <script>alert('no')</script>",
    }


def _scores() -> Iterator[dict[str, object]]:
    def record(metric, value, interval=None, images=5000, **protocol):
        return {
            "metric": metric,
            "value": value,
            "interval": interval,
            "images": images,
            "seeds": [0],
            "protocol": protocol,
        }

    fd = FEATURES
    sampled = {"guidance": "constant 1.5", "temperature": 1.0, "labels": "500 of each class"}
    yield record("fd_floor", 38.72, [36.9, 40.8], **fd, real="train split")
    yield record("rfid", 101.3, [98.4, 104.6], **fd)
    yield record("rfid_pfid_images", 110.2, [106.4, 114.5], images=2000, **fd)
    yield record("pfid", 152.6, [149.0, 156.7], images=2000, **fd, beta=1.0)
    for alpha in (0.9, 0.8, 0.7, 0.6, 0.5):
        for delta in (6, 9, 11):
            yield record("pfid_cell", 101 + 150 * alpha**2 * (delta / 11) ** 0.7 - 22, alpha=alpha, delta=delta, **fd)
    yield record("gfid_before", 172.1, [168.0, 176.4], **fd, **sampled)
    yield record("gfid_control", 165.3, [161.2, 169.7], **fd, **sampled)
    yield record("gfid_after", 149.9, [146.1, 154.0], **fd, **sampled)
    yield record("gfid_difference", -22.2, [-24.0, -20.4], **{"from": "before", "to": "after"})
    for when, precision, recall, distance in (
        ("before", 0.402, 0.331, 0.0912),
        ("control", 0.431, 0.338, 0.0871),
        ("after", 0.517, 0.352, 0.0744),
    ):
        yield record(f"precision_{when}", precision, **fd, **sampled)
        yield record(f"recall_{when}", recall, **fd, **sampled)
        yield record(f"kid_{when}", distance, **fd, **sampled)
    for name, values, ends in (
        ("off_manifold", (0.298, 0.257, 0.226, 0.061), [-0.09, -0.05]),
        ("color", (0.25, 0.24, 0.31, 0.12), [0.02, 0.1]),
        ("contrast", (0.5, 0.52, 0.51, 0.1), [-0.03, 0.05]),
        ("detail", (3.2, 2.4, 2.1, 0.1), [-1.3, -0.9]),
        ("fine_detail", (-2.74, -2.07, -1.88, 0.02), [0.7, 1.0]),
    ):
        for when, value in zip(("before", "control", "after", "floor"), values, strict=True):
            yield record(f"{name}_{when}", value, images=2000, features="vgg-hed")
        change = values[2] - values[0]
        yield record(f"{name}_difference", change, ends, images=2000, **{"from": "before", "to": "after"})
    for metric, value, ends in (("authpct", 96.4, [95.1, 97.4]), ("authpct_held_out", 82.25, [79.8, 84.5])):
        yield record(metric, value, ends, images=1000, features="codes of the tokenizer")
    yield record("psnr", 22.43)
    yield record("ssim", 0.8312)
    yield record("codebook_use", 0.9727)
    yield record("codebook_perplexity", 388.2)
    yield record("dead_codes", 14)
    for stage, seconds in (
        ("tokenizer", 285),
        ("tokens", 21),
        ("generator", 262),
        ("pairs", 48),
        ("post_training", 96),
        ("control", 92),
        ("scores", 61),
    ):
        yield record("seconds", seconds, images=None, stage=stage)
    yield record("seconds_total", 865.2, images=None)
    yield record("peak_rss_gib", 2.91, images=None)


def _ablation(dice: random.Random) -> Iterator[dict[str, object]]:
    values = {"rfid": (89, 101), "rfid_pfid_images": (97, 110), "pfid": (285, 152)}
    values |= {"gfid_control": (170, 165), "gfid_after": (168, 150)}

    def record(metric, value, arm, seed, **protocol):
        protocol |= {"arm": arm, "seed": seed}
        noisy = value * (1 + 0.02 * dice.gauss(0, 1))
        return {
            "metric": metric,
            "value": noisy,
            "interval": None,
            "images": 5000,
            "seeds": [seed],
            "protocol": protocol,
        }

    for seed, (column, arm) in product(range(3), enumerate(("unperturbed", "perturbed"))):
        for metric, pair in values.items():
            yield record(metric, pair[column], arm, seed)
        for share, pair in ((0.25, (214, 207)), (0.5, (187, 184)), (1.0, (172, 171))):
            yield record("gfid_before", pair[column], arm, seed, generator_share=share)


def _rows(stage: str, steps: int, dice: random.Random) -> Iterator[dict[str, float]]:
    def falling(start: float, end: float, noise: float = 0.06) -> float:
        return (end + (start - end) * math.exp(-6 * share)) * (1 + noise * dice.gauss(0, 1))

    def held_out() -> float:
        low, best = (150.0, 0.8) if stage == "post_training" else (165.0, 0.6)
        return low + (174 - low) * (share - best) ** 2 / best**2

    share = 0.0
    if stage in ("post_training", "control"):
        yield {"step": 0, "heldout_fd": held_out(), "best_heldout_fd": held_out()}
    for step in range(10, steps + 1, 10):
        share = step / steps
        lr = min(1.0, step / 50) * (0.5 + 0.5 * math.cos(math.pi * share))
        row: dict[str, float] = {"step": step, "seconds": step * 0.18, "images_per_second": 350.0, "skipped": 0}
        match stage:
            case "tokenizer":
                row |= {
                    "l1": falling(0.6, 0.012),
                    "perceptual": falling(0.9, 0.21, 0.03),
                    "codebook": falling(0.4, 0.05),
                    "semantic": falling(4.1, 2.4, 0.02),
                    "codebook_use": 0.975 - 0.5 * math.exp(-9 * share) + 0.004 * dice.gauss(0, 1),
                    "codebook_perplexity": 390 - 300 * math.exp(-6 * share) + 3 * dice.gauss(0, 1),
                    "dead_codes": 40 * math.exp(-9 * share),
                }
            case "generator":
                row |= {"loss": falling(6.2, 4.1, 0.015)}
            case "post_training":
                row |= {"l1": falling(0.021, 0.0163), "perceptual": falling(0.30, 0.22, 0.03)}
            case "control":
                row |= {"l1": falling(0.021, 0.0160), "perceptual": falling(0.30, 0.24, 0.03)}
        if stage != "generator" and share > 0.2:
            row |= {
                "adversarial": -0.3 * share + 0.08 * dice.gauss(0, 1),
                "adversarial_weight": falling(80, 1.2, 0.2),
                "discriminator": falling(2.0, 1.55, 0.05),
            }
        if stage in ("post_training", "control") and step % 50 == 0:
            row |= {"heldout_fd": held_out()}
        yield row | {"gradient_norm": falling(3.0, 0.8, 0.25), "lr": 4e-4 * lr}


def _garments() -> np.ndarray:
    """The first 1,000 validation images and their labels, (1000, 32, 32) uint8 sorted by class."""
    home = files("robustok") / "data" / "fashion_mnist"
    with gzip.open(str(home / "t10k-images-idx3-ubyte.gz")) as file:
        images = np.frombuffer(file.read(16 + 1000 * 784), np.uint8)[16:].reshape(1000, 28, 28)
    with gzip.open(str(home / "t10k-labels-idx1-ubyte.gz")) as file:
        labels = np.frombuffer(file.read(8 + 1000), np.uint8)[8:]
    chosen = np.stack([np.flatnonzero(labels == c)[:12] for c in range(10)], axis=1)  # (12, 10): a column per class
    return np.pad(images[chosen], ((0, 0), (0, 0), (2, 2), (2, 2)))


def _grids(folder: Path) -> None:
    garments, noise = _garments(), np.random.default_rng(0)

    def blurred(images: np.ndarray, radius: float, grain: float) -> np.ndarray:
        soft = [Image.fromarray(x).filter(ImageFilter.GaussianBlur(radius)) for x in images.reshape(-1, 32, 32)]
        field = noise.normal(0, grain, (len(soft), 8, 8)).repeat(4, 1).repeat(4, 2)
        return np.clip(np.stack(soft) + field * (np.stack(soft) > 8), 0, 255).astype(np.uint8).reshape(images.shape)

    def sheet(images: np.ndarray, name: str) -> None:
        rows, columns = images.shape[:2]
        Image.fromarray(images.transpose(0, 2, 1, 3).reshape(rows * 32, columns * 32)).convert("RGB").save(
            folder / name
        )

    real, made = garments[:4], garments[4:8]
    before, after = blurred(made, 0.7, 30), blurred(made, 0.4, 8)
    grids = []

    def add(images, file, title, caption="", group="overview", **more):
        sheet(images, file)
        grids.append(
            {
                "file": file,
                "title": title,
                "caption": caption,
                "group": group,
                "columns": images.shape[1],
                "cell": 32,
                **more,
            }
        )

    add(real, "real.png", "Real", "Validation images, one class a column.", labels=CLASSES)
    add(blurred(real, 0.4, 3), "reconstructed.png", "Reconstructed", "The same images, encoded and decoded.")
    add(
        blurred(real, 0.5, 22),
        "perturbed.png",
        "Perturbed",
        "Half of their tokens replaced by near codes (alpha 0.5, delta 12).",
    )
    add(
        before,
        "generated_before.png",
        "Generated, before",
        "Sampled for the class of the column, guidance 1.5; decoder of main training.",
        labels=CLASSES,
    )
    add(after, "generated_after.png", "Generated, after", "The same tokens; post-trained decoder.")
    pair = np.concatenate([before[:1], after[:1]])
    add(pair, "pairs.png", "Both decoders", "Above: main training. Below: post-training.", "pairs", labels=CLASSES)
    for i in (8, 10):
        moved = np.concatenate([blurred(garments[i : i + 1], 0.8, 45), blurred(garments[i : i + 1], 0.4, 8)])
        add(moved, f"changed_{i}.png", "Changed most", "Above: before. Below: after.", "changed")
    add(pair, "nearest.png", "Nearest training images", "Above: generated. Below: trained on.", "nearest")
    (folder / "images.json").write_text(json.dumps({"grids": grids}))


if __name__ == "__main__":
    from robustok.report.page import write_report

    target = Path(sys.argv[1])
    target.mkdir(parents=True)
    print(write_report(make_run(target)))
