"""Does pFID predict gFID? Tokenizers of many kinds, each with the same small generator, on the embedded images.

    python benchmarks/pfid_study.py run runs/pfid_study  # one core, about 6 minutes a tokenizer; goes on if stopped
    python benchmarks/pfid_study.py report runs/pfid_study docs

Every tokenizer has a folder with its weights, its generator's weights and `measured.json`, to which each measurement
is added once it is finished. Everything that a variant of pFID could be made of is measured along the way: for a wide
range of alpha and delta the Frechet distance, how far the replacements are from the codes they replace, and how much
the images change. What is made of that is `pfid_variants.py`, which was written before any gFID was known.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pfid_report
import torch
from torch import Tensor

from robustok.data.images import FashionMNIST
from robustok.data.latent_cache import encode_images
from robustok.evaluation.features.spaces.embedded import lite0
from robustok.evaluation.metrics.codebook_use import code_counts, perplexity
from robustok.evaluation.metrics.fid import FeatureStats, frechet_distance
from robustok.evaluation.metrics.pfid import BLOCK, Cell, grid, perturbed_by_cells
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.generators.sampling import Sampling, sample_tokens
from robustok.runtime.checkpoint import read_json, write_json
from robustok.runtime.seeding import derive
from robustok.shapes import Features, Pixels, Tokens, to_pixels
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.perturbation import Perturbation, neighbors
from robustok.tokenizer.quantizer import BSQ, FSQ, LFQ, VQ
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig
from robustok.training.generator_training import GeneratorTraining, train_generator
from robustok.training.loop import Loop
from robustok.training.objective import Objective
from robustok.training.optim import Optim
from robustok.training.tokenizer_training import TokenizerTraining, train_tokenizer

SIDE, TRAIN, CHOOSING = 28, 20_000, 5_000  # pixels; training images; others, which choose the guidance
RECONSTRUCTED, PERTURBED, CHOSEN_BY, GENERATED = 3_000, 1_400, 1_400, 2_500  # images of each score
SURFACE_ALPHA, SURFACE_DELTAS = 0.9, 8  # the surface: from 1 neighbor to half of the codes
GUIDANCE = (1.0, 1.5, 2.5)
OFF = Perturbation(beta=0.0)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the tokenizers of the study differ in."""

    quantizer: VQ | FSQ | LFQ | BSQ
    perturbation: Perturbation = OFF
    semantic: float = 0.0
    steps: int = 800
    seed: int = 0


def vq(size: int, width: int = 16) -> VQ:
    return VQ(codebook_size=size, width=width)


