"""`robustok evaluate` and `robustok reference`."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.console import Console

from robustok.cli.images import device_of, is_npz, is_statistics, own_size, scored_images, scored_view, size_of
from robustok.cli.models import check_fit, generator_of, tokenizer_of
from robustok.cli.options import Command, table
from robustok.cli.results import sampling_of, sampling_preset
from robustok.evaluation.compare import score_decoders
from robustok.evaluation.evaluate import Score, score_generator, score_image_set, score_tokenizer
from robustok.evaluation.fdr6 import IMAGENET_256, fdr
from robustok.evaluation.features import Extractor, extractor
from robustok.evaluation.lpips import LPIPS
from robustok.evaluation.metric_names import arm_of
from robustok.evaluation.published import read_reference
from robustok.evaluation.reference import Reference
from robustok.evaluation.system import describe, of_system
from robustok.generators.sampling import balanced_labels
from robustok.report.system_table import protocol_of
from robustok.runtime.checkpoint import write_json
from robustok.runtime.distributed import is_main, processes
from robustok.runtime.logging import Progress
from robustok.runtime.words import counted

Tell = Callable[[int, int], None]


def evaluate(command: Command) -> None:
    """A table of scores, or their records; under torchrun the main process has the say."""
    with processes():
        _check_records(command.out)
        scores = _scores(command)
        if not is_main():
            return
        records = [score.to_plain() for score in scores]
        print(json.dumps(records, indent=2) if command.json else _as_text(scores), flush=True)
        if command.out:  # after the table, which is there whatever becomes of the file
            write_json(command.out, records)


def _check_records(out: Path | None) -> None:
    """Raises ValueError for a file of something else than records, such as one of those that are to be scored."""
    if out is not None and out.is_file():
        with out.open("rb") as file:
            start = file.read(1)
        if start not in (b"", b"["):
            raise ValueError(f"{out} is there already and holds no records of scores; give another --out")


def _as_text(scores: Sequence[Score]) -> str:
    """The table, what it means, and how it was computed."""
    parts = [table((_name(score, scores), _value(score)) for score in scores)]
    parts += [f"{_name(s, scores)}: {s.protocol['in_words']}" for s in scores if "in_words" in s.protocol]
    parts += dict.fromkeys(protocol_of(score) for score in scores if "reference" in score.protocol)
    return "\n\n".join(parts)


def _scores(command: Command) -> list[Score]:
    """What can be said of what was given. Raises ValueError where that is not enough, or too much."""
    if command.typed and not command.generator:
        command.over(sampling_preset())  # a misspelt option is told from a setting
        raise ValueError(f"--{command.typed[0][0]} says how a --generator is sampled, and there is none")
    given = [n for n in ("generator", "tokenizer", "generated", "images", "reference") if getattr(command, n)]
    if command.against and given != ["generator", "tokenizer", "reference"]:
        raise ValueError("--against compares two tokenizers on the tokens of a --generator, with a --reference")
    match given:
        case ["tokenizer", "images"]:
            return _of_tokenizer(command)
        case ["generator", "tokenizer", "reference"]:
            return _of_generator(command)
        case ["generated", "reference"]:
            return _of_images(command)
    raise ValueError(
        "evaluate takes --tokenizer and --images; or --generator, --tokenizer and --reference; or --generated and "
        "--reference"
    )


def _of_tokenizer(command: Command) -> list[Score]:
    device = device_of(command.device)
    tokenizer = tokenizer_of(command.tokenizer, device, command.fields)
    view = scored_view(command)
    images = scored_images(command.images, tokenizer.image_size, **view)
    with told(command, "scoring") as tell:
        scores = score_tokenizer(
            tokenizer,
            images,
            _extractors(command, None),
            pfid_images=command.pfid_images,
            neighbours_in=scored_images(command.neighbours_in, tokenizer.image_size, **view)
            if command.neighbours_in
            else None,
            lpips=LPIPS(device=device) if command.lpips else None,
            seed=command.seed,
            batch_size=command.batch_size,
            progress=tell,
        )
    return of_system(scores, describe(name=command.name or str(command.tokenizer), tokenizer=tokenizer))


def _of_generator(command: Command) -> list[Score]:
    device = device_of(command.device)
    tokenizer = tokenizer_of(command.tokenizer, device, command.fields)
    generator = generator_of(command.generator, device, tokenizer)
    check_fit(generator, tokenizer)
    sampling = sampling_of(command, generator)
    extractors = _extractors(command, command.reference)
    references = _references(command, extractors, tokenizer.image_size)
    labels = balanced_labels(command.count, generator.no_label)
    how = {"sampling": sampling, "seed": command.seed, "batch_size": command.batch_size, "keep": command.sample_size}
    with told(command, "scoring") as tell:
        if command.against:
            decoders = {"before": tokenizer_of(command.against, device, command.fields), "after": tokenizer}
            scores = score_decoders(generator, decoders, references, labels, extractors, **how, progress=tell)
        else:
            scores = score_generator(generator, tokenizer, references, labels, extractors, **how, progress=tell)
    name = command.name or f"{command.generator} + {command.tokenizer}"
    return of_system(scores + _fdr(command, scores), describe(name=name, tokenizer=tokenizer, generator=generator))


def _of_images(command: Command) -> list[Score]:
    images = scored_images(command.generated, command.size, **scored_view(command))
    extractors = _extractors(command, command.reference)
    references = _references(command, extractors, command.size or own_size(command.generated, broken=command.broken))
    with told(command, "scoring") as tell:
        scores = score_image_set(images, references, extractors, keep=command.sample_size, progress=tell)
    return of_system(scores + _fdr(command, scores), describe(name=command.name or command.generated))


def _extractors(command: Command, reference: str | None) -> list[Extractor]:
    """Those named; else that of the reference, where it is a file that has one; else the embedded one."""
    names = command.features.split(",") if command.features else [_space_of(reference)]
    if command.fdr and not {name.split(":")[0] for name in names} & IMAGENET_256.keys():
        raise ValueError(f"--fdr is a mean over feature spaces; name some: --features {','.join(IMAGENET_256)}")
    return [extractor(name, device_of(command.device)) for name in dict.fromkeys(names)]


def _space_of(reference: str | None) -> str:
    if reference is None or not is_statistics(reference):
        return "lite0"
    return str(Reference.load(reference).space["features"]) if reference.endswith(".safetensors") else "inception"


def _references(command: Command, extractors: Sequence[Extractor], size: int) -> list[Reference]:
    """The reference for each extractor, from a file of statistics or from images of that size."""
    keep, name = command.sample_size, command.reference
    with told(command, "reference") as tell:
        if is_statistics(name):
            return [read_reference(name, extract, keep=keep, progress=tell) for extract in extractors]
        images = scored_images(name, None if is_npz(name) else size, **scored_view(command))
        return [Reference.of(images, extract, keep=keep, progress=tell) for extract in extractors]


def _fdr(command: Command, scores: Sequence[Score]) -> list[Score]:
    """The mean of each decoder's distances over those of ImageNet, if it was asked for."""
    distances: dict[str, list[Score]] = {}
    for score in scores if command.fdr else ():
        metric, arm = arm_of(score.metric)
        if metric in ("fid", "gfid") and score.protocol["features"] in IMAGENET_256:
            distances.setdefault(arm, []).append(score)
    means = ((arm, fdr(found)) for arm, found in distances.items())
    return [replace(mean, metric=f"{mean.metric}_{arm}") if arm else mean for arm, mean in means]


