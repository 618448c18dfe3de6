"""`robustok evaluate`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from robustok.cli.arguments import (
    A_SPACE,
    Count,
    Features,
    Folder,
    GeneratorName,
    OutFile,
    ReferenceName,
    ScoredImages,
    ScoredName,
    TokenizerName,
    View,
)
from robustok.cli.kinds import Sampled, samplings_with
from robustok.cli.options import Option, Shared
from robustok.runtime.words import some

SPACES = f"spaces to score in, one or several of {A_SPACE}; unless given that of a file of statistics, else lite0"
HEADS = {"generator": "gfid", "generated": "fid", "images": "rfid"}  # the score that all of what is given have
PART_OF = {  # options, and what they are of
    "count": "generator",
    "lpips": "images",
    "pfid_images": "images",
    "neighbors_in": "images",
    "sample_size": "reference",
}
COUNT = 5000  # images to generate, unless told


@dataclass(frozen=True, kw_only=True)
class Evaluate(Sampled, Features, View, Shared):
    """Scores of a tokenizer, of a generator, or of images.

    --tokenizer and --images: rFID, pFID and its cells, PSNR, SSIM; codebook use, or iFID without a codebook, and with
    --predict the distance that went best with gFID.

    --generator, --tokenizer and --reference: gFID, precision, recall, density, coverage, KID, MIND, Vendi score; in the
    space inception also sFID and the Inception Score; with --train AuthPct and C_T, which tell of copies. Settings say
    how the generator is sampled, as for sample.

    --generated and --reference: the same of any two sets of images.

    Reads those. Writes a table, or JSON records with --json; --out keeps the records in a file. Under torchrun the
    processes share the work; the scores are those of one.
    """

    group = "Measure"

    tokenizer: TokenizerName | None = None
    generator: GeneratorName | None = None
    # real images for the tokenizer to reconstruct: a folder, an npz of its size, fashion-mnist or fluent (the
    # validation part)
    images: ScoredName | None = None
    # images to score: a folder, or an npz (arr_0: uint8, images x height x width x 3)
    generated: ScoredImages | None = None
    # what they are scored against: real images (folder, npz, fashion-mnist, fluent), or statistics of such, which
    # `robustok reference`, ADM, clean-fid, pytorch-fid or torch-fidelity wrote (.safetensors, .npz, .pt); {features} in
    # its name stands for the feature space
    reference: ReferenceName | None = None
    # the images that the generator was trained on, all of them, or a reference that keeps all: does it copy them?
    # --reference is then of held-out images
    train: Annotated[str, Option("IMAGES|FILE")] | None = None
    # picture of generated images and below each its nearest one of --train, which are images then
    nearest: Annotated[Path, Option("FILE.png", writes="file")] | None = None
    # another tokenizer of the same tokens: compare both decoders, image by image
    against: Folder | None = None
    features: Annotated[str, Option("NAME,...", help=SPACES)] | None = None
    # FDr6 and MIND in its six spaces (inception, dinov2, clip, siglip2, mae, convnextv2), or in those of --features:
    # the mean of the distances, each over that of ImageNet at 256 pixels
    fdr: bool = False
    lpips: bool = False  # also the LPIPS of reconstructions
    count: Count | None = None  # images to generate, all classes equally often; 5,000 unless given
    pfid_images: Count | None = None  # images that each cell of pFID perturbs, and of iFID; all unless given
    # images among which iFID looks for neighbors, for example the training set, as its paper does; those of pFID
    # unless given
    neighbors_in: ScoredImages | None = None
    # training images whose latents a small generator learns within minutes, to foretell how well an autoencoder
    # (a tokenizer without a codebook) will generate: pilot_fd, to be compared between autoencoders of one kind
    predict: ScoredImages | None = None
    # images of each set, at most, for precision, recall, density, coverage, KID, MIND, Vendi score, AuthPct and C_T,
    # 2,000 unless given; training images all count
    sample_size: Count | None = None
    # side in pixels at which the images of folders are scored, center crops as ADM's; that of the first image of
    # --generated unless given
    size: Count | None = None
    # compile the networks of features, and the step of a generator that draws token by token, for many images on a GPU;
    # the protocol says so
    compile: bool = False
    batch_size: Count = 125  # images that the tokenizer decodes at once
    name: str | None = None  # of the system, for compare; runs of one name are its seeds
    json: bool = False  # print records rather than a table
    out: OutFile | None = None  # file to write the records to

    def run(self) -> None:
        """A table of scores, or their records; under torchrun the main process prints and writes them."""
        from robustok.cli.scoring import as_text
        from robustok.runtime.checkpoint import write_json
        from robustok.runtime.distributed import is_main

        self._check_records()
        scores = self._scores()
        if not is_main():
            return
        records = [score.to_plain() for score in scores]
        print(json.dumps(records, indent=2) if self.json else as_text(scores), flush=True)
        if self.out:  # after the table, which is there whatever becomes of the file
            write_json(self.out, records)

    def _check_records(self) -> None:
        """Refuse, by a ValueError, to write over another kind of file, such as one of those that are to be scored."""
        from robustok.cli.images import check_outside

        if self.nearest is not None:
            check_outside(self.nearest, self, "generated", "reference", "train", what="--nearest")
            if self.nearest.exists():  # it may be a picture that somebody took
                raise ValueError(f"{self.nearest} is there already; remove it, or give another --nearest")
        if self.out is not None and self.out.is_file() and self.out.stat().st_size:
            self._check_alike(self.out)

    def _check_alike(self, out: Path) -> None:
        """Refuse, by a ValueError, a file of anything but what the same command would write: scores of that system."""
        from robustok.evaluation.scores.metric_names import variant_of
        from robustok.report.systems import CHANGE, read_scores

        try:
            with out.open("rb") as file:
                there = read_scores(out) if file.read(1) == b"[" else None  # it may be of many GB
        except ValueError:
            there = None
        if there is None:
            raise ValueError(f"{out} is there already and holds no records of scores; give another --out")
        head = next(HEADS[part] for part in self._given() if part in HEADS)
        own = {head + end for end in ("_before", "_after", CHANGE)} if self.against else {head}
        heads = {s.metric for s in there if variant_of(s.metric.removesuffix(CHANGE))[0] in HEADS.values()}
        names = {str(score.system["name"]) for score in there if "name" in score.system}
        if there and (heads != own or names - {self._name()}):
            what = sorted(names - {self._name()} or heads or {score.metric for score in there})
            raise ValueError(f"{out} is there already and holds other scores ({some(what)}); give another --out")

    def _name(self) -> str:
        """What the records call the system."""
        names = (self.generator, self.tokenizer, self.generated)
        return self.name or " + ".join(str(part) for part in names if part)

    def _given(self) -> list[str]:
        """Names of what was given to score. Raises ValueError where that is not enough, or too much."""
        from robustok.cli.images import is_statistics

        if self.typed and not self.generator:
            if not samplings_with(self.typed[0][0]):
                self.over(self.start())  # a misspelt option is told from a setting
            raise ValueError(f"--{self.typed[0][0]} says how a --generator is sampled, and there is none")
        given = [n for n in ("generator", "tokenizer", "generated", "images", "reference") if getattr(self, n)]
        for name in ("train", "fdr"):
            if getattr(self, name) and "reference" not in given:
                raise ValueError(f"--{name} is for generated images: give --generator or --generated, and --reference")
        if self.nearest and self.nearest.suffix.lower() != ".png":
            raise ValueError(f"--nearest is a PNG, and {self.nearest} does not end in .png; give another name")
        if self.nearest and (not self.train or is_statistics(self.train)):
            raise ValueError(
                "--nearest FILE.png shows images of --train, so give the images there, not their statistics"
            )
        if self.predict and given != ["tokenizer", "images"]:
            raise ValueError("--predict is for a --tokenizer before there is a generator: give that and --images")
        if self.against and given != ["generator", "tokenizer", "reference"]:
            raise ValueError("--against compares two tokenizers on the tokens of a --generator, with a --reference")
        if given in (["tokenizer", "images"], ["generator", "tokenizer", "reference"], ["generated", "reference"]):
            self._check_needed(given)
            return given
        raise ValueError(
            "evaluate takes --tokenizer and --images; or --generator, --tokenizer and --reference; or --generated and "
            "--reference"
        )

    def _check_needed(self, given: Sequence[str]) -> None:
        """Refuse, by a ValueError, options that what was given has no use for."""
        for name, part in PART_OF.items():
            if getattr(self, name) and part not in given:
                option, there = name.replace("_", "-"), " and ".join(f"--{other}" for other in given)
                raise ValueError(f"--{option} goes with --{part}, and here are {there}; leave --{option} out")

    def _scores(self) -> list[Any]:
        """Every score of what was given."""
        from robustok.cli import images, models, scoring
        from robustok.evaluation.scores import generator_scores, image_scores, tokenizer_scores
        from robustok.evaluation.scores.fdr6 import fdr_of
        from robustok.evaluation.scores.feature_stream import KEPT
        from robustok.evaluation.scores.score import of_system
        from robustok.generators.compiled import can_compile
        from robustok.generators.sampling import balanced_labels
        from robustok.losses.lpips import LPIPS

        given, view = self._given(), self.scored()
        of_any = (self.images, self.generated, self.reference, self.train, self.neighbors_in, self.predict)
        images.check_reading(self, *of_any)
        keep, count = self.sample_size or KEPT, self.count or COUNT
        how: dict[str, Any] = {"seed": self.seed, "batch_size": self.batch_size}
        device, tokenizer, generator = self.opened()
        if generator is not None:
            how["sampling"] = self.sampling(generator)
        size = self.size if tokenizer is None else tokenizer.image_size
        if self.size not in (None, size):
            raise ValueError(f"the tokenizer's images are {size} pixels, and so are all; leave out --size {self.size}")

        def opened(name: str | None) -> Any:
            return None if name is None else images.scored_images(name, size, view)

        shown = opened(self.images or self.generated)
        speed: dict[str, Any] = {"dtype": self.dtype, "compiled": self.compile}
        extractors = scoring.extractors_of(self.features, self.reference, device, fdr=self.fdr, **speed)
        references: list[Any] = []
        side = 0
        if self.reference is not None:
            side = size or images.own_size(self.generated or "", self.broken)
            references = scoring.references_of(self.reference, extractors, side, view, keep=keep, quiet=self.quiet)
            if self.train:
                references = scoring.with_train(self.train, references, extractors, side, view, quiet=self.quiet)
        pilots: list[Any] = []
        if self.predict:
            from robustok.training.pilot_distance import pilot_distance

            with scoring.told("pilot", quiet=self.quiet) as bar:
                learned = images.scored_images(self.predict, size, view, split="train")
                pilots = pilot_distance(tokenizer, shown, learned, extractors, progress=bar.tell, **how)
        with scoring.told("scoring", quiet=self.quiet) as bar:
            match given:
                case ["tokenizer", "images"]:
                    scores = tokenizer_scores.score_tokenizer(
                        tokenizer,
                        shown,
                        extractors,
                        pfid_images=self.pfid_images,
                        neighbors_in=opened(self.neighbors_in),
                        lpips=LPIPS(device=device) if self.lpips else None,
                        progress=bar.tell,
                        **how,
                    )
                case ["generator", "tokenizer", "reference"]:
                    labels = balanced_labels(count, generator.null_class)
                    how |= {"keep": keep, "progress": bar.tell}
                    if self.compile and can_compile(generator):
                        how["compile"] = "inductor"
                    decoders = tokenizer
                    if self.against:
                        before = models.tokenizer_named(self.against, device, self.fields)
                        decoders = {"before": before, "after": tokenizer}
                    scores = generator_scores.score_generator(
                        generator, decoders, references, labels, extractors, **how
                    )
                case _:
                    scores = image_scores.score_image_set(shown, references, extractors, keep=keep, progress=bar.tell)
        if self.nearest:
            self._show_nearest(shown, generator, tokenizer, references[0].train, extractors[0], side, how)
        scores = [*scores, *pilots, *(fdr_of(scores) if self.fdr else ())]
        return of_system(scores, name=self._name(), tokenizer=tokenizer, generator=generator)

    def _show_nearest(
        self, shown: Any, generator: Any, tokenizer: Any, train: Any, extract: Any, side: int, how: dict[str, Any]
    ) -> None:
        """The picture of some generated images, spread over their set or of every class in turn, in the first space."""
        import torch

        from robustok.cli import images, scoring
        from robustok.evaluation.decoding import decoded
        from robustok.evaluation.features.image_source import pixels_of
        from robustok.generators.generate import sample
        from robustok.generators.sampling import balanced_labels
        from robustok.runtime.distributed import is_main
        from robustok.runtime.seeding import spread

        assert self.nearest is not None
        assert self.train is not None
        if not is_main():
            return
        if generator is None:
            pixels = pixels_of(shown.images(spread(scoring.NEAREST, len(shown))))
        else:
            labels = balanced_labels(min(self.count or COUNT, scoring.NEAREST), generator.null_class)
            drawn = sample(generator, labels, how["sampling"], seed=self.seed, batch_size=len(labels))
            pixels = torch.cat(list(decoded(tokenizer, drawn)))
        size = None if images.is_npz(self.train) else side
        opened = images.scored_images(self.train, size, self.scored(), split="train")
        scoring.write_nearest(self.nearest, pixels, train, opened, extract)
        self.say(f"nearest training images: {self.nearest}")