def disturbed(size: int) -> Perturbation:
    """The same share of the codes as neighbors at every size."""
    return Perturbation(alpha=1.0, beta=0.5, delta=size // 25)


KINDS = {  # in the order in which they are run, so that a part of them says something, too
    "VQ 1024": Kind(quantizer=vq(1024)),
    "VQ 4096": Kind(quantizer=vq(4096)),
    "VQ 256": Kind(quantizer=vq(256)),
    "VQ 1024 perturbed": Kind(quantizer=vq(1024), perturbation=disturbed(1024)),
    "VQ 4096 perturbed": Kind(quantizer=vq(4096), perturbation=disturbed(4096)),
    "VQ 256 perturbed": Kind(quantizer=vq(256), perturbation=disturbed(256)),
    "FSQ 1000": Kind(quantizer=FSQ(levels=(8, 5, 5, 5))),
    "BSQ 1024": Kind(quantizer=BSQ(bits=10)),
    "VQ 1024 perturbed hard": Kind(
        quantizer=vq(1024), perturbation=Perturbation(alpha=1.0, beta=1.0, delta=100, final_fraction=1.0)
    ),
    "VQ 1024 short": Kind(quantizer=vq(1024), steps=300),
    "VQ 1024 narrow": Kind(quantizer=vq(1024, width=4)),
    "VQ 1024 semantic": Kind(quantizer=vq(1024), semantic=0.1),
    "FSQ 4375 perturbed": Kind(quantizer=FSQ(levels=(7, 5, 5, 5, 5)), perturbation=disturbed(4375)),
    "VQ 1024 wide": Kind(quantizer=vq(1024, width=64)),
    "LFQ 4096": Kind(quantizer=LFQ(bits=12)),
    "VQ 4096 long": Kind(quantizer=vq(4096), steps=1600),
    "VQ 1024, another seed": Kind(quantizer=vq(1024), seed=1),
}


def main_training(kind: Kind) -> TokenizerTraining:
    part = Conv(stem=2, channels=(32, 96), blocks=1, attention=False)
    return TokenizerTraining(
        tokenizer=TokenizerConfig(image_size=SIDE, encoder=part, quantizer=kind.quantizer, decoder=part, channels=1),
        loop=Loop(steps=kind.steps, batch_size=32, seed=kind.seed, save_every=200),
        perturbation=kind.perturbation,
        objective=Objective(l1=1.0, l2=1.0, perceptual=1.0, perceptual_stages=4, adversarial=0.0, frechet=0.5),
        semantic=kind.semantic,
        semantic_size=64,
        optim=Optim(lr=2e-3, warmup=50, final_lr_fraction=0.05),
        ema_decay=0.99,
    )


def generator_training(tokenizer: Tokenizer, seed: int) -> GeneratorTraining:
    return GeneratorTraining(
        generator=Autoregressive(
            codebook_size=len(tokenizer.codebook),
            tokens=tokenizer.tokens_per_image,
            classes=10,
            width=128,
            depth=3,
            heads=2,
            order="raster",
        ),
        loop=Loop(steps=500, batch_size=64, seed=seed, save_every=125),
        optim=Optim(lr=1.5e-3, betas=(0.9, 0.96), weight_decay=0.03, warmup=50),
        ema_decay=0.98,
    )


class Notes:
    """The measurements of one tokenizer, in a file that holds every finished one."""

    def __init__(self, path: Path):
        self.path = path
        self.values: dict[str, Any] = read_json(path) if path.exists() else {}

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """What `measure` returns, now or in an earlier run."""
        if name not in self.values:
            self.values[name] = measure()
            write_json(self.path, self.values)
            print(f"  {name}: {str(self.values[name])[:100]}", flush=True)
        return self.values[name]


class Judge:
    """The images and features that all tokenizers are measured by."""

    def __init__(self) -> None:
        train, validation = FashionMNIST("train", SIDE), FashionMNIST("validation", SIDE)
        self.train = train.subset(torch.arange(TRAIN))
        self.extract = lite0()
        self.validation = validation
        self.real = self.statistics(to_pixels(part) for part in batches(validation, range(len(validation))))
        others = range(len(train) - CHOOSING, len(train))
        self.choosing = self.statistics(to_pixels(part) for part in batches(train, others))

    def statistics(self, pixels: Iterator[Pixels]) -> FeatureStats:
        return FeatureStats.of(self.features(pixels))

    def features(self, pixels: Iterator[Pixels]) -> Features:
        return torch.cat([self.extract(part) for part in pixels])


def batches(images: FashionMNIST, indices: Sequence[int]) -> Iterator[Tensor]:
    """Images in [-1, 1], some at a time."""
    for part in torch.tensor(indices).split(BLOCK):
        yield images.images(part)


def spaced(count: int, of: int) -> list[int]:
    """`count` evenly spaced indices."""
    return [i * of // count for i in range(count)]


@torch.no_grad()
def decoded(tokenizer: Tokenizer, tokens: Tokens) -> Iterator[Pixels]:
    for part in tokens.split(BLOCK):
        yield to_pixels(tokenizer.decode(tokenizer.lookup(part)))


@torch.no_grad()
def tokens_and_errors(tokenizer: Tokenizer, images: Iterator[Tensor]) -> tuple[Tokens, float]:
    """Tokens, and the root mean square distance of latents to their codes, where the quantizer compares them."""
    tokens, errors = [], []
    for part in images:
        latents = tokenizer.encode(part)
        tokens.append(tokenizer.quantize(latents).tokens)
        placed = tokenizer.quantizer.project(latents)
        errors.append((placed - tokenizer.lookup(tokens[-1])).square().sum(dim=-1).mean())
    return torch.cat(tokens), float(torch.stack(errors).mean().sqrt())


def surface_cells(codes: int) -> list[Cell]:
    """Deltas from 1 to half of the codes at equal ratios."""
    deltas = sorted({round((codes / 2) ** (i / (SURFACE_DELTAS - 1))) for i in range(SURFACE_DELTAS)})
    return [Cell(SURFACE_ALPHA, delta) for delta in deltas]


def reconstruction(tokenizer: Tokenizer, judge: Judge) -> dict[str, float]:
    """rFID, pixel error, and how the codes are used and spread."""
    indices = spaced(RECONSTRUCTED, len(judge.validation))
    real = torch.cat(list(batches(judge.validation, indices)))
    tokens, error = tokens_and_errors(tokenizer, batches(judge.validation, indices))
    pixels = torch.cat(list(decoded(tokenizer, tokens)))
    counts = code_counts(tokens, len(tokenizer.codebook))
    share = counts.double() / counts.sum()
    codes = tokenizer.codebook.detach().double()
    spread = (share[:, None] * (codes - share @ codes).square()).sum().sqrt()
    stats = FeatureStats.of(judge.extract(to_pixels(real)))
    return {
        "rfid": frechet_distance(stats, FeatureStats.of(judge.extract(pixels))),
        "mse": float((pixels.double() - to_pixels(real).double()).square().mean()) / 127.5**2,
        "quantization_error": error,
        "code_spread": float(spread),
        "perplexity": perplexity(counts),
    }


def rfid_of_pfid(tokenizer: Tokenizer, judge: Judge) -> float:
    """rFID of the images of pFID: of fewer images a distance is larger, so this one is what pFID is compared with."""
    indices = spaced(PERTURBED, len(judge.validation))
    tokens, _ = tokens_and_errors(tokenizer, batches(judge.validation, indices))
    real = judge.statistics(to_pixels(part) for part in batches(judge.validation, indices))
    return frechet_distance(real, judge.statistics(decoded(tokenizer, tokens)))


@torch.no_grad()
def perturbed_scores(tokenizer: Tokenizer, judge: Judge, cells: Sequence[Cell]) -> list[dict[str, float]]:
    """For each cell: the Frechet distance to the input images, and how far codes and images move."""
    indices = spaced(PERTURBED, len(judge.validation))
    tokens, _ = tokens_and_errors(tokenizer, batches(judge.validation, indices))
    clean = torch.cat(list(decoded(tokenizer, tokens)))
    clean_features = judge.extract(clean)
    real = judge.statistics(to_pixels(part) for part in batches(judge.validation, indices))
    near = neighbors(tokenizer.codebook, max(cell.delta for cell in cells))
    blocks = [
        dict(enumerate(noisy for _, noisy in perturbed_by_cells(part, near, cells, seed=0, block=block)))
        for block, part in enumerate(tokens.split(BLOCK))
    ]
    scores = []
    for number, cell in enumerate(cells):
        noisy = torch.cat([block[number] for block in blocks])
        pixels = torch.cat(list(decoded(tokenizer, noisy)))
        features = judge.extract(pixels)
        moved = noisy != tokens
        jump = (tokenizer.lookup(noisy) - tokenizer.lookup(tokens))[moved].norm(dim=-1)
        scores.append(
            {
                **cell._asdict(),
                "fd": frechet_distance(real, FeatureStats.of(features)),
                "code_distance": float(jump.mean()),
                "image_change": float((pixels.double() - clean.double()).square().mean()) / 127.5**2,
                "feature_change": float((features - clean_features).double().square().sum(dim=1).mean()),
            }
        )
    return scores


def generated(
    model: AutoregressiveModel, tokenizer: Tokenizer, judge: Judge, guidance: float, count: int, purpose: str
) -> FeatureStats:
    labels = torch.arange(count) % 10
    tokens = sample_tokens(model, labels, Sampling(guidance=guidance), seed=derive(0, purpose), batch_size=BLOCK)
    return judge.statistics(decoded(tokenizer, tokens))


def study(name: str, kind: Kind, judge: Judge, folder: Path) -> None:
    """Train one tokenizer and its generator, and measure both."""
    print(name, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    notes = Notes(folder / "measured.json")
    notes.once("name", lambda: name)
    notes.once("codebook_size", lambda: kind.quantizer.codebook_size)
    tokenizer = train_tokenizer(main_training(kind), judge.train, folder / "tokenizer", quiet=True)
    notes.once("reconstruction", lambda: reconstruction(tokenizer, judge))
    notes.once("rfid_pfid_images", lambda: rfid_of_pfid(tokenizer, judge))
    codes = len(tokenizer.codebook)
    notes.once("pfid", lambda: perturbed_scores(tokenizer, judge, grid(codes)))
    notes.once("surface", lambda: perturbed_scores(tokenizer, judge, surface_cells(codes)))
    cache = encode_images(tokenizer, judge.train, folder / "tokens")
    generator = train_generator(generator_training(tokenizer, kind.seed), cache, folder / "generator", quiet=True)

    def fd(guidance: float, count: int, purpose: str, reference: FeatureStats) -> float:
        return frechet_distance(reference, generated(generator, tokenizer, judge, guidance, count, purpose))

    tried = {g: notes.once(f"choosing {g}", lambda g=g: fd(g, CHOSEN_BY, "choosing", judge.choosing)) for g in GUIDANCE}
    best = min(tried, key=lambda g: tried[g])
    notes.once("guidance", lambda: best)
    notes.once("gfid", lambda: fd(1.0, GENERATED, "scored", judge.real))
    notes.once("gfid_guided", lambda: fd(best, GENERATED, "scored", judge.real))


def run(folder: Path, only: int | None) -> None:
    judge = Judge()
    for name, kind in list(KINDS.items())[:only]:
        path = folder / name.lower().replace(",", "").replace(" ", "_")
        if not {"rfid_pfid_images", "gfid_guided"} <= Notes(path / "measured.json").values.keys():
            study(name, kind, judge, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    running = verbs.add_parser("run", help="train and measure, or what is left of it")
    running.add_argument("folder", type=Path)
    running.add_argument("--only", type=int, help="this many tokenizers, the first ones")
    running.set_defaults(do=lambda a: run(a.folder, a.only))
    reporting = verbs.add_parser("report", help="write pfid_study.md and its picture")
    reporting.add_argument("folder", type=Path)
    reporting.add_argument("docs", type=Path)
    reporting.set_defaults(do=lambda a: pfid_report.report(a.folder, a.docs))
    chosen = parser.parse_args()
    chosen.do(chosen)


if __name__ == "__main__":
    main()