def reference(command: Command) -> None:
    """The reference that images are, in a file; what was there and is another one stays, unless told otherwise."""
    out: Path = command.out
    if out.suffix != ".safetensors":  # by which evaluate knows it from images
        raise ValueError(f"{out} does not end in .safetensors, by which it is known as a reference; give another --out")
    with processes():
        extract = extractor(command.features, device_of(command.device))
        images = scored_images(command.images, command.size or _usual_size(command.images), **scored_view(command))
        about, space, sample = images.describe(), extract.describe(), min(len(images), command.sample_size)
        there = out.exists() and not command.overwrite
        if there:
            _check_same(out, {"images": about, "features": space, "sample": counted(sample, "image")})
        else:
            with told(command, "reference") as tell:
                made = Reference.of(images, extract, keep=command.sample_size, progress=tell)
            if is_main():
                made.save(out)
        if is_main() and not command.quiet:
            file = f"{out}, SHA-256 {sha256(out.read_bytes()).hexdigest()[:16]}" + ", as it was" * there
            held = f"{counted(sample, 'image')}, for precision, recall and kernel distances"
            print(table([("file", file), ("images", in_words(about)), ("features", in_words(space)), ("sample", held)]))


def in_words(about: Mapping[str, Any]) -> str:
    """`name photos, count 5000`."""
    return ", ".join(f"{name} {value}" for name, value in about.items())


def _check_same(out: Path, wanted: Mapping[str, Any]) -> None:
    """Raises ValueError when the file is not the reference that is wanted."""
    remedy = "choose another file, or add --overwrite"
    try:
        there = Reference.load(out)
    except ValueError as error:
        raise ValueError(f"{out} is there already and is no reference; {remedy}") from error
    found = {"images": there.images, "features": there.space, "sample": counted(len(there.sample), "image")}
    for name, value in found.items():
        if value != wanted[name]:
            text = in_words(value) if isinstance(value, Mapping) else value
            raise ValueError(f"{out} is there already and holds another reference ({name}: {text}); {remedy}")


@contextmanager
def told(command: Command, name: str) -> Iterator[Tell]:
    """Progress of a piece of work, on stderr and of the main process alone."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with Progress(name, 1, quiet=command.quiet or not is_main(), console=console) as progress:

        def tell(done: int, total: int) -> None:
            progress.total = total
            progress.update(done)

        yield tell


def _usual_size(name: str) -> int | None:
    return None if is_npz(name) else size_of(name)


def _name(score: Score, scores: Sequence[Score]) -> str:
    """`pfid_cell, alpha 0.9, delta 8`: the metric, and what tells it from its like."""
    several = len({s.protocol["features"] for s in scores if "features" in s.protocol}) > 1
    parts = [score.protocol["features"]] if several and "features" in score.protocol else []
    parts += [f"{part} {score.protocol[part]}" for part in ("alpha", "delta", "strength") if part in score.protocol]
    return ", ".join([score.metric, *parts])


def _value(score: Score) -> str:
    bounds = "" if score.interval is None else f"   95 %: {score.interval[0]:.4g} to {score.interval[1]:.4g}"
    return f"{score.value:<10.4g} {counted(score.images, 'image')}{bounds}"
